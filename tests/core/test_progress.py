"""Redirected work says in lines where it is; a bar would leave nothing there."""

import logging

from siglip_med.core import progress as tracking
from siglip_med.core.progress import tracked


def lines(caplog, items, **settings) -> list[str]:
    with caplog.at_level(logging.INFO):
        assert list(tracked(items, "predicting val", **settings)) == list(items)
    return [record.getMessage() for record in caplog.records]


def test_a_line_at_the_end_and_one_every_few_seconds(caplog, monkeypatch):
    clock = iter([0.0, 10.0, 31.0, 45.0, 62.0, 62.0])
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    assert lines(caplog, [1, 2, 3, 4], unit="images") == [
        "predicting val: 2 of 4 images, 0:00:31 left",
        "predicting val: 4 of 4 images, 0:00:00 left",
        "predicting val: done, 4 images in 62.0 s",
    ]


def test_nothing_is_said_where_nothing_is_wanted(caplog):
    assert lines(caplog, [1], shown=False) == []
