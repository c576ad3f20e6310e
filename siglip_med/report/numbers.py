"""How numbers are written for people."""

import math

from siglip_med.metrics import Interval, PairedResult
from siglip_med.report.page import NOT_DEFINED


def number(value: float | None, digits: int = 3) -> str:
    """``0.483``; a dash where the value is undefined."""
    return NOT_DEFINED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    """``48%``; one decimal below 10%."""
    if not math.isfinite(value):
        return NOT_DEFINED
    return f"{value:.1%}" if 0 < abs(value) < 0.0995 else f"{value:.0%}"


def interval_range(interval: Interval) -> str:
    """``[0.431, 0.530]``, or nothing where the interval is undefined."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def with_range(interval: Interval) -> str:
    """``0.483 [0.431, 0.530]``."""
    return f"{number(interval.estimate)} {interval_range(interval)}".rstrip()


def p_value(value: float) -> str:
    """``p 0.012``; ``p < 0.001`` below that."""
    if not math.isfinite(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


def change(result: PairedResult) -> str:
    """``+0.120 [+0.081, +0.160], p < 0.001``."""
    if not math.isfinite(result.difference):
        return NOT_DEFINED
    ends = f" [{result.low:+.3f}, {result.high:+.3f}]" if math.isfinite(result.low) else ""
    test = p_value(result.p_value)
    return f"{result.difference:+.3f}{ends}{', ' + test if test else ''}"
