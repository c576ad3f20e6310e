"""Reads single cells: weights, skin types, ages, sexes and split names, each in the spellings that tables use."""

import math
import re

from siglip_med.data.table import SPLITS
from siglip_med.errors import UserError

UNKNOWN = frozenset(
    {"", "-1", "-1.0", "na", "n/a", "nan", "none", "null", "unknown", "not specified", "unspecified", "?"}
)
"""Spellings of "not known", in lower case."""

_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6"}
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}
_SPLIT = {"valid": "val", "validation": "val", "dev": "val", "training": "train"}


def parse_weight(text: str, where: str) -> float:
    """A weight as a number from 0 to 1.

    Raises:
        UserError: it is none (NaN and infinity included).
    """
    try:
        weight = float(text)
    except ValueError as error:
        raise UserError(f"{where}: weight {text!r} is no number; give one from 0 to 1") from error
    if not math.isfinite(weight) or not 0 <= weight <= 1:
        raise UserError(f"{where}: weight {text!r} is outside 0 to 1")
    return weight


def parse_skin_tone(text: str, where: str) -> str:
    """A Fitzpatrick type as "1" to "6", or "" where unknown; reads 3, 3.0, III, FST3 and "Type 3".

    Raises:
        UserError: it is something else.
    """
    value = text.strip().lower()
    if value in UNKNOWN:
        return ""
    value = re.sub(r"^(fst|type|fitzpatrick)[\s_]*", "", value)
    value = _ROMAN.get(value, value).removesuffix(".0")
    if value in _ROMAN.values():
        return value
    raise UserError(f"{where}: skin tone {text!r} is no Fitzpatrick type from 1 to 6; leave unknown ones empty")


def parse_sex(text: str) -> str:
    """``female`` or ``male`` however they are spelled, "" where unknown, anything else as written."""
    value = text.strip().lower()
    return "" if value in UNKNOWN else _SEX.get(value, text.strip())


def parse_age_group(text: str) -> str:
    """An age in years as its decade ("50-59", "80+"), "" where unknown, a group as written."""
    value = text.strip()
    if value.lower() in UNKNOWN:
        return ""
    try:
        age = float(value)
    except ValueError:
        return value
    if not 0 <= age < 130:
        return value
    decade = int(age) // 10 * 10
    return "80+" if decade >= 80 else f"{decade}-{decade + 9}"


def parse_text(text: str) -> str:
    """Text without blanks around it, "" where it says that nothing is known."""
    value = text.strip()
    return "" if value.lower() in UNKNOWN else value


def parse_split(text: str, where: str) -> str:
    """``train``, ``val`` or ``test`` (also valid, validation, dev, training), "" where the cell is empty.

    Raises:
        UserError: it is something else.
    """
    value = text.strip().lower()
    value = _SPLIT.get(value, value)
    if value not in ("", *SPLITS):
        raise UserError(f"{where}: split {text!r} is none of {', '.join(SPLITS)}")
    return value
