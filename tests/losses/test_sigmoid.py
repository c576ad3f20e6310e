"""The sigmoid loss against the libraries that it comes from, and the project's reference figure."""

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siglip_med.losses import EyeSigmoid, InfoNCE, MultiPositiveSigmoid, PairBatch
from tests.models import their_open_clip
from tools.debug_losses import published_sigmoid


@pytest.fixture(scope="module")
def open_clip_loss() -> ModuleType:
    return their_open_clip.part("loss")


def test_published_figure() -> None:
    assert f"{published_sigmoid():.6f}" == "15.000000"


def test_published_figure_in_float32() -> None:
    same = torch.ones(4, 1)
    batch = PairBatch.from_targets(same, same, torch.tensor(0.0), torch.tensor(19.0), torch.eye(4))
    assert f"{MultiPositiveSigmoid('mean', 'batch')(batch).item():.6f}" == "15.000000"


def leaves(images: int = 6, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(images, 16, generator=generator).requires_grad_() for _ in range(2))
    return [image, text, torch.tensor(2.3, requires_grad=True), torch.tensor(-4.0, requires_grad=True)]


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("term", [MultiPositiveSigmoid("sum_over_n"), EyeSigmoid("sum_over_n")])
def test_diagonal_targets_equal_open_clip(open_clip_loss: ModuleType, term) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = leaves(), leaves()
    value = term(PairBatch.from_targets(*ours, torch.eye(6)))
    image, text, scale, bias = theirs
    expected = open_clip_loss.SigLipLoss()(unit(image), unit(text), scale.exp(), bias)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    value.backward()
    expected.backward()
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-5, atol=1e-5)


def test_info_nce_equals_open_clip(open_clip_loss: ModuleType) -> None:
    ours, theirs = leaves(), leaves()
    value = InfoNCE()(PairBatch.from_targets(*ours, torch.eye(6)))
    image, text, scale, _ = theirs
    expected = open_clip_loss.ClipLoss()(unit(image), unit(text), scale.exp())
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    value.backward()
    expected.backward()
    for mine, yours in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-5, atol=1e-5)


def test_diagonal_targets_equal_transformers_return_loss() -> None:
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text_config = small | {"vocab_size": 32, "max_position_embeddings": 8}
    vision_config = small | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text_config, vision_config=vision_config)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(1.7)
        model.logit_bias.fill_(-2.5)
    inputs = {"input_ids": torch.randint(32, (5, 8)), "pixel_values": torch.randn(5, 3, 16, 16)}
    model(**inputs, return_loss=True).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    output = model(**inputs, return_loss=True)
    features = model.get_image_features(inputs["pixel_values"]), model.get_text_features(inputs["input_ids"])
    value = MultiPositiveSigmoid("sum_over_n")(
        PairBatch.from_targets(
            *(feature.pooler_output for feature in features),
            model.logit_scale.squeeze(),
            model.logit_bias.squeeze(),
            torch.eye(5),
        )
    )
    torch.testing.assert_close(value, output.loss, rtol=1e-5, atol=1e-5)
    value.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-5, msg=name)


@settings(max_examples=25, deadline=None)
@given(images=st.integers(2, 40), texts=st.integers(2, 40))
def test_balanced_does_not_depend_on_the_size_of_the_batch(images: int, texts: int) -> None:
    targets = torch.zeros(images, texts)
    targets[:, 0] = 1
    batch = PairBatch.from_targets(
        torch.ones(images, 1), torch.ones(texts, 1), torch.tensor(0.0), torch.tensor(0.0), targets
    )
    expected = torch.nn.functional.softplus(torch.tensor([-1.0, 1.0])).sum()
    torch.testing.assert_close(MultiPositiveSigmoid()(batch), expected)


def test_a_shared_condition_is_a_negative_for_the_diagonal_baseline_alone() -> None:
    image = torch.eye(2)
    targets = torch.tensor([[1.0], [1.0]])
    batch = PairBatch.from_targets(image, torch.ones(1, 2), torch.tensor(3.0), torch.tensor(0.0), targets)
    assert MultiPositiveSigmoid("mean")(batch).item() < 1e-5
    assert EyeSigmoid("mean")(batch).item() > 5
