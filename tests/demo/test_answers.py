"""What the page says is what the other commands say."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.data import images
from siglip_med.demo import views
from siglip_med.demo.answers import NEAREST, Answerer
from siglip_med.demo.page import places
from siglip_med.demo.photograph import read_photograph
from siglip_med.inference import Classifier, occlusion_map, shifted_relevance_map
from siglip_med.metrics import fit_conformal
from siglip_med.metrics.conformal import nonconformity


@pytest.fixture(scope="module")
def answer(answerer, drawing):
    return answerer.answer(answerer.read(drawing.read_bytes(), drawing.name))


def test_the_differential_is_that_of_predict(answerer, answer, drawing):
    (expected,) = answerer.classifier.predict(drawing, top_k=5).differentials
    assert [candidate.condition for candidate in answer.candidates[:5]] == [c.condition for c in expected.candidates]
    assert [c.confidence for c in answer.candidates[:5]] == pytest.approx([c.confidence for c in expected.candidates])
    assert answerer.differential(answer) == tuple(
        answerer.classifier.conditions.index(candidate.condition) for candidate in expected.candidates
    )


def test_the_sets_are_those_of_the_reports_rule(answerer, short_run):
    val = answerer.validation
    rule = fit_conformal(val, 0.8)  # a refit's logits are calibrated
    expected, strange = rule.sets(val), nonconformity(val.logits, rule.score, rule.temperature)
    sure = np.abs(strange - rule.threshold) > 1e-5  # one image at a time rounds otherwise than a batch
    assert sure.mean() > 0.99
    for row in range(0, len(val), 3):
        path = short_run.components.data.table.root / val.frame["image"].iloc[row]
        found = answerer.prediction_set(answerer.answer(answerer.read(path.read_bytes(), "x")), 0.8)
        inside = np.isin(np.arange(len(val.conditions)), found.columns)
        np.testing.assert_array_equal(inside[sure[row]], expected[row][sure[row]])


def test_too_few_validation_images_promise_nothing_and_no_predictions_give_no_set(answerer, answer):
    few = Answerer(answerer.classifier, "x", answerer.max_pixels, 5, answerer.validation.take(np.arange(5)))
    found = few.prediction_set(answer, 0.95)
    assert found.whole
    assert len(found.columns) == len(answer.logits)
    alone = Answerer(answerer.classifier, "x", answerer.max_pixels, 5)
    assert alone.prediction_set(answer, 0.9) is None


def test_a_promise_stands_beside_what_the_test_split_found(answerer, answer):
    found = answerer.prediction_set(answer, 0.8)
    sets, test = fit_conformal(answerer.validation, 0.8).sets(answerer.test), answerer.test
    held = [bool(set(np.flatnonzero(a)) & set(np.flatnonzero(b))) for a, b in zip(sets, test.positive, strict=True)]
    assert found.measured == pytest.approx(sum(held) / len(held))
    shown = views.prediction_set(answerer, answer, found)
    assert f"of the {len(test):,} of the test split, {100 * sum(held) / len(held):.0f}% did" in shown
    untested = views.prediction_set(answerer, answer, replace(answerer, test=None).prediction_set(answer, 0.8))
    assert "of the test split" not in untested


def test_of_a_stranger_no_rank_is_shown_anywhere(answerer, answer):
    stranger = replace(answer, unfamiliar="blurred")
    for part in (views.tree(answerer, stranger), views.differential(answerer, stranger)):
        before, _, _ = part.partition("<details>")
        assert "does not know photographs like this one: blurred" in before
        assert not any(one.condition in before for one in answer.candidates)
    assert "<details>" not in views.tree(answerer, answer)
    assert places(answer)[0] == (f"1. {answer.candidates[0].condition} ({answer.candidates[0].code})", 1)
    named = places(stranger)
    assert [label for label, _ in named] == sorted(f"{one.condition} ({one.code})" for one in answer.candidates)
    assert dict(named)[f"{answer.candidates[3].condition} ({answer.candidates[3].code})"] == 4


def test_the_nearest_training_images_are_pictures_or_labels_or_a_sentence_says_why_not(answerer, short_run):
    """A training image is nearest to itself; pictures only where the file of the run holds them."""
    table, row = short_run.components.data.table, int(answerer.training.rows[3])
    path = table.root / table.frame["image"].iloc[row]
    own = answerer.answer(answerer.read(path.read_bytes(), path.name))
    first = answerer.nearest(own)[0]
    assert (first.row, first.cosine) == (row, pytest.approx(1.0, abs=1e-4))
    shown = views.neighbours(answerer, own)
    assert shown.count("<img") == NEAREST
    assert f"Of the {len(answerer.training):,} training images" in shown
    assert f"<strong>{', '.join(first.conditions)}</strong>" in shown
    bare = replace(answerer, training=replace(answerer.training, thumbnails=()))
    labels = views.neighbours(bare, own)
    assert "<img" not in labels
    assert f"<strong>{', '.join(first.conditions)}</strong>" in labels
    assert "does not allow its pictures to be shown" in labels
    alone = replace(answerer, training=None)
    assert "No training cases" in views.neighbours(alone, own)
    assert alone.nearest(own) is None


def test_maps_are_of_a_condition_against_the_mean_of_all(answerer, answer):
    """As on the page of predict.py, so that both show the same."""
    column, pixels = int(answer.order[2]), answerer.pixels(answer.photograph)
    model, refit = answerer.classifier.model, answerer.classifier.refit

    def against(features):
        logits = refit(features)
        return logits[:, column] - logits.mean(dim=1)

    np.testing.assert_array_equal(answerer.relevance(answer, column), shifted_relevance_map(model, pixels, against))
    np.testing.assert_array_equal(answerer.occlusion(answer, column), occlusion_map(model, pixels, against))
    prompts = replace(answerer, classifier=replace(answerer.classifier, refit=None))
    texts = answerer.classifier.texts - answerer.classifier.texts.mean(dim=0)
    expected = shifted_relevance_map(model, pixels, texts[column])
    np.testing.assert_array_equal(prompts.relevance(answer, column), expected)
    assert np.abs(answerer.relevance(answer, column) - expected).max() > 1e-4


def test_two_that_ask_at_once_get_what_each_would_get_alone(answerer, answer):
    """A map changes how the model computes while it runs."""
    columns = [int(column) for column in answer.order[:2]] * 4
    alone = [answerer.relevance(answer, column) for column in columns[:2]] * 4
    with ThreadPoolExecutor(2) as visitors:
        together = list(visitors.map(lambda column: answerer.relevance(answer, column), columns))
    np.testing.assert_array_equal(together, alone)


def test_a_sentence_is_scored_like_a_condition(answerer, answer):
    """A condition with one prompt has the score of that prompt as a sentence."""
    payload = answerer.classifier.payload
    alone = dict(payload) | {"prompts": [[prompts[0]] for prompts in payload["prompts"]]}
    single = Answerer(Classifier(answerer.classifier.model, alone), "x", answerer.max_pixels, 5)
    expected = single.answer(answer.photograph)
    scores = answerer.score(answer, [prompts[0] for prompts in alone["prompts"][:4]])
    assert [score.logit for score in scores] == pytest.approx(expected.logits[:4].tolist(), abs=1e-4)
    by_column = {single.classifier.conditions.index(c.condition): c.confidence for c in expected.candidates}
    assert [score.confidence for score in scores] == pytest.approx([by_column[c] for c in range(4)], abs=1e-5)
    by_prompts = replace(answerer, classifier=replace(answerer.classifier, refit=None)).answer(answer.photograph)
    assert [c.logit for c in answer.prompts] == sorted(by_prompts.logits.tolist(), reverse=True)
    assert [score.place for score in scores] == [1 + int((by_prompts.logits > score.logit).sum()) for score in scores]
    assert "the differential is ranked by the refit" in views.sentences(scores, answerer, answer)
    assert "refit" not in views.sentences(scores, single, expected)
    assert [score.cut for score in scores] == [0] * 4


def test_what_the_text_tower_does_not_read_is_counted(answerer, answer):
    long = "red itchy skin " * 60
    (score,) = answerer.score(answer, [long])
    tokens = len(answerer.classifier.model.tokenizer([long])["input_ids"][0])
    assert score.cut == tokens - answerer.classifier.model.max_text_length > 0


def test_a_checkpoint_without_conditions_or_with_a_code_that_is_none_is_refused(answerer):
    payload = dict(answerer.classifier.payload)
    for changed, message in (
        ({"conditions": []}, "^x names no conditions"),
        ({"codes": ["Z99.999", *payload["codes"][1:]]}, r"^x: 'Z99\.999', the code of .* is no code of ICD-10-CM"),
    ):
        with pytest.raises(UserError, match=message):
            Answerer(Classifier(answerer.classifier.model, payload | changed), "x", 10, 5)


def picture(form, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def huge_png(width, height):
    """A PNG whose header claims a size, and that holds no such pixels: decoding it would fail otherwise."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not an image", r"^photo is not an image of a known format"),
        (huge_png(20_000, 10_000), r"^photo has more pixels than the limit of 150,000,000\.$"),
        (huge_png(16_000, 10_000), r"^photo has 16000 x 10000 pixels, more than the limit of 150,000,000\.$"),
        (picture("JPEG")[:700], r"^photo is truncated or damaged"),
        (b"", r"^photo is not an image"),
    ],
)
def test_what_is_no_photograph_is_refused_in_one_sentence(data, reason):
    with pytest.raises(UserError, match=reason):
        read_photograph(data, "photo", ImageSpec(32), 150_000_000)


