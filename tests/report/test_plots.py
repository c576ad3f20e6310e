"""Figures: what is drawn is what was given, and nothing global is touched."""

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.metrics import Bootstrap, Interval, PairedResult, confusion_matrix, reliability_table, subgroup_metrics
from siglip_med.report.plots.calibration import reliability_figure, set_size_figure
from siglip_med.report.plots.comparisons import baselines_figure, conditions_figure, differences_figure, subgroup_figure
from siglip_med.report.plots.curves import curve_panels, curves_figure
from siglip_med.report.plots.embedding import embedding_figure, project
from siglip_med.report.plots.matrices import confusion_figure, distance_figure
from siglip_med.report.plots.order import chapter_label, chapter_spans, chapters_of, icd_order
from siglip_med.report.plots.photographs import contact_sheet
from siglip_med.report.plots.style import shorten, to_png
from tests.report.synthetic_run import synthetic_predictions


def test_icd_order_makes_chapters_contiguous():
    p = synthetic_predictions()
    order = icd_order(p)
    assert sorted(order) == list(range(12))
    assert [p.codes[c] for c in order] == sorted(p.codes)
    spans = chapter_spans([p.chapters[c] for c in order])
    assert [span.chapter for span in spans] == sorted(set(p.chapters))
    assert sum(span.end - span.start for span in spans) == 12


@pytest.mark.parametrize(
    ("heading", "label", "number"),
    [
        ("XII - Diseases of the skin (L00-L99)", "XII Diseases of the skin", "XII"),
        ("I - Certain infections (A00-B99)", "I Certain infections", "I"),
        ("my own chapter", "my own chapter", "my own chapter"),
    ],
)
def test_chapter_label(heading, label, number):
    assert chapter_label(heading) == label
    assert chapter_label(heading, with_title=False) == number


def test_shorten_keeps_short_text_and_marks_a_cut():
    assert shorten("Eczema", 6) == "Eczema"
    assert shorten("Abrasion, scrape, or scab", 11) == "Abrasion…"


def test_confusion_shows_row_shares_and_masks_empty_rows():
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    figure = confusion_figure(matrix, ["a", "b", "c"], ["I", "I", "II"])
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown[0], [0.75, 0.25, 0.0])
    assert shown.mask[1].all()
    assert not shown.mask[[0, 2]].any()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a  4", "b  0", "c  4"]


def test_distance_scale_ignores_the_diagonal():
    d = np.array([[0.0, 0.4, 1.0], [0.4, 0.0, 0.8], [1.0, 0.8, 0.0]])
    image = distance_figure({"D": d}, ["a", "b", "c"], ["I", "I", "II"]).axes[0].images[0]
    assert image.get_clim() == (0.4, 1.0)


def test_a_matrix_has_no_frame_but_that_of_its_chapters():
    axes = distance_figure({"D": 1 - np.eye(3)}, ["a", "b", "c"], ["I", "I", "II"]).axes[0]
    assert not any(spine.get_visible() for spine in axes.spines.values())
    assert len(axes.patches) + len(axes.lines) > 0
    assert all(tick.tick1line.get_markersize() == 0 for tick in axes.xaxis.get_major_ticks())


def test_distance_of_two_equally_far_conditions_has_a_scale():
    figure = distance_figure({"D": 1 - np.eye(2)}, ["a", "b"], ["I", "II"])
    low, high = figure.axes[0].images[0].get_clim()
    assert high > low


def test_reliability_points_are_the_table():
    table = reliability_table(synthetic_predictions())
    axes = reliability_figure({"run": table}).axes[0]
    filled = table[table["count"] > 0]
    line = next(line for line in axes.lines if len(line.get_xdata()) == len(filled))
    np.testing.assert_allclose(line.get_ydata(), filled["frequency"])


