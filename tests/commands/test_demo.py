"""The command behind the page: what it needs, says and refuses before anybody clicks."""

import re
import sys

import pytest

from siglip_med.commands import demo
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.demo.server import DemoServer
from siglip_med.export import export_checkpoint
from tests.demo.conftest import LIMITS
from tests.short_runs import compose_config


def settings(checkpoint, *overrides):
    words = (f"checkpoint='{checkpoint}'", "device=cpu", "port=0", *overrides)  # the last port counts
    return typed(compose_config(*words, name="demo"), demo.Settings)


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"^siglip-med-demo needs gradio: pip install 'siglip-med\[demo\]'$"):
        demo.run(settings("any.ckpt"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("limits.pixels=200000000", r"^limits\.pixels: input should be less than or equal to 178956970"),
        ("limits.files=0", r"^limits\.files: "),
        ("limits.megabyte=3", r"^limits\.megabyte|^limits"),
        ("coverage=1.5", r"^coverage: "),
        ("port=70000", r"^port: "),
    ],
)
def test_wrong_limits_stop_with_their_name(override, message):
    with pytest.raises(UserError, match=message):
        settings("any.ckpt", f"+{override}" if "megabyte=" in override else override)


def test_a_run_has_prediction_sets_and_an_export_of_it_has_none(short_run, tmp_path):
    result = demo.run(settings(short_run.best))
    result.server.close()
    assert len(result.answerer.validation) == len(short_run.tuned.val)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", result.server.url)
    folder = export_checkpoint(short_run.best, "merged", tmp_path / "merged")
    exported = demo.run(settings(folder))
    exported.server.close()
    assert exported.answerer.validation is None
    assert len(result.answerer.training) == len(short_run.components.data.split.train)
    assert result.lacking == ""
    assert exported.answerer.training is None
    assert exported.lacking.startswith("no training cases: an export holds none")
    assert exported.answerer.icd.conditions.names == result.answerer.icd.conditions.names


def test_a_checkpoint_that_is_not_there_gives_the_port_back(tmp_path):
    first = DemoServer("127.0.0.1", 0, LIMITS)
    first.close()
    with pytest.raises(UserError, match="no checkpoint") as caught:
        demo.run(settings(tmp_path / "none.ckpt", f"port={first.port}"))
    DemoServer("127.0.0.1", first.port, LIMITS).close()
    assert caught.value.__traceback__ is not None  # it holds the command's variables: no garbage collector closed it


def test_what_the_page_lacks_and_who_can_reach_it_is_said(capsys):
    class Nothing:
        host = "0.0.0.0"
        token = None
        validation = None

        def running(self, answerer, coverage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.show(demo.Result(Nothing(), Nothing(), 0.9, "no training cases: why"))
    said = capsys.readouterr().out
    assert "no prediction sets" in said
    assert "no training cases: why" in said
    assert "warning: host=0.0.0.0 lets everyone who has the address below, token included, drop photographs" in said
    assert "token=none: every user of this machine can open the page" in said
