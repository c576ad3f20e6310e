import numpy as np
import ot
import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.losses import PairBatch, Wasserstein
from tools.debug_losses import example_batch

from .cases import CASES
from .reference import marginals


def test_exact_equals_pot_in_float32() -> None:
    for case in CASES.values():
        batch = case.batch(torch.tensor(case.image).float(), torch.tensor(case.text).float())
        expected = ot.emd2(*marginals(case), 2 - 2 * case.cosine())
        assert Wasserstein()(batch).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_exact_gradient_equals_finite_differences_in_float64() -> None:
    case = CASES["weights"]
    image, text = (torch.tensor(x, requires_grad=True) for x in (case.image, case.text))
    Wasserstein()(case.batch(image, text)).backward()
    step = 1e-6
    for leaf in (image, text):
        for position in np.ndindex(*leaf.shape):
            values = []
            for sign in (1, -1):
                moved = leaf.detach().clone()
                moved[position] += sign * step
                pair = (moved, text.detach()) if leaf is image else (image.detach(), moved)
                values.append(Wasserstein()(case.batch(*pair)).item())
            assert leaf.grad is not None
            assert leaf.grad[position].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)


def test_shuffled_pairs_cost_nothing_unless_labels_enter_the_cost() -> None:
    vectors = torch.eye(4)
    dissimilarity = 1 - torch.eye(4)
    labels = torch.eye(4)[[1, 2, 3, 0]]
    scalars = torch.tensor(0.0), torch.tensor(0.0)
    batch = PairBatch.build(vectors, vectors, *scalars, labels, torch.arange(4), dissimilarity)
    assert Wasserstein()(batch).item() == pytest.approx(0.0, abs=1e-6)
    assert Wasserstein(label_weight=0.5)(batch).item() == pytest.approx(0.5)


def test_entropic_approaches_exact() -> None:
    batch = example_batch()
    gaps = [
        abs(Wasserstein("entropic", regularization=r)(batch).item() - Wasserstein()(batch).item())
        for r in (0.5, 0.1, 0.02)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.05


def test_sliced_stays_below_exact_and_repeats_itself() -> None:
    batch = example_batch()
    values = [Wasserstein("sliced", seed=seed)(batch).item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert 0 < Wasserstein("sliced", projections=2000)(batch).item() <= Wasserstein()(batch).item()


def test_sliced_without_a_seed_follows_the_global_generator() -> None:
    batch = example_batch()
    torch.manual_seed(5)
    first = Wasserstein("sliced", seed=None)(batch).item()
    second = Wasserstein("sliced", seed=None)(batch).item()
    torch.manual_seed(5)
    assert first == Wasserstein("sliced", seed=None)(batch).item() != second


def test_embeddings_that_are_not_finite_give_a_loss_that_says_so() -> None:
    case = CASES["square"]
    image = torch.tensor(case.image)
    image[0, 0] = torch.nan
    assert Wasserstein()(case.batch(image)).isnan()


def test_sliced_has_no_room_for_labels() -> None:
    with pytest.raises(UserError, match="label_weight"):
        Wasserstein("sliced", label_weight=1.0)