def test_set_sizes_add_up():
    sizes, holds = np.array([1, 1, 2, 7, 0]), np.array([True, False, True, True, False])
    axes = set_size_figure(sizes, holds, 12, 0.9).axes[0]
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(2, -1)
    np.testing.assert_array_equal(heights[0], [0, 1, 1, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(heights[1], [1, 1, 0, 0, 0, 0, 0, 0])


def test_curves_take_only_panels_that_have_data():
    curves = pd.DataFrame(
        [("loss/total", step, 1 / (step + 1)) for step in range(200)]
        + [("coefficient/alpha", 0, 0.0), ("coefficient/alpha", 199, 1.0), ("lr-AdamW", 0, 1e-3)],
        columns=["tag", "step", "value"],
    )
    assert curve_panels(curves) == {"total loss": ["loss/total"], "coefficients": ["coefficient/alpha"]}
    figure = curves_figure(curves)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["total loss", "coefficients"]


def test_conditions_are_sorted_by_training_images_and_say_where_there_is_none():
    table = pd.DataFrame(
        {
            "condition": ["rare", "common"],
            "train": [1, 90],
            "images": [0, 5],
            "value": [np.nan, 0.8],
            "baseline": [np.nan, 0.2],
        }
    )
    axes = conditions_figure(table, "R@5", "zero-shot").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["common  90 / 5", "rare  1 / 0"]
    assert [text.get_text() for text in axes.texts] == ["too few cases"]


def test_subgroup_bars_hatch_small_groups():
    p = synthetic_predictions(images=90)
    table = subgroup_metrics(p, ("sex",), ("r_at_1",), minimum_images=30, bootstrap=Bootstrap(20))
    axes = subgroup_figure(table, {"r_at_1": "R@1"}, {"r_at_1": 0.5}).axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], table["r_at_1"])
    assert [bar.get_hatch() is not None for bar in axes.patches] == table["small"].tolist()


def test_differences_turn_the_sign_where_lower_is_better():
    result = PairedResult(-0.2, -0.3, -0.1, 0.001, 0.05)
    axes = differences_figure({"up": result, "down": result}, {"up": 1, "down": -1}, ["a", "b"]).axes[0]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "s")]
    assert points == [-0.2, 0.2]


def test_baselines_draw_the_interval_of_the_run():
    figure = baselines_figure({"run": {"R@1": 0.5}, "chance": {"R@1": 0.1}}, {"R@1": Interval(0.5, 0.4, 0.6)})
    assert [0.4, 0.6] in [list(line.get_xdata()) for line in figure.axes[0].lines]


def test_a_map_repeats_with_its_seed():
    embeddings = synthetic_predictions(images=30).image_embeddings
    points = project(embeddings, seed=3)
    assert points.shape == (30, 2)
    np.testing.assert_array_equal(points, project(embeddings, seed=3))


def test_a_map_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    centers = np.eye(8)[:3]
    embeddings = np.repeat(centers, 20, axis=0) + 0.02 * rng.standard_normal((60, 8))
    points = project(embeddings, seed=0)
    cluster = np.repeat(np.arange(3), 20)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(60)
    assert (cluster[distance.argmin(axis=1)] == cluster).mean() > 0.95


def test_embedding_labels_do_not_overlap():
    p = synthetic_predictions(images=80)
    points = np.random.default_rng(0).standard_normal((80, 2))
    figure = embedding_figure(points, p.primary, p.conditions, chapters_of(p))
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert boxes
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_contact_sheet_names_a_photograph_that_is_not_there(tmp_path):
    Image.new("RGB", (40, 30), "tan").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert len(contact_sheet(tmp_path, [("a.png", "x", "y")]).axes[0].images) == 1
    with pytest.raises(UserError, match=r"c\.png: the photograph is not there"):
        contact_sheet(tmp_path, [("c.png", "x", "y")])
    with pytest.raises(UserError, match=r"b\.png is not an image of a known format"):
        contact_sheet(tmp_path, [("b.png", "x", "y")])


def test_png_repeats_and_settings_stay():
    p, before = synthetic_predictions(), dict(mpl.rcParams)
    one, two = (to_png(confusion_figure(confusion_matrix(p), p.conditions, p.chapters)) for _ in range(2))
    assert one == two
    assert Image.open(io.BytesIO(one)).format == "PNG"
    assert dict(mpl.rcParams) == before


def test_a_matrix_of_many_conditions_has_no_names_that_nobody_can_read():
    for size, named in ((100, True), (101, False)):
        names = [f"Condition {c}" for c in range(size)]
        figure = confusion_figure(np.eye(size, dtype=int), names, ["I"] * size)
        assert bool([label.get_text() for label in figure.axes[0].get_yticklabels()]) == named
        assert max(figure.get_size_inches()) < 20


def test_a_map_names_twenty_chapters_and_counts_the_others_together():
    chapters = [f"chapter {c:02}" for c in range(30)]
    primary = np.repeat(np.arange(30), np.arange(31, 1, -1))
    figure = embedding_figure(np.random.default_rng(0).normal(size=(len(primary), 2)), primary, chapters, chapters)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == 21
    assert legend[-1] == f"other chapters  {sum(range(2, 12))}"
    assert figure.axes[0].get_window_extent().height > 100
