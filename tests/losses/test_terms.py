"""Each term against a naive loop in float64, against finite differences, and under permutation and rescaling."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.losses import (
    EyeSigmoid,
    HardNegatives,
    IcdGeometric,
    InfoNCE,
    LayeredLoss,
    MultiPositiveSigmoid,
    PairBatch,
    SoftLabelSoftmax,
    Term,
    TreeSoftmax,
    Wasserstein,
    WeightedTerm,
)

from . import reference
from .cases import CASES, CONDITIONS, DISSIMILARITY, case
from .reference import Case


def exact_transport(case: Case, label_weight: float = 0.0) -> float:
    cost = 2 - 2 * case.cosine() + label_weight * case.nearest()
    return float(ot.emd2(*reference.marginals(case), cost))


def entropic_transport(case: Case, regularization: float) -> float:
    image, text = reference.marginals(case)
    kept = np.ix_(image > 0, text > 0)
    cost = (2 - 2 * case.cosine())[kept]
    image, text = image[image > 0], text[text > 0]
    # Plain multiplicative Sinkhorn, not the log-domain one of the package.
    kernel, v = np.exp(-cost / regularization), np.ones(len(text))
    for _ in range(20000):
        u = image / (kernel @ v)
        v = text / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return float((plan * cost).sum() + regularization * (plan * np.log(plan / np.outer(image, text))).sum())


def sliced_transport(case: Case, projections: int, seed: int) -> float:
    image_mass, text_mass = reference.marginals(case)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (case.image, case.text)]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(case.image.shape[1], projections, generator=generator, dtype=torch.float64).numpy()
    total = 0.0
    for direction in (directions / np.linalg.norm(directions, axis=0)).T:
        x, y = (rows @ direction for rows in unit)
        total += ot.emd2(image_mass, text_mass, (x[:, None] - y) ** 2)
    return case.image.shape[1] * total / projections


TERMS: dict[str, tuple[Term, Callable[[Case], float]]] = {
    "sigmoid": (MultiPositiveSigmoid(), reference.sigmoid),
    "sigmoid_mean_batch": (
        MultiPositiveSigmoid("mean", "batch"),
        partial(reference.sigmoid, reduction="mean", pos_weight="batch"),
    ),
    "sigmoid_sum_condition_hard": (
        MultiPositiveSigmoid("sum_over_n", "condition", "hard"),
        partial(reference.sigmoid, reduction="sum_over_n", pos_weight="condition", targets="hard"),
    ),
    "sigmoid_balanced_number": (MultiPositiveSigmoid(pos_weight=3.0), partial(reference.sigmoid, pos_weight=3.0)),
    "eye": (EyeSigmoid(), reference.eye),
    "eye_mean": (EyeSigmoid("mean"), partial(reference.eye, reduction="mean")),
    "eye_balanced_batch": (
        EyeSigmoid("balanced", "batch"),
        partial(reference.eye, reduction="balanced", pos_weight="batch"),
    ),
    "icd_cross": (IcdGeometric(), reference.icd),
    "icd_cross_unbalanced": (IcdGeometric(balance="none"), partial(reference.icd, balance="none")),
    "icd_text": (IcdGeometric("text"), partial(reference.icd, pairs="text")),
    "icd_image": (IcdGeometric("image"), partial(reference.icd, pairs="image")),
    "icd_correlation": (IcdGeometric(fit="correlation"), partial(reference.icd, fit="correlation")),
    "icd_text_correlation": (
        IcdGeometric("text", "correlation", "none"),
        partial(reference.icd, pairs="text", fit="correlation", balance="none"),
    ),
    "wasserstein": (Wasserstein(), exact_transport),
    "wasserstein_labels": (Wasserstein(label_weight=0.7), partial(exact_transport, label_weight=0.7)),
    "wasserstein_entropic": (
        Wasserstein("entropic", regularization=0.3),
        partial(entropic_transport, regularization=0.3),
    ),
    "wasserstein_sliced": (
        Wasserstein("sliced", projections=6, seed=3),
        partial(sliced_transport, projections=6, seed=3),
    ),
    "hard_negatives": (HardNegatives(), reference.hard_negatives),
    "hard_negatives_near": (
        HardNegatives(k=1, exclude_within=None),
        partial(reference.hard_negatives, k=1, exclude_within=None),
    ),
    "hard_negatives_semi": (
        HardNegatives(margin=0.5, slack=0.0, k=2, exclude_colisted=True, semi_hard=True),
        partial(reference.hard_negatives, margin=0.5, slack=0.0, k=2, exclude_colisted=True, semi_hard=True),
    ),
    "info_nce": (InfoNCE(), reference.info_nce),
    "info_nce_image": (InfoNCE("image_to_text"), partial(reference.info_nce, direction="image_to_text")),
    "info_nce_text": (InfoNCE("text_to_image"), partial(reference.info_nce, direction="text_to_image")),
    "soft_label_softmax": (SoftLabelSoftmax(), reference.soft_label_softmax),
    "soft_label_softmax_wide": (SoftLabelSoftmax(0.5), partial(reference.soft_label_softmax, temperature=0.5)),
    "tree_softmax": (TreeSoftmax(), reference.tree_softmax),
    "tree_softmax_three_levels": (
        TreeSoftmax((0.5, 0.3, 0.2)),
        partial(reference.tree_softmax, weights=(0.5, 0.3, 0.2)),
    ),
    "sigmoid_adjusted": (MultiPositiveSigmoid(adjustment=0.7), partial(reference.sigmoid, adjustment=0.7)),
    "info_nce_adjusted": (InfoNCE(adjustment=0.5), partial(reference.info_nce, adjustment=0.5)),
    "soft_label_softmax_adjusted": (
        SoftLabelSoftmax(adjustment=1.0),
        partial(reference.soft_label_softmax, adjustment=1.0),
    ),
    "tree_softmax_adjusted": (TreeSoftmax(adjustment=1.5), partial(reference.tree_softmax, adjustment=1.5)),
}

each_term = pytest.mark.parametrize("term", [pytest.param(term, id=name) for name, (term, _) in TERMS.items()])
each_case = pytest.mark.parametrize("case", [pytest.param(value, id=name) for name, value in CASES.items()])


@pytest.mark.parametrize("name", TERMS)
@each_case
def test_equals_the_naive_loop(name: str, case: Case) -> None:
    term, naive = TERMS[name]
    # 1e-6 is what entropic transport converges to; the others agree to rounding.
    tolerance = 1e-6 if name == "wasserstein_entropic" else 1e-11
    assert term(case.batch()).item() == pytest.approx(naive(case), rel=tolerance, abs=tolerance)


@each_term
@each_case
def test_gradient_equals_finite_differences(term: Term, case: Case) -> None:
    # The inputs are the distinct prompts, so that repeats move together: apart, the hardest of two equals has a kink.
    distinct, position = np.unique(case.text_condition, return_inverse=True)
    first = [list(case.text_condition).index(c) for c in distinct]
    image = torch.tensor(case.image, requires_grad=True)
    text = torch.tensor(case.text[first], requires_grad=True)
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.3, -0.7))

    def value(*inputs: torch.Tensor) -> torch.Tensor:
        image, text, scale, bias = inputs
        batch = case.batch()
        return term(
            PairBatch.build(
                image,
                text[position],
                scale,
                bias,
                batch.labels,
                batch.text_condition,
                batch.dissimilarity,
                batch.condition_counts,
            )
        )

    assert torch.autograd.gradcheck(value, (image, text, scale, bias), eps=1e-6, atol=1e-5, rtol=1e-4)


@st.composite
def random_cases(draw: st.DrawFn) -> Case:
    pool = draw(st.lists(st.integers(0, CONDITIONS - 1), min_size=1, max_size=6))
    weights = st.sampled_from([0.2, 0.5, 1.0])
    rows = draw(st.lists(st.dictionaries(st.integers(0, CONDITIONS - 1), weights, max_size=3), min_size=1, max_size=5))
    return case(len(rows), pool, rows, seed=draw(st.integers(0, 2**16)))


@pytest.mark.parametrize("name", TERMS)
@settings(max_examples=15, deadline=None)
@given(case=random_cases(), seed=st.integers(0, 2**16))
def test_order_of_images_and_prompts_does_not_matter(name: str, case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, texts = rng.permutation(len(case.image)), rng.permutation(len(case.text))
    moved = Case(
        case.image[images],
        case.text[texts],
        case.labels[images],
        case.text_condition[texts],
        case.dissimilarity,
        case.counts,
    )
    term, _ = TERMS[name]
    if name.startswith("eye"):
        # An image's own text is the first of its highest targets: keep ties out of this test.
        moved.text_condition, moved.text = case.text_condition, case.text
    tolerance = 1e-6 if name == "wasserstein_entropic" else 1e-10
    assert term(moved.batch()).item() == pytest.approx(term(case.batch()).item(), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("method", ["exact", "entropic", "sliced"])
@settings(max_examples=15, deadline=None)
@given(case=random_cases(), data=st.data())
def test_a_repeated_prompt_leaves_wasserstein_unchanged(method: str, case: Case, data: st.DataObject) -> None:
    again = data.draw(st.integers(0, len(case.text) - 1))
    longer = Case(
        case.image,
        np.vstack([case.text, case.text[again]]),
        case.labels,
        np.append(case.text_condition, case.text_condition[again]),
        case.dissimilarity,
        case.counts,
    )
    term = Wasserstein(method)  # type: ignore[arg-type]
    assert term(longer.batch()).item() == pytest.approx(term(case.batch()).item(), rel=1e-6, abs=1e-6)


@each_term
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@settings(max_examples=6, deadline=None)
@given(
    exponents=st.lists(st.integers(-8, 8), min_size=7, max_size=7),
    logit=st.sampled_from([1e-3, 1.0, 1e2, 1e4]),
    seed=st.integers(0, 2**16),
)
def test_finite_for_extreme_embeddings_and_logits_under_autocast(
    term: Term, autocast: torch.dtype, exponents: list[int], logit: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scales = torch.tensor([10.0**e for e in exponents])[:, None]
    image = (torch.tensor(rng.normal(size=(3, 8))).float() * scales[:3]).requires_grad_()
    text = (torch.tensor(rng.normal(size=(4, 8))).float() * scales[3:]).requires_grad_()
    scale = torch.tensor(math.log(logit), requires_grad=True)
    bias = torch.tensor(-logit, requires_grad=True)
    base = CASES["more_texts_than_images"]
    labels = torch.zeros(3, CONDITIONS)
    labels[0, 0] = labels[1, 4] = labels[1, 8] = 1
    loss = LayeredLoss({"term": WeightedTerm(term)})
    with torch.autocast("cpu", dtype=autocast):
        batch = PairBatch.build(
            image,
            text,
            scale,
            bias,
            labels,
            torch.tensor([0, 4, 8, 11]),
            torch.tensor(DISSIMILARITY),
            torch.tensor(base.counts),
        )
        total = loss(batch, {}).total
        alone = term(batch)
    assert total.dtype == torch.float32
    torch.testing.assert_close(alone, total)
    total.backward()
    for leaf in (total, image.grad, text.grad, scale.grad, bias.grad):
        assert leaf is not None
        assert leaf.isfinite().all()


@each_term
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_widened_before_they_are_normalized(term: Term, dtype: torch.dtype) -> None:
    case = CASES["more_images_than_texts"]
    # 300 squared is beyond float16: normalizing before the cast would give zero embeddings.
    image, text = (torch.tensor(x * 300).to(dtype).requires_grad_() for x in (case.image, case.text))
    labels, condition = torch.tensor(case.labels), torch.tensor(case.text_condition)
    tables = torch.tensor(case.dissimilarity), torch.tensor(case.counts)
    scalars = torch.tensor(1.0), torch.tensor(-1.0)
    value = term(PairBatch.build(image, text, *scalars, labels, condition, *tables))
    value.backward()
    exact = term(PairBatch.build(image.detach().double(), text.detach().double(), *scalars, labels, condition, *tables))
    assert value.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)
    assert image.grad is not None
    assert image.grad.isfinite().all()


@each_term
@each_case
def test_every_input_gets_a_gradient(term: Term, case: Case) -> None:
    image, text = (torch.tensor(x, requires_grad=True) for x in (case.image, case.text))
    term(case.batch(image, text)).backward()
    for leaf in (image, text):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
