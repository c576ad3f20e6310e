"""The drawings: recipes, geometry, color, relief, and that each condition can be seen."""

import csv
import itertools

import numpy as np
import pytest

from siglip_med.conditions import load_conditions
from siglip_med.core.errors import UserError
from siglip_med.synthetic import recipes as recipes_module
from siglip_med.synthetic import vocabulary as words
from siglip_med.synthetic.canvas import Canvas, smooth_noise
from siglip_med.synthetic.geometry import Lesions, distance_field, draw_lesions, place
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import Appearance, draw_appearance, render
from siglip_med.synthetic.surfaces import SURFACE_PAINTERS
from siglip_med.synthetic.vocabulary import Layer
from tools.pretraining.sentences import SURFACE_WORDS

RECIPES = load_recipes()


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _canvas(size: int = 32, melanin: float = 0.2) -> Canvas:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    return Canvas(_rng(0), x, y, pixel=1 / size, melanin=melanin)


def test_every_condition_of_scin_has_a_recipe_and_its_real_counts(shared):
    with (shared / "data/metadata/scin/scin_66_conditions.csv").open(newline="") as handle:
        scin = {row["condition"]: row for row in csv.DictReader(handle)}
    assert {recipe.condition for recipe in RECIPES} == set(scin)
    for recipe in RECIPES:
        assert recipe.images == int(scin[recipe.condition]["n_images_primary"])
        assert recipe.cases == int(scin[recipe.condition]["n_cases_primary"])


def test_conditions_are_known_to_the_catalog():
    names = [recipe.condition for recipe in RECIPES]
    assert load_conditions(names).names == tuple(names)
    assert len(names) == len(set(names)) == 66


def test_colisting_counts_are_those_of_scin(shared):
    expected: dict[tuple[str, str], int] = {}
    with (shared / "data/metadata/scin/scin_66_images.csv").open(newline="") as handle:
        cases = {row["case_id"]: row for row in csv.DictReader(handle)}
    for row in cases.values():
        for other in row["conditions_66"].split("|"):
            if other != row["condition"]:
                expected[row["condition"], other] = expected.get((row["condition"], other), 0) + 1
    found = {(recipe.condition, other): n for recipe in RECIPES for other, n in recipe.listed_with.items()}
    assert found == expected


def test_sites_and_co_listed_conditions_are_known():
    names = {recipe.condition for recipe in RECIPES}
    for recipe in RECIPES:
        assert set(recipe.sites) <= set(words.SITES)
        assert set(recipe.listed_with) <= names - {recipe.condition}


@pytest.mark.parametrize("column", ["lesion", "arrangement", "shape", "color", "border", "surface", "halo"])
def test_a_word_that_cannot_be_drawn_is_named_with_its_row(monkeypatch, column):
    read = recipes_module._rows

    def spoiled(name):
        rows = read(name)
        if name == "recipes.csv":
            rows[4][column] = "glittering"
        return rows

    monkeypatch.setattr(recipes_module, "_rows", spoiled)
    with pytest.raises(UserError, match=f"row 5, column '{column}': 'glittering' is not one of"):
        load_recipes()


def test_every_surface_that_is_painted_has_words():
    assert set(SURFACE_PAINTERS) == set(SURFACE_WORDS)


@pytest.mark.parametrize("arrangement", words.ARRANGEMENTS)
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_place_gives_n_centers_near_the_frame(arrangement, n):
    centers, angles = place(_rng(n), n, 0.03, arrangement)
    assert centers.shape == (n, 2)
    assert angles.shape == (n,)
    assert np.all(np.abs(centers - 0.5) < 1.0)


def test_place_does_what_its_words_say():
    ring, _ = place(_rng(1), 16, 0.04, "ring")
    distance = np.linalg.norm(ring - ring.mean(axis=0), axis=1)
    assert distance.std() < 0.15 * distance.mean()
    tight, _ = place(_rng(2), 20, 0.02, "grouped")
    wide, _ = place(_rng(2), 20, 0.02, "spread")
    assert tight.std() < 0.5 * wide.std()
    row, _ = place(_rng(3), 12, 0.03, "linear")
    spread = np.linalg.svd(row - row.mean(axis=0), compute_uv=False)
    assert spread[1] < 0.2 * spread[0]
    exposed, _ = place(_rng(4), 50, 0.02, "exposed")
    assert exposed[:, 1].min() >= 0.5
    pairs, _ = place(_rng(5), 8, 0.05, "symmetric")
    assert np.allclose(pairs[:4] * [-1, 1] + [1, 0], pairs[4:], atol=0.1)
    with pytest.raises(ValueError, match="unknown arrangement 'spiral'"):
        place(_rng(6), 3, 0.1, "spiral")


