"""Rendered data sets on disk: cases, captions, and that nothing half-written is left."""

import multiprocessing
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from siglip_med.conditions import load_conditions
from siglip_med.core.errors import UserError
from siglip_med.synthetic import SyntheticSource
from siglip_med.synthetic import source as source_module
from siglip_med.synthetic.cases import plan_cases
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import draw_appearance
from siglip_med.synthetic.vocabulary import HEIGHTS, LINES
from tools import synthetic as commands
from tools.pretraining.captions import CaptionSource
from tools.pretraining.habits import HABITS, draw_layers
from tools.pretraining.sentences import LESION_WORDS, caption

RECIPES = load_recipes()
NAMES = tuple(recipe.condition for recipe in RECIPES)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    source = SyntheticSource(str(tmp_path_factory.mktemp("synthetic")), n_images=198, seed=3, size=32)
    source.prepare()
    return source


@settings(max_examples=15, deadline=None)
@given(n_images=st.integers(198, 2500), seed=st.integers(0, 2**31))
def test_a_plan_has_exactly_the_images_asked_for_and_three_cases_a_condition(n_images, seed):
    cases = plan_cases(RECIPES, n_images, seed)
    assert sum(case.views for case in cases) == n_images
    assert all(1 <= case.views <= 3 for case in cases)
    primaries = [next(iter(case.weights)) for case in cases]
    assert min(primaries.count(name) for name in NAMES) >= 3
    for case in cases:
        values = list(case.weights.values())
        assert values[0] == max(values)
        assert sum(values) == pytest.approx(1.0, abs=0.021)
        assert case.skin_tone in ("", str(case.tone))
        assert set(list(case.weights)[1:]) <= set(RECIPES[NAMES.index(next(iter(case.weights)))].listed_with)


def test_the_long_tail_and_the_differentials_are_scins():
    cases = plan_cases(RECIPES, 3200, 0)
    counts = [sum(next(iter(case.weights)) == name for case in cases) for name in NAMES]
    assert spearmanr(counts, [recipe.cases for recipe in RECIPES]).statistic > 0.97
    assert max(counts) == counts[NAMES.index("Eczema")] > 60 * min(counts)
    images = sum(case.views for case in cases)
    listed = sum(case.views * len(case.weights) for case in cases) / images
    assert listed == pytest.approx(2.2, abs=0.2)
    tones = [case.tone for case in cases]
    assert min(tones.count(tone) for tone in range(1, 7)) > 50


def test_the_table_is_what_was_rendered(rendered):
    table = rendered.load()
    assert len(table) == 198
    assert table.conditions == NAMES
    assert table.labels.shape == (198, 66)
    frame = table.frame
    for row in (0, 57, 197):
        picture = cv2.imread(str(table.root / frame["image"][row]))
        assert picture.shape == (32, 32, 3)
        listed = np.flatnonzero(table.labels[row])
        assert frame["primary"][row] in listed
        assert table.labels[row].max() == table.labels[row, frame["primary"][row]]
    assert frame.groupby("case")["primary"].nunique().max() == 1
    assert frame.groupby("primary")["case"].nunique().min() >= 3


def test_equal_settings_give_equal_files_and_other_settings_another_folder(rendered, tmp_path):
    twin = SyntheticSource(str(tmp_path), n_images=198, seed=3, size=32)
    twin.prepare()
    files = sorted(path.relative_to(twin.folder) for path in twin.folder.rglob("*.*"))
    assert len(files) == 199
    for file in files:
        assert (twin.folder / file).read_bytes() == (rendered.folder / file).read_bytes()
    others = [
        SyntheticSource(str(tmp_path), n_images=199, seed=3, size=32),
        SyntheticSource(str(tmp_path), n_images=198, seed=4, size=32),
        SyntheticSource(str(tmp_path), n_images=198, seed=3, size=48),
        CaptionSource(str(tmp_path), n_images=198, seed=3, size=32),
    ]
    assert len({twin.folder, *(other.folder for other in others)}) == 5


def test_prepare_renders_once(rendered, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in rendered.folder.rglob("*")}
    monkeypatch.setattr(source_module, "render", None)
    rendered.prepare()
    assert before == {path: path.stat().st_mtime_ns for path in rendered.folder.rglob("*")}


