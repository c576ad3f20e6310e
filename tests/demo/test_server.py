"""What the page lets in and sends out, without a browser."""

import re

import pytest

from siglip_med.core.errors import UserError
from siglip_med.demo.page import sentences_of
from siglip_med.demo.server import DemoServer, is_loopback
from tests.demo.conftest import LIMITS


def test_a_port_that_is_taken_or_an_address_that_is_not_ours_is_one_line():
    first = DemoServer("127.0.0.1", 0, LIMITS)
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=[\w-]{32}", first.url)[1])
    with pytest.raises(UserError, match=rf"^host=127\.0\.0\.1 port={port}: cannot listen there \(address already"):
        DemoServer("127.0.0.1", port, LIMITS)
    first.close()
    DemoServer("127.0.0.1", port, LIMITS).close()
    with pytest.raises(UserError, match=r"^host=192\.0\.2\.1 port=0: cannot listen there"):
        DemoServer("192.0.2.1", 0, LIMITS)


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.7", False)],
)
def test_only_this_machines_own_addresses_need_no_warning(host, alone):
    assert is_loopback(host) == alone


def test_sentences_are_lines_without_repeats_and_limited():
    assert sentences_of(" a \n\nb\na", 2) == ["a", "b"]
    with pytest.raises(UserError, match="Write a sentence first"):
        sentences_of(" \n", 2)
    with pytest.raises(UserError, match="3 sentences are more than the limit of 2"):
        sentences_of("a\nb\nc", 2)


def test_a_token_is_drawn_or_given_and_can_be_left_out_on_this_machine_alone():
    drawn = [DemoServer("127.0.0.1", 0, LIMITS) for _ in range(2)]
    assert drawn[0].token != drawn[1].token
    given = DemoServer("127.0.0.1", 0, LIMITS, "long-enough")
    assert given.url.endswith("/?token=long-enough")
    without = DemoServer("localhost", 0, LIMITS, "none")
    assert "token" not in without.url
    for server in (*drawn, given, without):
        server.close()
    with pytest.raises(UserError, match=r"^token=none host=0\.0\.0\.0: a page that other machines reach needs a token"):
        DemoServer("0.0.0.0", 0, LIMITS, "none")
    with pytest.raises(UserError, match=r"^token: 8 to 128 letters"):
        DemoServer("127.0.0.1", 0, LIMITS, "short")
