"""Sentences about what a picture shows: lesions, skin and site, never the name of a condition."""

from collections.abc import Sequence

import numpy as np

from siglip_med.synthetic.geometry import Lesions
from siglip_med.synthetic.renderer import Appearance
from siglip_med.synthetic.vocabulary import Layer

LESION_WORDS = {
    "macule": ("flat spot", "macule", "flat round spot"),
    "patch": ("flat patch", "patch", "patch", "sheet"),
    "papule": ("papule", "bump", "dome-shaped papule", "raised spot"),
    "flat papule": ("flat-topped papule", "flat-topped bump"),
    "plaque": ("plaque", "thick plaque", "raised plaque"),
    "nodule": ("nodule", "firm nodule", "dome-shaped nodule", "lump"),
    "wheal": ("wheal", "swollen papule", "raised smooth wheal", "swelling"),
    "vesicle": ("vesicle", "small blister", "clear blister"),
    "bulla": ("tense blister", "large blister", "bulla"),
    "pustule": ("pustule", "yellow-white pustule", "pus point"),
    "comedo": ("dark plug", "comedo"),
    "ulcer": ("ulcer", "punched-out ulcer", "shallow ulcer"),
    "erosion": ("erosion", "shallow erosion", "raw break in the skin"),
    "scar": ("healed fibrous mark", "shiny healed mark"),
    "scratch": ("scratch mark", "scratch line"),
    "fissure": ("fissure", "crack", "cut"),
    "burrow": ("fine wavy thread-like burrow", "burrow with a tiny dark dot"),
    "vessel": ("fine branching vessel", "visible fine vessel"),
}

SURFACE_WORDS = {
    "smooth": ("smooth", "smooth, without scale", "without scale or crust"),
    "shiny": ("shiny", "with taut shiny surface", "smooth and shiny"),
    "fine scale": ("with fine scale", "scaly", "with powdery fine scale"),
    "silver scale": ("with silvery-white scale", "with thick silvery scale"),
    "adherent scale": ("with adherent scale", "with white adherent scale", "scaly"),
    "greasy scale": ("with greasy yellow scale", "with greasy yellow-white scale"),
    "collarette": ("with inner collar of fine scale", "with a ring of fine scale"),
    "gritty": ("rough, gritty", "rough, with yellowish keratin"),
    "keratin": ("with thick keratin", "scaly, with thick yellow keratin"),
    "yellow crust": ("with honey-yellow crust", "covered by stuck-on yellow crust", "with yellow crust"),
    "dark crust": ("with dark red-brown dried crust", "with brown-black crust", "beneath a thick dark crust"),
    "weeping": ("weeping", "moist and oozing", "moist, glazed", "oozing"),
    "leathery": ("leathery, with deepened skin lines", "thickened, with accentuated lines", "leathery"),
    "warty": ("rough, cauliflower-like, with tiny dark dots", "with rough thick surface"),
    "cracked": ("dry and cracked", "dry, with cracks and scale", "chapped, with fine cracks"),
    "lacy": ("with fine white lace-like lines", "shiny, with white lines"),
    "dimpled": ("with a tiny central dimple", "with a central dimple"),
    "punctum": ("with a tiny central puncture", "with a central dark point"),
    "plugged": ("with rough follicular plugs", "with tiny rough plugs"),
    "excoriated": ("with central scratch crust", "with scratched, crusted centre"),
    "ulcerated": ("with central ulcer", "with rolled shiny border and central ulcer", "with central dip and ulcer"),
}

ARRANGEMENT_WORDS = {
    "single": (),
    "scattered": ("scattered", "scattered here and there"),
    "spread": ("widespread", "scattered all over", "widespread, generalised"),
    "grouped": ("grouped", "in a tight cluster", "clustered"),
    "clusters": ("in clusters", "in crops", "grouped"),
    "linear": ("in a line", "linear"),
    "parallel": ("in parallel lines", "parallel"),
    "band": ("in a one-sided band", "in a band"),
    "ring": ("in a ring or arc", "arranged in a ring", "with a flatter centre, in a ring"),
    "follicular": ("centred on follicles", "follicle-centred", "each pierced by a hair"),
    "symmetric": ("symmetric", "on both sides, symmetric"),
    "tree": ("along skin lines", "in a fir-tree pattern", "following skin lines"),
    "fold": ("on touching skin surfaces", "mirror-image, in the fold"),
    "mouth": ("around the mouth", "around the lips"),
    "exposed": ("with sharp cut-off at clothing", "strictly on sun-exposed skin"),
}

