"""Curves of a run: the same from every logger that wrote them."""

import pandas as pd
import pytest

from siglip_med.core.errors import UserError
from siglip_med.report import read_curves


def test_curves_from_tensorboard_csv_logger_and_scalars_agree(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    rows = [("loss/total", 0, 1.5), ("loss/total", 10, 0.5), ("val/r_at_5", 10, 0.25)]
    for kind in ("events", "csv", "scalars", "none"):
        (tmp_path / kind).mkdir()
    with SummaryWriter(tmp_path / "events" / "tensorboard") as writer:
        for tag, step, value in rows:
            writer.add_scalar(tag, value, step)
    wide = pd.DataFrame({"step": [0, 10], "loss/total": [1.5, 0.5], "val/r_at_5": [None, 0.25]})
    (tmp_path / "csv" / "csv").mkdir()
    wide.to_csv(tmp_path / "csv" / "csv" / "metrics.csv", index=False)
    pd.DataFrame(rows, columns=["tag", "step", "value"]).to_csv(tmp_path / "scalars" / "scalars.csv", index=False)
    for kind in ("events", "csv", "scalars"):
        found = sorted(read_curves(tmp_path / kind).itertuples(index=False, name=None))
        assert found == rows, kind
    assert read_curves(tmp_path / "none").empty


def test_a_scalars_file_without_steps_is_refused(tmp_path):
    (tmp_path / "scalars.csv").write_text("tag,value\nloss/total,1\n")
    with pytest.raises(UserError, match=r"scalars\.csv: no column step"):
        read_curves(tmp_path)
