"""What a tree softmax must be besides its formula: a softmax where there is no tree, nearer answers where there is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.core.errors import UserError
from siglip_med.losses import (
    InfoNCE,
    MultiPositiveSigmoid,
    PairBatch,
    SoftLabelSoftmax,
    TreeSoftmax,
    adjusted_logits,
)
from tools.debug_losses import example_batch

FLAT = 1.0 - torch.eye(12)


def batch_of(logits: torch.Tensor, labels: torch.Tensor, dissimilarity: torch.Tensor) -> PairBatch:
    """Images whose cosines with twelve orthogonal prompts, times the scale, are the given logits."""
    scale = logits.norm(dim=1).max().clamp_min(1e-3)
    image = torch.cat([logits / scale, (1 - (logits / scale).square().sum(1, keepdim=True)).clamp_min(0).sqrt()], dim=1)
    text = torch.eye(12, 13, dtype=logits.dtype)
    bias = torch.zeros((), dtype=logits.dtype)
    return PairBatch.build(image, text, scale.log(), bias, labels, torch.arange(12), dissimilarity)


def with_logits(batch: PairBatch, logits: torch.Tensor) -> PairBatch:
    """The batch with logits that no embedding has to give."""
    changed = replace(batch)
    changed.__dict__["logits"] = logits
    return changed


random_weights = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6).map(lambda w: tuple(x / sum(w) for x in w))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), levels=st.integers(1, 7))
def test_weight_on_the_leaf_alone_is_the_softmax(seed: int, levels: int) -> None:
    batch = example_batch(images=9, seed=seed)
    expected = InfoNCE("image_to_text", adjustment=0.5)(batch)
    torch.testing.assert_close(TreeSoftmax((1.0, *[0.0] * (levels - 1)), adjustment=0.5)(batch), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), weights=random_weights)
def test_a_flat_tree_is_the_softmax_whatever_the_weights(seed: int, weights: tuple[float, ...]) -> None:
    batch = replace(example_batch(images=9, seed=seed), dissimilarity=FLAT)
    torch.testing.assert_close(TreeSoftmax(weights)(batch), InfoNCE("image_to_text")(batch))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), weights=random_weights)
def test_renaming_the_conditions_changes_nothing(seed: int, weights: tuple[float, ...]) -> None:
    batch = example_batch(images=9, seed=seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(12))
    renamed = replace(
        batch,
        labels=batch.needed("labels")[:, order],
        text_condition=order.argsort()[batch.needed("text_condition")],
        dissimilarity=batch.needed("dissimilarity")[order][:, order],
    )
    torch.testing.assert_close(TreeSoftmax(weights)(renamed), TreeSoftmax(weights)(batch))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), weights=random_weights)
def test_it_never_exceeds_the_softmax(seed: int, weights: tuple[float, ...]) -> None:
    batch = example_batch(images=9, seed=seed)
    assert TreeSoftmax(weights)(batch) <= InfoNCE("image_to_text")(batch) + 1e-6


def test_a_mistake_in_the_same_branch_costs_less() -> None:
    tree = example_batch().needed("dissimilarity")
    labels = torch.eye(12)[:1]
    near, far = (batch_of(5 * torch.eye(12)[[wrong]], labels, tree) for wrong in (1, 11))
    assert tree[0, 1] < tree[0, 11]
    assert TreeSoftmax()(near) < TreeSoftmax()(far) - 0.5
    torch.testing.assert_close(InfoNCE("image_to_text")(near), InfoNCE("image_to_text")(far))


def test_its_optimum_has_the_right_condition_first() -> None:
    batch = batch_of(torch.eye(12, dtype=torch.float64), torch.eye(12), example_batch().needed("dissimilarity"))
    logits = torch.zeros(12, 12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        TreeSoftmax()(with_logits(batch, logits)).backward()
        optimizer.step()
    assert (logits.argmax(dim=1) == torch.arange(12)).all()


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_logits_of_ten_thousand_keep_their_digits_in_float32(size: float) -> None:
    tree, labels = example_batch().needed("dissimilarity"), torch.eye(12)[[0, 5]]
    logits = torch.zeros(2, 12, dtype=torch.float64)
    logits[0, 0], logits[1, 2] = size, size / 2
    exact = TreeSoftmax()(batch_of(logits, labels.double(), tree))
    batch = batch_of(logits.float(), labels, tree)
    value = TreeSoftmax()(batch)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_gradients_at_logits_of_ten_thousand(dtype: torch.dtype) -> None:
    example = example_batch()
    image, text = (x.to(dtype).requires_grad_() for x in (example.image, example.text))
    labels, condition, tree = (example.needed(x) for x in ("labels", "text_condition", "dissimilarity"))  # type: ignore[arg-type]
    batch = PairBatch.build(image, text, torch.tensor(1e4).log(), torch.tensor(0.0), labels, condition, tree)
    value = TreeSoftmax()(batch)
    value.backward()
    assert value.isfinite()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_a_logit_that_is_not_a_number_makes_the_loss_none() -> None:
    batch = example_batch()
    logits = batch.logits.clone()
    logits[0, 3] = torch.nan
    assert TreeSoftmax()(with_logits(batch, logits)).isnan()


def test_weights_that_do_not_sum_to_one_stop() -> None:
    with pytest.raises(UserError, match=r"must sum to 1, not 1\.1"):
        TreeSoftmax((1.0, 0.1))


def test_an_adjustment_that_changes_nothing_stops() -> None:
    with pytest.raises(UserError, match="softmax over images"):
        InfoNCE("text_to_image", adjustment=1.0)


def test_adjusted_losses_expect_what_training_showed() -> None:
    """At the optimum of an adjusted softmax on images without any features, plain logits are those of a fair die."""
    counts = torch.tensor([600.0, 200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    labels = torch.eye(12, dtype=torch.float64).repeat_interleave(counts.long(), dim=0)
    batch = batch_of(torch.zeros(len(labels), 12, dtype=torch.float64), labels, FLAT)
    logits = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    fitted = with_logits(replace(batch, condition_counts=counts), logits.expand(len(labels), 12))
    for term in (InfoNCE("image_to_text", adjustment=1.0), TreeSoftmax(adjustment=1.0)):
        (gradient,) = torch.autograd.grad(term(fitted), logits)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("term", [MultiPositiveSigmoid, InfoNCE, SoftLabelSoftmax, TreeSoftmax])
def test_without_adjustment_no_counts_are_needed_and_with_one_they_are(term: type) -> None:
    batch = replace(example_batch(), condition_counts=None)
    assert term()(batch).isfinite()
    with pytest.raises(ValueError, match="needs condition_counts"):
        term(adjustment=0.5)(batch)


def test_a_condition_without_a_training_image_counts_as_one() -> None:
    batch = example_batch()
    counts = torch.ones(12)
    none, one = (replace(batch, condition_counts=counts.index_fill(0, torch.tensor(3), x)) for x in (0.0, 1.0))
    torch.testing.assert_close(adjusted_logits(none, 1.0), adjusted_logits(one, 1.0))