SHAPE_WORDS = {
    "round": ("round", ""),
    "oval": ("oval",),
    "irregular": ("irregular", "map-like", ""),
    "angular": ("angular", "flat, angular"),
    "geometric": ("sharply geometric", "rectangular", "with abrupt, unnatural outlines"),
    "annular": ("ring-shaped", "ring-shaped with clearing centre", "with raised edge and pale centre"),
    "target": ("target-like", "target, with three zones", "with dusky centre, pale ring and red outer ring"),
    "linear": ("linear", ""),
    "branching": ("",),
}

BORDER_WORDS = {
    "sharp": ("sharply bordered", "well-edged", "with clear edges"),
    "blurred": ("ill-defined", "with blurred edges", "with indistinct borders"),
    "irregular": ("with irregular edge", "with irregular notched border"),
}

_REDDISH: dict[str, tuple[str, ...]] = {
    "light": ("red", "pink-red", "bright red"), "middle": ("red", "red-brown", "dusky red"),
    "dark": ("dusky", "violaceous", "purple-brown", "dark brown"),
}  # fmt: skip
_PINKISH: dict[str, tuple[str, ...]] = {
    "light": ("pink", "pale red"),
    "middle": ("pink-brown", "pink"),
    "dark": ("brownish", "dusky brown"),
}
COLOR_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "red": _REDDISH,
    "pink": _PINKISH,
    "dark red": {"light": ("dark red",), "middle": ("dark red", "red-brown"), "dark": ("dark red-brown", "dusky")},
    "salmon": {"light": ("salmon-pink", "salmon-red"), "middle": ("salmon-red", "pink-brown"),
               "dark": ("violaceous", "grey-brown", "dark brown")},
}  # fmt: skip
_SAME_ON_ALL_SKIN = {
    "orange": ("orange-red", "orange"),
    "rust": ("rusty orange-brown", "rust-coloured", "red-brown"),
    "violet": ("violet", "violaceous"),
    "purple": ("purple", "red-purple", "dark purple"),
    "dark purple": ("dark violaceous", "almost black-purple", "dark plum"),
    "dusky": ("dusky red", "dusky", "dull red"),
    "blue-black": ("blue-black", "blue-purple"),
    "bluish": ("blue", "blue-grey"),
    "tan": ("tan", "light brown"),
    "brown": ("brown", "darker than the surrounding skin", "deep brown"),
    "greybrown": ("grey-brown", "greyish brown"),
    "black": ("black", "brown-black"),
    "yellow": ("yellow", "green-yellow"),
    "white": ("chalk-white", "white"),
    "white dust": ("ashy-grey", "whitish"),
    "pale": ("pale", "lighter than the surrounding skin"),
    "pearly": ("pearly", "translucent, pearly", "skin-coloured"),
    "grey": ("grey", "skin-coloured or grey"),
    "clear": ("clear", ""),
}
COLOR_WORDS |= {color: dict.fromkeys(("light", "middle", "dark"), words) for color, words in _SAME_ON_ALL_SKIN.items()}

SITE_WORDS = {
    "face": ("face", "cheek", "forehead", "nose and cheeks", "ear"),
    "mouth": ("around the mouth", "lips and chin", "around nose and mouth"),
    "scalp": ("scalp", "scalp with hair"),
    "trunk": ("trunk", "chest", "back", "abdomen"),
    "arm": ("arm", "forearm", "upper arm", "elbow", "wrist"),
    "leg": ("leg", "lower leg", "shin", "thigh", "knee"),
    "hand": ("back of the hand", "hand", "fingers"),
    "palm": ("palm", "palm of the hand"),
    "foot": ("foot", "ankle and foot", "top of the foot"),
    "fold": ("skin fold", "groin", "armpit"),
}

TONE_WORDS = (
    ("very light skin", "pale skin"),
    ("light skin", "fair skin"),
    ("light brown skin", "olive skin"),
    ("brown skin", "tan skin"),
    ("dark brown skin", "dark skin"),
    ("very dark skin", "deep dark skin"),
)


_ON_ANY_SKIN = (
    "{light} on light skin and {dark} on dark skin",
    "{light} on light skin, {dark} on deeper tones",
    "{light} or, in darker skin, {dark}",
)


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))] if words else ""


def _shade_of(tone: int) -> str:
    return "light" if tone <= 2 else "middle" if tone <= 4 else "dark"


def _many(n: int) -> tuple[str, ...]:
    if n == 1:
        return ("single", "one", "solitary", "a")
    if n <= 4:
        return ("a few", "few")
    if n <= 10:
        return ("several", "multiple")
    return ("many", "multiple") if n <= 28 else ("numerous", "many")


def _magnitude(radius: float) -> tuple[str, ...]:
    if radius < 0.018:
        return ("tiny", "pinpoint", "pinhead-sized")
    if radius < 0.045:
        return ("small",)
    if radius < 0.11:
        return ("",)
    return ("large",) if radius < 0.22 else ("broad", "extensive", "large")