def test_heic_without_its_reader_says_what_to_install(monkeypatch):
    monkeypatch.setattr(images, "FORMATS", tuple(name for name in images.FORMATS if name != "HEIF"))
    with pytest.raises(UserError, match=r"^photo is a HEIC image, which needs pillow-heif: pip install 'siglip-med\["):
        read_photograph(HEIC, "photo", ImageSpec(32), 150_000_000)


def test_the_shape_follows_the_camera_and_what_is_left_out_is_said():
    plain = read_photograph(picture("JPEG"), "photo", ImageSpec(32), 10_000)
    assert (plain.width, plain.height, plain.notes) == (90, 60, ())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_photograph(picture("JPEG", exif=exif), "photo", ImageSpec(32), 10_000)
    assert (turned.width, turned.height) == (60, 90)
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert "several pictures" in " ".join(read_photograph(file.getvalue(), "photo", ImageSpec(32), 10_000).notes)
    file = io.BytesIO()
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(file, "PNG")
    assert "16 bits" in " ".join(read_photograph(file.getvalue(), "photo", ImageSpec(32), 10_000).notes)
    file = io.BytesIO()
    Image.new("RGBA", (20, 20), (200, 10, 10, 90)).save(file, "PNG")
    assert "over white" in " ".join(read_photograph(file.getvalue(), "photo", ImageSpec(32), 10_000).notes)


def test_the_page_opens_what_is_unfamiliar_and_refuses_what_is_blank(answerer, drawing):
    known = answerer.answer(answerer.read(drawing.read_bytes(), "skin.png"))
    assert "Show them all the same" not in views.differential(answerer, replace(known, unfamiliar=""))
    strange = replace(known, unfamiliar="unlike the photographs of training")
    words = answerer.score(strange, ["x"])
    for html in (views.differential(answerer, strange), views.sentences(words, answerer, strange)):
        notice, opened = html.split("<details>")
        assert "unlike the photographs of training" in notice
        assert "%" not in notice
        assert "%" in opened
    assert len(answerer.prediction_set(strange, 0.8).columns) == len(strange.logits)
    both = [replace(known, unfamiliar=""), strange]
    case = answerer.case(both)
    assert [c.confidence for c in case.candidates] == pytest.approx([c.confidence for c in known.candidates[:5]])
    assert "1 unfamiliar left out" in views.case(answerer, both)
    assert views.case(answerer, both[:1]) == ""
    black = io.BytesIO()
    Image.new("RGB", (80, 80)).save(black, "PNG")
    with pytest.raises(UserError, match=r"^black\.png is blank"):
        answerer.answer(answerer.read(black.getvalue(), "black.png"))
