import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from siglip_med.core.errors import UserError
from siglip_med.metrics import RESAMPLED_METRICS, RetrievalMetrics, headline_metrics
from tests.metrics.simulated import make_predictions
from tests.processes import leave

SCENARIOS = {
    "even": ([*range(0, 200, 2)], [*range(1, 200, 2)]),
    "uneven": ([*range(170)], [*range(170, 200)]),
    "repeated": ([*range(0, 200, 2), 0, 2], [*range(1, 200, 2), 1, 0]),
    "empty": ([*range(200)], []),
}


def _metric(predictions):
    return RetrievalMetrics(predictions.dissimilarity, predictions.chapters, predictions.blocks)


def _feed(metric, predictions, rows, batch=32):
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        metric.update(
            torch.from_numpy(predictions.logits[part]),
            torch.from_numpy(predictions.labels[part]),
            torch.from_numpy(predictions.primary[part]),
            torch.tensor(part),
        )


def _assert_headline(values, predictions):
    expected = headline_metrics(predictions)
    assert set(values) == {*RESAMPLED_METRICS, "loss"}
    for name, value in values.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("batch", [1, 32, 200])
def test_one_process_equals_headline_metrics(batch):
    predictions = make_predictions()
    metric = _metric(predictions)
    _feed(metric, predictions, np.random.default_rng(0).permutation(200).tolist(), batch)
    _assert_headline(metric.compute(), predictions)


def test_repeated_images_count_once_and_reset_forgets():
    predictions = make_predictions()
    metric = _metric(predictions)
    _feed(metric, predictions, [*range(200), *range(50)])
    _assert_headline(metric.compute(), predictions)
    metric.reset()
    _feed(metric, predictions, [*range(100)])
    _assert_headline(metric.compute(), predictions.take(np.arange(100)))


def test_nothing_seen_is_undefined():
    with pytest.warns(UserWarning, match="compute"):
        values = _metric(make_predictions()).compute()
    assert set(values) == {*RESAMPLED_METRICS, "loss"}
    assert all(torch.isnan(value) for value in values.values())


def test_half_precision_logits_and_diverged_ones():
    predictions = make_predictions()
    metric = RetrievalMetrics(torch.from_numpy(predictions.dissimilarity))
    labels, primary = torch.from_numpy(predictions.labels), torch.from_numpy(predictions.primary)
    logits = torch.from_numpy(predictions.logits).bfloat16()
    metric.update(logits, labels, primary, torch.arange(200))
    rounded = headline_metrics(predictions.with_logits(logits.float().numpy()))
    assert float(metric.compute()["mrr"]) == pytest.approx(rounded["mrr"])
    metric.update(torch.full((1, 12), torch.nan), labels[:1], primary[:1], torch.tensor([900]))
    with pytest.raises(UserError, match="row 900"):
        metric.compute()


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    predictions, result = make_predictions(), {}
    for name, shards in SCENARIOS.items():
        metric = _metric(predictions)
        _feed(metric, predictions, shards[rank])
        first = {key: float(value) for key, value in metric.compute().items()}
        _feed(metric, predictions, [0])
        again = {key: float(value) for key, value in metric.compute().items()}
        result[name] = [first, again]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
    leave()


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="spawn")
    predictions = make_predictions()
    for rank in (0, 1):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert set(result) == set(SCENARIOS)
        for values in result.values():
            for one in values:
                _assert_headline(one, predictions)
