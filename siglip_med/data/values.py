"""Reads single cells: what means "not known", weights, skin types, ages, sexes, in the spellings that tables use."""

import math
import re
import unicodedata

from siglip_med.core.errors import UserError

UNKNOWN = frozenset(
    (
        "",
        *("-1", "-1.0", "-", "--", ".", "?", "na", "n/a", "#n/a", "#na", "<na>", "n.a.", "nan", "nat", "nil"),
        *("none", "null", "unk", "unknown", "not known", "not specified", "unspecified", "not available"),
        *("not recorded", "not reported", "not provided", "missing", "undefined", "undetermined", "no data"),
        *("other_or_unspecified", "none_identified", "prefer not to say", "unbekannt", "keine angabe", "k.a."),
    )
)
"""Spellings of "not known", in lower case: the same in every column of every source."""

SKIN_TONES = ("", "1", "2", "3", "4", "5", "6", "1-2", "3-4", "5-6")
"""Fitzpatrick types, and the pairs that some data sets stop at; "" is not known."""

_YES = frozenset({"true", "t", "yes", "y", "x", "✓", "✔", "ja", "j", "wahr", "positive", "pos"})
_NO = frozenset({"false", "f", "no", "n", "nein", "falsch", "negative", "neg"})
_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6"}
_SEX = {"f": "female", "female": "female", "w": "female", "woman": "female", "weiblich": "female"}
_SEX |= {"m": "male", "male": "male", "man": "male", "männlich": "male"}
_SPLIT = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
_SPLITS = ("", "train", "val", "test")


def is_unknown(text: str) -> bool:
    """Whether a cell says that nothing is known."""
    return " ".join(text.split()).casefold() in UNKNOWN


def parse_text(text: str) -> str:
    """Text without blanks around it, in Unicode's composed form; "" where it says that nothing is known."""
    value = unicodedata.normalize("NFC", " ".join(text.split()))
    return "" if is_unknown(value) else value


def parse_number(text: str) -> float:
    """A number with a decimal point or a decimal comma (``23,5``), else a ValueError."""
    value = text.strip()
    if value.count(",") == 1 and "." not in value:
        value = value.replace(",", ".")
    return float(value)


def parse_flag(text: str, where: str) -> float:
    """1, 0, a weight, yes or no, true or false, a cross; unknown is 0, and anything else a UserError."""
    value = text.strip().casefold()
    if value in _YES:
        return 1.0
    if value in _NO or is_unknown(value):
        return 0.0
    return parse_weight(text, where)


def parse_weight(text: str, where: str) -> float:
    """A weight as a number from 0 to 1; a UserError for anything else, NaN and infinity included."""
    try:
        weight = parse_number(text)
    except ValueError as error:
        raise UserError(f"{where}: weight {text!r} is no number; give one from 0 to 1") from error
    if not math.isfinite(weight) or not 0 <= weight <= 1:
        raise UserError(f"{where}: weight {text!r} is outside 0 to 1")
    return weight


def parse_skin_tone(text: str, where: str) -> str:
    """A Fitzpatrick type as "1" to "6" (3, 3.0, III, FST3, "Type 3"), "" where unknown, else a UserError.

    Of pairs (12, I-II, 3/4), as DDI has them, "1-2", "3-4" and "5-6".
    """
    if is_unknown(text):
        return ""
    value = re.sub(r"^(fst|skin type|type|fitzpatrick)[\s_]*", "", text.strip().casefold())
    value = value.removesuffix(".0").removesuffix(",0")
    parts = [_ROMAN.get(part, part) for part in re.split(r"\s*(?:-|–|/|to|and)\s*", value)]
    if len(parts) == 1 and re.fullmatch("12|34|56", parts[0]):
        parts = list(parts[0])
    tone = "-".join(parts)
    if tone in SKIN_TONES and tone:
        return tone
    raise UserError(
        f"{where}: skin tone {text!r} is no Fitzpatrick type from 1 to 6 (or 12, 34, 56); leave unknown ones empty"
    )


def parse_sex(text: str) -> str:
    """``female`` or ``male`` however they are spelled, "" where unknown, anything else as written."""
    value = parse_text(text)
    return _SEX.get(value.casefold(), value)


def parse_age_group(text: str) -> str:
    """An age in years as its decade ("50-59", "80+"), "" where unknown, a group as written."""
    value = parse_text(text)
    try:
        age = parse_number(re.sub(r"(?i)\s*(years?|yrs?|y|jahre?)\.?$", "", value))
    except ValueError:
        return value
    if not 0 <= age < 130:
        return value
    decade = int(age) // 10 * 10
    return "80+" if decade >= 80 else f"{decade}-{decade + 9}"


def parse_split(text: str, where: str) -> str:
    """``train``, ``val`` or ``test`` (also valid, dev, training, …), "" where none is known, else a UserError."""
    if is_unknown(text):
        return ""
    value = text.strip().casefold()
    value = _SPLIT.get(value, value)
    if value not in _SPLITS:
        raise UserError(f"{where}: split {text!r} is none of {', '.join(_SPLITS[1:])}")
    return value
