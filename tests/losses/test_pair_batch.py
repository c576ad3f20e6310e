import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.losses import HardNegatives, IcdGeometric, PairBatch, SoftLabelSoftmax, Wasserstein
from tools.debug_losses import example_batch

from .cases import CASES


def captions() -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(3, 5, generator=generator), torch.randn(4, 5, generator=generator)
    return PairBatch.from_targets(image, text, torch.tensor(1.0), torch.tensor(-1.0), torch.eye(3, 4))


def test_derived_tensors_equal_loops() -> None:
    for case in CASES.values():
        batch = case.batch()
        torch.testing.assert_close(batch.cosine, torch.tensor(case.cosine()))
        torch.testing.assert_close(batch.logits, torch.tensor(case.logits()))
        torch.testing.assert_close(batch.targets, torch.tensor(case.positives()))
        torch.testing.assert_close(batch.min_dissimilarity, torch.tensor(case.nearest()))


def test_a_positive_is_at_no_distance_from_its_image() -> None:
    batch = example_batch()
    assert (batch.min_dissimilarity[batch.targets > 0] == 0).all()
    assert (batch.min_dissimilarity[batch.targets == 0] > 0).any()


def test_image_dissimilarity_is_that_of_the_nearest_two_labels() -> None:
    case = CASES["more_texts_than_images"]
    # Labels {0, 6} and {3}: 0 and 3 are in one half of the tree, 6 in the other.
    assert case.batch().image_dissimilarity[0, 1].item() == pytest.approx(0.6)
    assert case.batch().image_dissimilarity.diagonal().tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("given", "worked_in"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_embeddings_are_unit_vectors_in_at_least_float32(given: torch.dtype, worked_in: torch.dtype) -> None:
    case = CASES["square"]
    batch = case.batch(torch.tensor(case.image).to(given), torch.tensor(case.text).to(given))
    for embeddings in (batch.image, batch.text, batch.logits):
        assert embeddings.dtype == worked_in
    torch.testing.assert_close(batch.image.norm(dim=1), torch.ones(3, dtype=worked_in))


def test_cosines_keep_full_precision_under_autocast() -> None:
    expected = example_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        batch = example_batch()
        cosines = [batch.cosine, batch.image_cosine, batch.text_cosine]
    for cosine, exact in zip(cosines, [expected.cosine, expected.image_cosine, expected.text_cosine], strict=True):
        torch.testing.assert_close(cosine, exact, rtol=0, atol=0)


def test_logit_scale_is_a_logarithm() -> None:
    one = torch.ones(1, 1)
    batch = PairBatch.from_targets(one, one, torch.tensor(math.log(10.0)), torch.tensor(-3.0), one)
    assert batch.logits.item() == pytest.approx(7.0)


@pytest.mark.parametrize(
    "term", [IcdGeometric(), IcdGeometric("text"), SoftLabelSoftmax(), Wasserstein(label_weight=1.0), HardNegatives()]
)
def test_captions_have_no_dissimilarity_and_the_term_says_so(term) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="this loss term needs"):
        term(captions())


def test_captions_suffice_where_no_dissimilarity_is_used() -> None:
    assert Wasserstein()(captions()).item() > 0
    assert HardNegatives(slack=0.0, exclude_within=None)(captions()).item() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": torch.zeros(2, 12)}, "labels has shape"),
        ({"text_condition": torch.zeros(3, dtype=torch.long)}, "text_condition has shape"),
        ({"dissimilarity": torch.zeros(11, 11)}, "dissimilarity has shape"),
        ({"condition_counts": torch.zeros(11)}, "condition_counts has shape"),
        ({"image": torch.zeros(3, 9)}, "must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(wrong: dict[str, torch.Tensor], message: str) -> None:
    right = {
        "image": torch.randn(3, 5),
        "text": torch.randn(2, 5),
        "logit_scale": torch.tensor(0.0),
        "logit_bias": torch.tensor(0.0),
        "labels": torch.zeros(3, 12),
        "text_condition": torch.tensor([0, 1]),
        "dissimilarity": torch.zeros(12, 12),
        "condition_counts": torch.zeros(12),
    }
    with pytest.raises(ValueError, match=message):
        PairBatch.build(**(right | wrong))


@given(images=st.integers(1, 6), conditions=st.integers(1, 9), texts=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_nearest_labels_are_those_of_the_masked_expansion(images: int, conditions: int, texts: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(images, conditions, generator=generator) * torch.randint(
        2, (images, conditions), generator=generator
    )
    dissimilarity = torch.rand(conditions, conditions, generator=generator)
    dissimilarity = torch.minimum(dissimilarity, dissimilarity.T).fill_diagonal_(0.0)
    condition = torch.randint(conditions, (texts,), generator=generator)
    image, text = torch.randn(images, 3, generator=generator), torch.randn(texts, 3, generator=generator)
    zero = torch.zeros(())
    batch = PairBatch.build(image, text, zero, zero, labels, condition, dissimilarity)
    listed = labels > 0
    nearest = dissimilarity.expand(images, -1, -1).masked_fill(~listed[:, :, None], 1.0).amin(dim=1)
    both = nearest[:, None, :].expand(-1, images, -1).masked_fill(~listed[None], 1.0).amin(dim=2)
    assert torch.equal(batch.min_dissimilarity, nearest[:, condition])
    assert torch.equal(batch.image_dissimilarity, both)


@pytest.mark.parametrize("pairs", ["text", "image"])
@pytest.mark.parametrize("fit", ["squared", "correlation"])
def test_many_pairs_of_one_kind_give_the_loss_and_gradient_of_the_formula(pairs: str, fit: str) -> None:
    rows = 600
    generator = torch.Generator().manual_seed(0)
    small = example_batch()
    pool = torch.randint(12, (rows,), generator=generator)
    labels = torch.nn.functional.one_hot(pool, 12).double()
    labels[:40] = 0.0
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    zero, distances = torch.zeros((), dtype=torch.float64), small.needed("dissimilarity").double()
    batch = PairBatch.build(x, x, zero, zero, labels, pool, distances)
    value = IcdGeometric(pairs, fit)(batch)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value, x)

    u = torch.nn.functional.normalize(x, dim=-1)
    distance, target = 1 - u @ u.T, distances[pool][:, pool]
    valid = ~torch.eye(rows, dtype=torch.bool)
    if pairs == "image":
        valid &= (torch.arange(rows) >= 40) & (torch.arange(rows) >= 40)[:, None]
    level = (target * 10).round()
    weight = torch.zeros_like(target)
    levels = level[valid].unique()
    for one in levels:
        of_level = valid & (level == one)
        weight[of_level] = 1 / (len(levels) * int(of_level.sum()))
    expected = (weight * (distance - target).square()).sum()
    if fit == "correlation":
        a, b = (z - (weight * z).sum() for z in (distance, target))
        expected = 1 - (weight * a * b).sum() / ((weight * a * a).sum() * (weight * b * b).sum()).sqrt()
    torch.testing.assert_close(value, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0], atol=1e-9, rtol=1e-7)


def test_targets_of_another_shape_are_refused() -> None:
    image, text, scalar = torch.randn(3, 4), torch.randn(2, 4), torch.tensor(0.0)
    with pytest.raises(ValueError, match="targets"):
        PairBatch.from_targets(image, text, scalar, scalar, targets=torch.zeros(2, 3))
