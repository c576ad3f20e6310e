import io

import numpy as np
import pytest
from rich.console import Console

from siglip_med.core.errors import UserError
from siglip_med.metrics import candidate_retrieval, print_sample
from siglip_med.metrics.baselines import chance_predictions
from tests.metrics.simulated import make_predictions


@pytest.fixture
def predictions():
    return make_predictions(images=300, conditions=20)


def test_ranks_and_confidences_image_by_image(predictions):
    result = candidate_retrieval(predictions, seeds=(0, 7))
    for draw in range(2):
        for row in range(len(predictions)):
            truth, *others = result.candidates[draw, row].tolist()
            assert truth == predictions.primary[row]
            assert len(set(others)) == 9
            assert not any(predictions.labels[row, c] > 0 for c in others)
            scores = [float(predictions.logits[row, c]) for c in (truth, *others)]
            assert result.ranks[draw, row] == 1 + sorted(scores, reverse=True).index(scores[0])
            np.testing.assert_allclose(result.confidences[draw, row], 1 / (1 + np.exp(-np.array(scores))), rtol=1e-5)


def test_summary_is_the_mean_over_images_and_draws(predictions):
    result = candidate_retrieval(predictions)
    summary = result.summary()
    per_draw = [(ranks <= 5).mean() for ranks in result.ranks]
    assert summary["candidates_r_at_5"] == pytest.approx(np.mean(per_draw))
    assert summary["candidates_r_at_5_sd"] == pytest.approx(np.std(per_draw))
    assert summary["candidates_mrr"] == pytest.approx((1 / result.ranks).mean())
    assert (summary["candidates"], summary["chance_r_at_1"], summary["chance_r_at_5"]) == (10, 0.1, 0.5)
    assert result.hits(1).mean() == pytest.approx(summary["candidates_r_at_1"])


def test_chance_gets_one_in_ten(predictions):
    summary = candidate_retrieval(chance_predictions(predictions), seeds=tuple(range(40))).summary()
    assert summary["candidates_r_at_1"] == pytest.approx(0.1, abs=0.04)
    assert summary["candidates_r_at_5"] == pytest.approx(0.5, abs=0.06)


def test_same_seeds_give_every_model_the_same_candidates(predictions):
    other = chance_predictions(predictions)
    a, b = candidate_retrieval(predictions), candidate_retrieval(other)
    np.testing.assert_array_equal(a.candidates, b.candidates)
    assert not np.array_equal(a.candidates[0], a.candidates[1])


def test_distractors_are_uniform_over_the_unlisted(predictions):
    one = predictions.take(np.zeros(4000, dtype=int))
    counts = np.bincount(candidate_retrieval(one, seeds=(0,)).candidates[0, :, 1:].ravel(), minlength=20)
    free = ~one.positive[0]
    expected = 4000 * 9 / free.sum()
    assert (np.abs(counts[free] - expected) < 5 * np.sqrt(expected)).all()


def test_a_collapsed_model_ranks_last(predictions):
    flat = predictions.with_logits(np.zeros_like(predictions.logits))
    assert (candidate_retrieval(flat).ranks == 10).all()


def test_too_few_conditions_is_an_error_for_people():
    with pytest.raises(UserError, match="negative conditions"):
        candidate_retrieval(make_predictions(conditions=9))


def test_printed_sample_names_image_truth_and_confidence(predictions):
    result, buffer = candidate_retrieval(predictions), io.StringIO()
    print_sample(result, predictions, row=3, draw=1, console=Console(file=buffer, width=100))
    text = buffer.getvalue()
    rank = result.ranks[1, 3]
    assert f"00003.png: rank {rank} of 10" in text
    line = next(line for line in text.splitlines() if "yes" in line)
    assert predictions.conditions[predictions.primary[3]] in line
    assert f"{result.confidences[1, 3, 0]:.4f}" in line
    assert line.split("│")[1].strip() == str(rank)