def test_a_run_that_dies_leaves_no_data_set(tmp_path, monkeypatch):
    source = CaptionSource(str(tmp_path), n_images=20, seed=0, size=32)
    drawn = []

    def stop_at_seven(*arguments):
        drawn.append(1)
        if len(drawn) == 7:
            raise KeyboardInterrupt
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(source_module, "render", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        source.prepare()
    assert not source.folder.exists()
    with pytest.raises(UserError, match=r"labels\.csv: no such file"):
        source.load()
    monkeypatch.undo()
    source.prepare()
    assert len(source.load()) == 20
    assert not (tmp_path / ".partial").exists()


def test_two_processes_at_once_give_one_whole_data_set(tmp_path):
    source = CaptionSource(str(tmp_path), n_images=60, seed=1, size=32)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=source.prepare) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {".lock", source.folder.name}
    assert len(source.load()) == len(list((source.folder / "images").iterdir())) == 60


def test_what_people_get_wrong_has_one_line(tmp_path, rendered):
    with pytest.raises(UserError, match=r"n_images=197 is too few.*at least 198"):
        SyntheticSource(str(tmp_path), n_images=197)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot write pictures into"):
        CaptionSource(str(blocked / "below"), n_images=2).prepare()
    spoiled = CaptionSource(str(tmp_path / "spoiled"), n_images=5, seed=0, size=32)
    spoiled.prepare()
    path = spoiled.folder / "labels.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="was changed after rendering; delete"):
        spoiled.load()


def test_pretraining_pairs_hold_one_dummy_label_and_a_caption_each(tmp_path):
    source = CaptionSource(str(tmp_path), n_images=40, seed=0, size=32)
    source.prepare()
    table = source.load()
    assert table.conditions == ("skin",)
    assert np.all(table.labels == 1)
    captions = table.frame["description"]
    assert captions.str.len().min() > 8
    assert captions.nunique() > 35
    assert table.frame["case"].nunique() == 40


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[a-z0-9]+", text.lower())) + " "


def _forbidden() -> set[str]:
    """Names as they are written and spoken, and their parts."""
    found = set()
    for condition in load_conditions(NAMES):
        for text in (condition.name, condition.phrase):
            found |= {_words(text), *(_words(part) for part in re.split(r"[/,]| - | or ", text) if part.strip())}
    return {text for text in found if len(text.strip()) > 3}


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), detail=st.sampled_from([0.75, 1.0]))
def test_no_caption_names_a_condition(seed, detail):
    rng = np.random.default_rng(seed)
    layers, site = draw_layers(rng)
    if seed % 2:
        recipe = RECIPES[seed % len(RECIPES)]
        layers, site = recipe.layers, next(iter(recipe.sites))
    text = _words(caption(rng, draw_appearance(rng, layers, int(rng.integers(1, 7)), site), detail))
    assert not [name for name in _FORBIDDEN if name in text]
    assert "  " not in text


_FORBIDDEN = _forbidden()


def test_forbidden_names_cover_every_condition():
    assert len(_FORBIDDEN) >= 66
    assert {" psoriasis ", " abrasion ", " scab ", " lichen planus ", " melanoma "} <= _FORBIDDEN


def test_full_captions_say_what_is_drawn():
    for recipe in RECIPES[::7]:
        rng = np.random.default_rng(1)
        appearance = draw_appearance(rng, recipe.layers, 2, next(iter(recipe.sites)))
        text = caption(rng, appearance, detail=1.0)
        for lesions in appearance.lesions:
            nouns = LESION_WORDS[lesions.layer.lesion]
            stems = [noun.split()[-1][:4] for noun in nouns] + [noun.split()[0] for noun in nouns]
            assert any(stem in text for stem in stems), (recipe.condition, text)


def test_pretraining_draws_every_kind_of_lesion_and_is_no_list_of_recipes():
    assert set(HABITS) == {*HEIGHTS, *LINES}
    known = {tuple((layer.lesion, layer.color, layer.surface) for layer in recipe.layers) for recipe in RECIPES}
    drawn = [draw_layers(np.random.default_rng(k))[0] for k in range(600)]
    looks = [tuple((layer.lesion, layer.color, layer.surface) for layer in layers) for layers in drawn]
    assert {layer.lesion for layers in drawn for layer in layers} == set(HABITS)
    assert len(set(looks)) > 400
    assert sum(look in known for look in looks) < 30


def test_the_contact_sheet_and_the_corpus_are_written(tmp_path, monkeypatch):
    sheet, text = tmp_path / "sheet.png", tmp_path / "corpus.txt"
    monkeypatch.setattr("sys.argv", ["synthetic", "contact-sheet", str(sheet), "--size", "16"])
    commands.main()
    picture = cv2.imread(str(sheet))
    assert picture.shape[0] == 22 * 18
    monkeypatch.setattr("sys.argv", ["synthetic", "corpus", str(text), "--captions", "30"])
    commands.main()
    lines = text.read_text().splitlines()
    assert len(lines) >= 66 + 30
    assert any("psoriasis" in line.lower() for line in lines)
