"""The curves that a run logged, from whichever logger wrote them."""

from pathlib import Path

import pandas as pd

from siglip_med.core.errors import UserError
from siglip_med.report.inputs import CURVE_COLUMNS

SCALARS_FILE = "scalars.csv"


def read_curves(folder: Path) -> pd.DataFrame:
    """Columns ``tag``, ``step``, ``value`` of what a run logged; no rows where that is nothing.

    From ``scalars.csv``, else TensorBoard events anywhere in the folder, else the ``metrics.csv`` of Lightning.

    Raises:
        UserError: ``scalars.csv`` lacks a column.
    """
    if (folder / SCALARS_FILE).is_file():
        scalars = pd.read_csv(folder / SCALARS_FILE)
        missing = [name for name in CURVE_COLUMNS if name not in scalars]
        if missing:
            raise UserError(f"{folder / SCALARS_FILE}: no column {missing[0]}; it needs {', '.join(CURVE_COLUMNS)}")
        return scalars[list(CURVE_COLUMNS)]
    events = sorted({path.parent for path in folder.rglob("events.out.tfevents.*")})
    curves = [_from_events(path) for path in events]
    if not any(len(curve) for curve in curves):
        curves = [_from_csv(path) for path in sorted(folder.rglob("metrics.csv"))]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return pd.DataFrame(columns=list(CURVE_COLUMNS))
    # a resumed run logs the steps since its checkpoint again: the last word counts
    return pd.concat(curves).drop_duplicates(["tag", "step"], keep="last").reset_index(drop=True)


def _from_events(folder: Path) -> pd.DataFrame:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    accumulator.Reload()
    rows = [(tag, e.step, e.value) for tag in accumulator.Tags()[SCALARS] for e in accumulator.Scalars(tag)]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _from_csv(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    if "step" not in table:
        return pd.DataFrame(columns=list(CURVE_COLUMNS))
    long = table.melt(id_vars="step", var_name="tag", value_name="value").dropna(subset="value")
    return long[list(CURVE_COLUMNS)]