def _plural(noun: str, n: int) -> str:
    if n == 1:
        return noun
    if " with " in noun:
        head, tail = noun.split(" with ", 1)
        return f"{_plural(head, n)} with {tail}"
    if noun.startswith("raw break"):
        return noun.replace("break", "breaks", 1)
    special = {"bulla": "bullae", "comedo": "comedones", "patch": "patches", "flat patch": "flat patches"}
    return special.get(noun, noun + "s")


def describe_lesions(
    rng: np.random.Generator, lesions: Lesions, tone: int, detail: float, textbook: bool = False
) -> str:
    """One phrase for one layer; each property is mentioned with probability ``detail``.

    Args:
        rng: choice of words.
        lesions: what was drawn.
        tone: Fitzpatrick type, 1 to 6: redness has other words on dark skin.
        detail: 0 to 1.
        textbook: name the color on light and on dark skin, as a textbook does, whatever this skin is.
    """
    layer: Layer = lesions.layer
    n = len(lesions.radii)
    mentioned = rng.random(7) < detail
    noun = _plural(_pick(rng, LESION_WORDS[layer.lesion]), n)
    magnitude = _pick(rng, _magnitude(float(lesions.radii.mean()))) if mentioned[1] else ""
    before = [_pick(rng, _many(n)) if mentioned[0] else "", "" if magnitude in noun else magnitude]
    color = _pick(rng, COLOR_WORDS[layer.color][_shade_of(tone)]) if mentioned[2] else ""
    on_any_skin = ""
    if textbook and color and layer.color not in _SAME_ON_ALL_SKIN:
        shades = COLOR_WORDS[layer.color]
        light, dark = _pick(rng, shades["light"]), " or ".join(rng.permutation(shades["dark"])[:2])
        color, on_any_skin = "", _pick(rng, _ON_ANY_SKIN).format(light=light, dark=dark)
    shape = _pick(rng, SHAPE_WORDS[layer.shape]) if mentioned[3] else ""
    border = _pick(rng, BORDER_WORDS[layer.border]) if mentioned[4] and layer.lesion in ("patch", "plaque") else ""
    after: list[str] = []
    for words in (color, shape, border):
        goes_after = words.startswith("with ") or " than " in words
        (after if goes_after else before).append("" if words in noun else words)
    surface = _pick(rng, SURFACE_WORDS[layer.surface]) if mentioned[5] else ""
    if surface and not (layer.surface == "smooth" and rng.random() < 0.6):
        after.append(surface)
    if layer.halo and mentioned[6]:
        rim = _pick(rng, COLOR_WORDS[layer.halo][_shade_of(tone)][:1])
        after.append(_pick(rng, ("within a {} halo", "with a {} rim", "on a {} base")).format(rim))
    if mentioned[6]:
        after.append(_pick(rng, ARRANGEMENT_WORDS[layer.arrangement]))
    phrase = " ".join(word for word in (*before, noun) if word)
    return ", ".join([phrase, *(words for words in (*after, on_any_skin) if words)])


def caption(rng: np.random.Generator, appearance: Appearance, detail: float = 0.75) -> str:
    """A sentence that describes a case's lesions, skin and site.

    Args:
        rng: choice of words and order.
        appearance: what was drawn.
        detail: probability that each property is mentioned.
    """
    skin = appearance.skin
    textbook = bool(rng.random() < 0.4)
    phrases = [describe_lesions(rng, lesions, skin.tone, detail, textbook) for lesions in appearance.lesions]
    if len(phrases) > 1 and rng.random() < 0.3:
        phrases = phrases[1:] + phrases[:1]
    lesions = _pick(rng, (", with ", "; ", " and ")).join(phrases)
    # Skin and site are easy to see: mentioned every time, they would be all that a contrastive loss has to learn.
    tone = _pick(rng, TONE_WORDS[skin.tone - 1]) if not textbook and rng.random() < 0.3 else ""
    site = _pick(rng, SITE_WORDS[skin.site]) if rng.random() < 0.35 else ""
    if textbook:
        # A list of where such lesions are found: this site, and others.
        others = [_pick(rng, SITE_WORDS[str(name)]) for name in rng.choice(list(SITE_WORDS), size=2, replace=False)]
        places = [_pick(rng, SITE_WORDS[skin.site]), *others][: int(rng.integers(1, 4))]
        return "; ".join([lesions, ", ".join(rng.permutation(list(dict.fromkeys(places))))])
    parts = [part for part in (lesions, tone, site) if part]
    if tone and rng.random() < 0.25:
        parts = [f"{lesions} on {tone}", *([site] if site else [])]
    elif site and rng.random() < 0.25:
        parts = [site, *(part for part in (lesions, tone) if part)]
    return _pick(rng, (", ", "; ")).join(parts) if len(parts) > 2 else ", ".join(parts)
