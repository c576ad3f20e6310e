"""TensorBoard: charts catch the tags that training logs, and what is written can be read back."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from siglip_med.metrics import HEADLINE_METRICS
from siglip_med.report.tensorboard import custom_scalar_layout, write_dashboards
from tests.report.synthetic_run import synthetic_predictions

LOGGED = {
    "terms, as they are added": ["loss_weighted/sigmoid", "loss_weighted/icd_text"],
    "terms, before their coefficients": ["loss_raw/sigmoid"],
    "total, training and validation": ["loss/total", "val/loss"],
    "alpha, beta, gamma, delta": ["coefficient/alpha", "coefficient/delta"],
    "R@K": ["val/r_at_1", "val/r_at_5", "val/r_at_5_primary"],
    "macro R@K": ["val/macro_r_at_5"],
    "ranking": ["val/mrr", "val/map", "val/ndcg", "val/t2i_map"],
    "classification": ["val/macro_f1", "val/macro_auc", "val/macro_precision", "val/macro_recall"],
    "ICD distance": ["val/icd_distance_all", "val/icd_distance_mistakes", "val/icd_distance_top5"],
    "chapter, block and order": ["val/chapter_accuracy", "val/block_accuracy", "val/hops"],
    "gradient and parameter norms": ["grad_norm/total", "parameter_norm/total"],
    "learning rates": ["lr-AdamW/pg1", "lr/lora"],
    "logit scale and bias": ["logit/scale", "logit/bias"],
    "images a second": ["perf/images_per_second"],
    "shares: waiting for input, of the device's peak": ["perf/input_wait", "perf/mfu"],
    "peak memory, GB": ["perf/peak_memory_gb"],
}


def test_every_tag_is_caught_by_its_chart_alone():
    charts = {name: chart[1] for category in custom_scalar_layout().values() for name, chart in category.items()}
    assert charts.keys() == LOGGED.keys()
    for expected, tags in LOGGED.items():
        for tag in tags:
            caught = [name for name, patterns in charts.items() if any(re.match(pattern, tag) for pattern in patterns)]
            assert caught == [expected], tag


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, predictions = tmp_path_factory.mktemp("events"), synthetic_predictions(images=60)
    with SummaryWriter(folder) as writer:
        writer.add_custom_scalars(custom_scalar_layout())
        write_dashboards(writer, predictions, global_step=7)
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    return folder, predictions, events


def test_pr_curves_are_scikit_learns(written):
    _, p, events = written
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("test_pr/")]
    assert set(tags) == {"test_pr/all conditions"} | {
        f"test_pr/{name}" for name, positive in zip(p.conditions, p.positive.any(axis=0), strict=True) if positive
    }
    curve = events.Tensors("test_pr/all conditions")[0]
    assert curve.step == 7
    shape = [d.size for d in curve.tensor_proto.tensor_shape.dim]
    values = (
        np.frombuffer(curve.tensor_proto.tensor_content, np.float32)
        if curve.tensor_proto.tensor_content
        else (np.array(curve.tensor_proto.float_val))
    )
    precision, recall = values.reshape(shape)[4:6]
    confidence = 1 / (1 + np.exp(-p.logits.astype(np.float64)))
    called = (confidence * 126).astype(int).ravel() >= 63
    truth = p.positive.ravel()
    assert precision[63] == pytest.approx(precision_score(truth, called), abs=1e-6)
    assert recall[63] == pytest.approx(recall_score(truth, called), abs=1e-6)


def test_heat_maps_are_pictures(written):
    _, _, events = written
    assert set(events.Tags()["images"]) == {"distances/ICD order", "test/confusion"}
    for tag in events.Tags()["images"]:
        picture = np.asarray(Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string)))
        assert picture.shape[2] == 3
        assert picture.std() > 5


def test_projector_has_a_colored_row_an_image_and_no_sprite(written):
    folder, p, _ = written
    texts, images = sorted(folder.rglob("metadata.tsv"), key=lambda path: len(path.read_text()))
    rows = [line.split("\t") for line in images.read_text().splitlines()]
    assert rows[0] == ["condition", "code", "chapter", "group", "first prediction", "image"]
    assert [row[0] for row in rows[1:]] == [p.conditions[c] for c in p.primary]
    right = [bool(p.positive[i, p.logits[i].argmax()]) for i in range(len(p))]
    assert [row[4] == "right" for row in rows[1:]] == right
    assert rows[1][2] in {"I Infections", "II Neoplasms", "XII Diseases of the skin"}
    np.testing.assert_allclose(np.loadtxt(images.parent / "tensors.tsv"), p.image_embeddings, atol=1e-6)
    np.testing.assert_allclose(np.loadtxt(texts.parent / "tensors.tsv"), p.text_embeddings, atol=1e-6)
    assert not list(folder.rglob("sprite*"))


def test_every_name_is_one_that_wandb_and_mlflow_take():
    """MLflow allows letters, digits, _ - . : / and spaces; wandb splits panels at a slash."""
    names = [f"val/{name}" for name in HEADLINE_METRICS] + [tag for tags in LOGGED.values() for tag in tags]
    assert [name for name in names if not re.fullmatch(r"[/\w.\- :]+", name)] == []
