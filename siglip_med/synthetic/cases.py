"""Which cases there are: a long tail of conditions, differentials, skin tones and people."""

from dataclasses import dataclass, replace

import numpy as np

from siglip_med.synthetic.recipes import Recipe
from siglip_med.synthetic.vocabulary import SKIN_TONES, Layer

MIN_CASES = 3
"""Cases of the rarest conditions, so that train, val and test can each hold one."""

# SCIN's 2,775 cases of the 66 conditions: shares of images per case and of labels per case, weights of a differential.
_VIEWS = (0.351, 0.169, 0.480)
_LISTED = (0.28, 0.35, 0.32, 0.05)
_WEIGHTS = {
    1: (((1.0,), 1.0),),
    2: (((0.67, 0.33), 0.62), ((0.5, 0.5), 0.38)),
    3: (((0.55, 0.23, 0.23), 0.35), ((0.33, 0.33, 0.33), 0.32), ((0.55, 0.27, 0.18), 0.18), ((0.41, 0.41, 0.18), 0.15)),
    4: (((0.4, 0.2, 0.2, 0.2), 0.5), ((0.25, 0.25, 0.25, 0.25), 0.5)),
}
# SCIN's, with more of type VI: 22 cases in 2,775 would leave no subgroup to measure.
_TONES = (0.12, 0.28, 0.26, 0.17, 0.11, 0.06)
_AGES = ("18-29", "30-39", "40-49", "50-59", "60-69", "70-79")
_AGE_SHARES = (0.35, 0.20, 0.19, 0.13, 0.08, 0.05)


@dataclass(frozen=True)
class Case:
    """One patient contribution before it is drawn.

    Attributes:
        number: its place in the data set, and the seed of its appearance.
        weights: condition -> weight, the primary first; sums to 1 but for rounding, as in SCIN.
        layers: kinds of lesion, drawn in this order.
        tone: skin type, 1 to 6.
        site: of the body.
        views: number of pictures.
        skin_tone: in the table; "" where it was not recorded.
        sex: in the table; "" where it was not recorded.
        age_group: in the table; "" where it was not recorded.
    """

    number: int
    weights: dict[str, float]
    layers: tuple[Layer, ...]
    tone: int
    site: str
    views: int
    skin_tone: str
    sex: str
    age_group: str


def _case_counts(recipes: tuple[Recipe, ...], n_images: int) -> np.ndarray:
    views = float(np.dot(_VIEWS, [1, 2, 3]))
    scin = np.array([recipe.cases for recipe in recipes], float)
    wanted = n_images / views
    counts = np.maximum(MIN_CASES, np.round(scin / scin.sum() * wanted)).astype(int)
    # The floor of the rare ones is paid by the most common, or a small set would not keep its size.
    while counts.sum() > max(wanted, len(counts) * MIN_CASES):
        counts[counts.argmax()] -= 1
    return counts


def _views(rng: np.random.Generator, n_cases: int, n_images: int) -> np.ndarray:
    views = rng.choice([1, 2, 3], size=n_cases, p=_VIEWS)
    while (excess := int(views.sum()) - n_images) != 0:
        room = np.flatnonzero(views > 1) if excess > 0 else np.flatnonzero(views < 3)
        moved = rng.permutation(room)[: abs(excess)]
        views[moved] -= np.sign(excess)
    return views


def _differential(rng: np.random.Generator, recipe: Recipe) -> dict[str, float]:
    n = min(int(rng.choice([1, 2, 3, 4], p=_LISTED)), 1 + len(recipe.listed_with))
    others: list[str] = []
    if n > 1:
        names = list(recipe.listed_with)
        share = np.array([recipe.listed_with[name] for name in names], float)
        others = [names[k] for k in rng.choice(len(names), size=n - 1, replace=False, p=share / share.sum())]
    patterns = _WEIGHTS[n]
    weights = patterns[int(rng.choice(len(patterns), p=[share for _, share in patterns]))][0]
    return dict(zip([recipe.condition, *others], weights, strict=True))


def _blend(
    rng: np.random.Generator, layers: tuple[Layer, ...], other: tuple[Layer, ...], weight: float
) -> tuple[Layer, ...]:
    """Why dermatologists list two conditions: the picture has something of the second."""
    first, theirs = layers[0], other[0]
    for name in ("color", "surface", "border", "halo"):
        if rng.random() < 0.4 * weight and not (name == "color" and first.lesion in ("vesicle", "pustule", "bulla")):
            first = replace(first, **{name: getattr(theirs, name)})
    rest = layers[1:]
    if len(rest) and rng.random() < 0.4 * weight:
        rest = rest[:-1]
    if len(other) > 1 and rng.random() < 0.6 * weight:
        rest = (*rest, other[1])
    return (first, *rest)


def plan_cases(recipes: tuple[Recipe, ...], n_images: int, seed: int) -> list[Case]:
    """Draw the cases of a data set of exactly ``n_images`` pictures.

    Args:
        recipes: the conditions; their SCIN counts set the long tail.
        n_images: at least `MIN_CASES` times the number of recipes.
        seed: same seed, same cases.
    """
    rng = np.random.default_rng([seed, 0])
    by_name = {recipe.condition: recipe for recipe in recipes}
    counts = _case_counts(recipes, n_images)
    primaries = rng.permutation(np.repeat(np.arange(len(recipes)), counts))
    views = _views(rng, len(primaries), n_images)
    cases = []
    for number, (primary, n_views) in enumerate(zip(primaries, views, strict=True)):
        recipe = recipes[primary]
        weights = _differential(rng, recipe)
        layers = recipe.layers
        for name, weight in list(weights.items())[1:]:
            layers = _blend(rng, layers, by_name[name].layers, weight / max(weights.values()))
        sites = np.array(list(recipe.sites.values()))
        tone = int(rng.choice(len(SKIN_TONES), p=_TONES)) + 1
        cases.append(
            Case(
                number=number,
                weights=weights,
                layers=layers,
                tone=tone,
                site=list(recipe.sites)[int(rng.choice(len(sites), p=sites / sites.sum()))],
                views=int(n_views),
                skin_tone="" if rng.random() < 0.05 else str(tone),
                sex=str(rng.choice(["female", "male", ""], p=[0.45, 0.35, 0.20])),
                age_group="" if rng.random() < 0.25 else _AGES[int(rng.choice(len(_AGES), p=_AGE_SHARES))],
            )
        )
    return cases
