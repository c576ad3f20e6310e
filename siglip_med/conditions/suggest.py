"""Proposes ICD-10-CM codes, or known conditions, for a text."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from rapidfuzz import fuzz, process

from siglip_med.conditions.codes import Code, read_code_book
from siglip_med.conditions.curated import VOCABULARIES, read_table

SKIN_CHAPTER = "12"
CURATED_BONUS, SKIN_BONUS, UNSPECIFIED_WEIGHT = 1.2, 1.1, 0.05
DESCRIBED_WEIGHT = 0.75
"""A description is long, so it is judged by how much of the text it has, a little below a name with the same words."""
SPELLING_CUTOFF, NAME_CUTOFF = 75, 60
LATER_ENCOUNTERS = (", subsequent encounter", ", sequela")
"""Codes of a later visit repeat those of the first; they would crowd out every other suggestion."""
ARTICLES = ("a", "an", "and", "by", "due", "for", "in", "not", "of", "on", "or", "the", "to", "with")
IGNORED = frozenset((*ARTICLES, "like", "nec", "nos", "other", "shaped", "specified", "unspecified"))
CLINICAL = {"boil": "furuncle", "coin": "nummular", "eczema": "dermatitis", "hive": "urticaria", "ringworm": "tinea"}
"""Plain words for which ICD-10-CM has another: both are read as the latter."""


class Suggestion(NamedTuple):
    """A code, its title, the wording that matched, and how well it did (0 to 1.2, higher is nearer)."""

    code: str
    title: str
    matched: str
    score: float


class _Wording(NamedTuple):
    code: Code
    text: str
    words: frozenset[str]
    bonus: float
    described: frozenset[str] = frozenset()


def suggest_codes(text: str, limit: int = 5) -> list[Suggestion]:
    """The complete codes whose title, inclusion terms or curated names are nearest to a text, best first.

    A wording scores the Dice coefficient of its words with the text's, each word weighted by its inverse document
    frequency (Spärck Jones 1972); curated names count 20% more and the skin chapter 10% more, since the text names a
    skin condition. Of a curated condition the description counts too: by the share of the text's words that it or the
    name has. A word that no wording has is first replaced by the most similarly spelled one (rapidfuzz).
    """
    wordings, weights = _index()
    wanted = frozenset(_spelled_like(word, weights) for word in _words(text)) - {""}
    total = sum(weights[word] for word in wanted)
    best: dict[str, Suggestion] = {}
    for wording in wordings:
        named = sum(weights[word] for word in wanted & wording.words)
        described = sum(weights[word] for word in wanted & wording.described)
        if not named and not described:
            continue
        own = sum(weights[word] for word in wording.words)
        score = wording.bonus * max(2 * named / (total + own), DESCRIBED_WEIGHT * described / total)
        code = wording.code.code
        if code not in best or score > best[code].score:
            best[code] = Suggestion(code, wording.code.title, wording.text, score)
    return sorted(best.values(), key=lambda found: (-found.score, len(found.code), found.code))[:limit]


def suggest_names(text: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """The names spelled most like a text, best first; none if all are far."""
    folded = {name.casefold(): name for name in names}
    near = process.extract(text.casefold(), list(folded), scorer=fuzz.ratio, limit=limit, score_cutoff=NAME_CUTOFF)
    return [folded[name] for name, _, _ in near]


def is_english(text: str) -> bool:
    """Whether at least half of a text's words are words of ICD-10-CM or of the curated tables, and none holds a digit.

    So it tells names of conditions from keys (``0``, ``label_AKIEC``) and from names in another language.
    """
    words = _words(text)
    _, weights = _index()
    if not words or any(character.isdigit() or character == "_" for character in text):
        return False
    return 2 * sum(word in weights for word in words) >= len(words)


def in_words(suggestions: Sequence[Suggestion]) -> str:
    """Suggestions as one line for an error message."""
    return ", ".join(f"{found.code} ({found.title})" for found in suggestions) or "none"


@cache
def _index() -> tuple[tuple[_Wording, ...], dict[str, float]]:
    """All wordings of complete codes, and the weight of each word in them."""
    book = read_code_book()
    wordings = []
    for code in book.codes.values():
        if code.leaf and not any(later in code.title for later in LATER_ENCOUNTERS):
            bonus = SKIN_BONUS if code.path[0] == SKIN_CHAPTER else 1.0
            wordings += [_Wording(code, text, _words(text), bonus) for text in (code.title, *code.terms)]
    for condition in (condition for vocabulary in VOCABULARIES for condition in read_table(vocabulary)):
        code = book.codes[condition.code]
        names = (condition.name, condition.phrase, *condition.synonyms)
        described = _words(f"{condition.name} {condition.phrase} {condition.description}")
        wordings += [_Wording(code, name, _words(name), CURATED_BONUS, described) for name in names]
    frequency = Counter(word for wording in wordings for word in wording.words | wording.described)
    weights = {word: math.log(len(wordings) / count) for word, count in frequency.items()}
    weights.update(dict.fromkeys(IGNORED & weights.keys(), UNSPECIFIED_WEIGHT))
    return tuple(wordings), weights


def _words(text: str) -> frozenset[str]:
    """Words of a text: lower case, no accents, singular."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().casefold().replace("'s", "")
    singular = (_singular(word) for word in re.findall(r"[a-z0-9]+", plain))
    return frozenset(CLINICAL.get(word, word) for word in singular)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _spelled_like(word: str, weights: dict[str, float]) -> str:
    if word in weights:
        return word
    near = process.extractOne(word, list(weights), scorer=fuzz.ratio, score_cutoff=SPELLING_CUTOFF)
    return near[0] if near else ""