@pytest.mark.parametrize("shape", ["round", "oval", "linear", "geometric", "angular"])
def test_distance_field_against_a_loop_over_pixels_and_lesions(shape):
    layer = Layer("patch", (3, 3), (0.1, 0.2), "scattered", shape, "red", "sharp", "smooth")
    rng = _rng(7)
    lesions = Lesions(
        layer=layer,
        centers=rng.uniform(0.2, 0.8, (3, 2)).astype(np.float32),
        radii=np.array([0.1, 0.15, 0.2], np.float32),
        angles=np.array([0.0, 0.7, 2.0], np.float32),
        strengths=np.ones(3, np.float32),
        warp=0.0,
    )
    canvas = _canvas(12)
    rho, nearest = distance_field(lesions, canvas.x, canvas.y, 0 * canvas.x, 0 * canvas.x)
    aspect = {"oval": 0.58, "linear": 0.16}.get(shape, 0.9)
    for row, column in itertools.product(range(12), range(12)):
        found = []
        for (cx, cy), radius, angle in zip(lesions.centers, lesions.radii, lesions.angles, strict=True):
            dx, dy = canvas.x[row, column] - cx, canvas.y[row, column] - cy
            u = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
            v = (-dx * np.sin(angle) + dy * np.cos(angle)) / (radius * aspect)
            if shape == "geometric":
                found.append(max(abs(u), abs(v) / 0.6))
            elif shape == "angular":
                found.append(max(abs(u), abs(u / 2 + 0.866 * v), abs(u / 2 - 0.866 * v)))
            else:
                found.append(np.hypot(u, v))
        assert rho[row, column] == pytest.approx(min(found), rel=1e-3, abs=2e-3)
        assert found[nearest[row, column]] == pytest.approx(min(found), rel=1e-3, abs=2e-3)


def test_noise_has_unit_scale_and_the_wanted_grain():
    fields = np.stack([smooth_noise(_rng(k), 64, 8) for k in range(50)])
    assert abs(fields.mean()) < 0.05
    assert 0.5 < fields.std() < 1.2
    step = np.abs(np.diff(fields, axis=2)).mean()
    fine = np.abs(np.diff(np.stack([smooth_noise(_rng(k), 64, 32) for k in range(50)]), axis=2)).mean()
    assert fine > 2 * step


def test_lay_over_composes_front_to_back():
    canvas = _canvas(2)
    full = np.ones((2, 2), np.float32)
    canvas.lay_over(full, (1.0, 0.0, 0.0))
    canvas.lay_over(0.25 * full, (0.0, 0.0, 1.0))
    assert canvas.cover[0, 0] == pytest.approx([0.75, 0.0, 0.25])
    assert canvas.opacity[0, 0] == 1.0
    flat = canvas.compose(np.ones(3, np.float32), np.array([1.0, 0.0]), full)
    assert flat[0, 0] == pytest.approx([0.75, 0.0, 0.25])


def test_a_bump_is_lit_on_the_side_of_the_light():
    canvas = _canvas(32)
    canvas.gloss[:] = 0
    canvas.height = 0.1 * np.exp(-((canvas.x - 0.5) ** 2 + (canvas.y - 0.5) ** 2) / 0.02)
    gray = np.full(3, 0.5, np.float32)
    lit = canvas.compose(gray, np.array([-1.0, 0.0]), np.ones_like(canvas.x)).mean(axis=2)
    # The light comes from the direction it points to along x: the slope that faces it is brighter.
    assert lit[16, 22] < 0.5 < lit[16, 9]


def test_a_stroke_lies_where_its_points_are_even_when_the_view_is_turned():
    size, angle = 64, 0.4
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    column, row = np.meshgrid(axis, axis)
    x = np.cos(angle) * column - np.sin(angle) * row + 0.5
    y = np.sin(angle) * column + np.cos(angle) * row + 0.5
    canvas = Canvas(_rng(0), x.astype(np.float32), y.astype(np.float32), pixel=1 / size, melanin=0.2)
    mask = canvas.stroke([np.array([[0.3, 0.5], [0.7, 0.5]])], 1.0)
    weight = mask / mask.sum()
    assert (weight * x).sum() == pytest.approx(0.5, abs=0.01)
    assert (weight * y).sum() == pytest.approx(0.5, abs=0.01)
    assert np.sqrt((weight * (y - 0.5) ** 2).sum()) < 0.02


def test_pictures_are_the_seeds_own():
    appearance = draw_appearance(_rng(1), RECIPES[0].layers, 3, "arm")
    again = draw_appearance(_rng(1), RECIPES[0].layers, 3, "arm")
    first = render(appearance, 48, _rng(2))
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render(again, 48, _rng(2)))
    assert not np.array_equal(first, render(appearance, 48, _rng(3)))


def test_skin_darkens_with_its_fitzpatrick_type():
    means = []
    for tone in range(1, 7):
        pictures = [render(draw_appearance(_rng(tone, k), (), tone, "trunk"), 32, _rng(k)) for k in range(12)]
        means.append(np.mean(pictures))
    assert np.all(np.diff(means) < -5)
    assert means[0] > 170
    assert means[5] < 85


@pytest.mark.parametrize("site", words.SITES)
def test_each_site_is_drawn_and_hair_grows_on_the_scalp_alone(site):
    pictures = np.stack([render(draw_appearance(_rng(k), (), 2, site), 48, _rng(k)) for k in range(6)])
    dark = (pictures.max(axis=3) < 110).mean()
    assert pictures.std() > 3
    assert dark > 0.02 if site == "scalp" else dark < 0.2


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.condition)
def test_each_condition_can_be_seen_on_light_and_dark_skin(recipe):
    site = next(iter(recipe.sites))
    for tone in (1, 6):
        changed = []
        for k in range(4):
            full = draw_appearance(_rng(k), recipe.layers, tone, site)
            bare = Appearance(full.skin, ())
            ill, well = render(full, 64, _rng(9, k)).astype(float), render(bare, 64, _rng(9, k)).astype(float)
            changed.append(np.abs(ill - well).mean(axis=2).max())
        assert np.median(changed) > 25


def test_redness_is_red_on_light_skin_and_dusky_on_dark_skin():
    layer = Layer("patch", (1, 1), (0.45, 0.45), "single", "round", "red", "sharp", "smooth")
    shift = {}
    for tone in (1, 6):
        pairs = []
        for k in range(8):
            full = draw_appearance(_rng(k), (layer,), tone, "trunk")
            inside = slice(28, 36)
            ill = render(full, 64, _rng(k))[inside, inside].mean(axis=(0, 1))
            well = render(Appearance(full.skin, ()), 64, _rng(k))[inside, inside].mean(axis=(0, 1))
            pairs.append(ill / well)
        shift[tone] = np.mean(pairs, axis=0)
    # On light skin red light is kept and green lost; on dark skin red is lost too.
    assert shift[1][0] > 0.85
    assert shift[1][1] < 0.65
    assert shift[6][0] < shift[1][0] - 0.15


def test_two_pictures_of_a_case_are_nearer_than_two_cases():
    recipe = next(recipe for recipe in RECIPES if recipe.condition == "Psoriasis")

    def colors(picture):
        return picture.reshape(-1, 3).mean(axis=0)

    within, between = [], []
    for k in range(12):
        rng = _rng(k)
        cases = [draw_appearance(rng, recipe.layers, int(rng.integers(1, 7)), "arm") for _ in range(2)]
        views = [[colors(render(case, 32, _rng(k, n, v))) for v in range(2)] for n, case in enumerate(cases)]
        within.append(np.linalg.norm(views[0][0] - views[0][1]))
        between.append(np.linalg.norm(views[0][0] - views[1][0]))
    assert np.mean(within) < 0.6 * np.mean(between)


def test_drawn_lesions_keep_to_their_layer():
    layer = Layer("papule", (4, 9), (0.03, 0.05), "scattered", "round", "red", "sharp", "smooth")
    for k in range(30):
        lesions = draw_lesions(_rng(k), layer)
        assert 4 <= len(lesions.radii) <= 9
        assert lesions.radii.min() >= 0.03 * 0.8 - 1e-6
        assert lesions.radii.max() <= 0.05 * 1.2 + 1e-6
