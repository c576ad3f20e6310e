"""Maps of where a model looks: their shape for every family, what they leave behind, and what they are worth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.maps import draw, hits, randomize
from siglip_med.errors import UserError
from siglip_med.inference import occlusion_map, relevance_map
from siglip_med.inference.maps import _eager, _recorded
from siglip_med.models import Frozen, TwoTower, siglip
from siglip_med.models.prefix import encoder_layers
from tests.models import tiny
from tests.models.runs import KINDS, TEXTS, build, images, model_node

GRID = (4, 4)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> TwoTower:
    return build(model_node(request.param, tmp_path / request.param))


def _text(model: TwoTower) -> torch.Tensor:
    with torch.no_grad():
        return normalize(model.encode_texts(**model.tokenize(TEXTS[:1]))[0], dim=-1)


def test_a_map_has_a_number_a_patch_and_leaves_the_model_as_it_was(model: TwoTower) -> None:
    model.train()
    kernel = model.vision_tower().config._attn_implementation
    text, (image,) = _text(model), images(1)
    found = relevance_map(model, image, text)
    assert found.shape == GRID
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert found.std() > 0
    assert model.training
    assert model.vision_tower().config._attn_implementation == kernel != "eager"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recording_changes_no_embedding(model: TwoTower) -> None:
    model.eval()
    tower = model.vision_tower()
    with torch.no_grad():
        plain = model.encode_images(images())
        with _eager(tower), _recorded(tower, encoder_layers(tower)) as (blocks, pools):
            recorded = model.encode_images(images())
    torch.testing.assert_close(recorded, plain, rtol=1e-4, atol=1e-5)
    for attention in (*blocks, *pools):
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
    assert len(blocks) == tiny.LAYERS


def test_an_occlusion_map_is_the_mean_fall_over_the_squares_that_hide_a_cell(model: TwoTower) -> None:
    model.eval()
    text, (image,) = _text(model), images(1)
    found = occlusion_map(model, image, text, window=16, stride=8, batch_size=7)
    mean = image.mean(dim=(1, 2))[:, None, None]
    padded = torch.full((3, 48, 48), torch.nan)
    padded[:, 8:40, 8:40] = image
    expected = np.zeros(GRID)
    with torch.no_grad():
        whole = model.logits(model.encode_images(image[None]), text[None]).item()
        for row, column in np.ndindex(GRID):
            for top, left in ((0, 0), (0, 8), (8, 0), (8, 8)):
                hidden = padded.clone()
                hidden[:, 8 * row + top :, 8 * column + left :][:, :16, :16] = mean
                seen = hidden[:, 8:40, 8:40]
                expected[row, column] += whole - model.logits(model.encode_images(seen[None]), text[None]).item()
    np.testing.assert_allclose(found, expected / 4, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(12, 8), (40, 8), (8, 0), (4, 8)])
def test_a_window_that_does_not_fit_is_one_line(tmp_path: Path, window: int, stride: int) -> None:
    model = build(model_node("siglip", tmp_path))
    with pytest.raises(UserError, match=f"window={window}, stride={stride}"):
        occlusion_map(model, images(1)[0], _text(model), window, stride)


def test_pixels_of_a_batch_or_a_text_of_another_space_are_one_line(tmp_path: Path) -> None:
    model = build(model_node("siglip", tmp_path))
    for make in (relevance_map, occlusion_map):
        with pytest.raises(UserError, match=r"\[3, H, W\]"):
            make(model, images(2), _text(model))
        with pytest.raises(UserError, match="embedding of one text"):
            make(model, images(1)[0], torch.zeros(3))


def test_the_peak_lies_in_the_lesion_and_random_weights_lose_it() -> None:
    model = siglip(path="package:siglip_tiny", adaptation=Frozen()).eval()
    drawings = draw(model, 100)

    def relevance(pixels: torch.Tensor, text: torch.Tensor) -> np.ndarray:
        return relevance_map(model, pixels, text)

    (found, _), chance = hits(drawings, relevance, 2), drawings.chance(0)
    randomize(model)
    assert chance < 0.25
    assert found > 0.5  # 0.64, where the standard error is 0.05
    assert hits(drawings, relevance, 2)[0] < 0.42  # 0.30: lesions lie near the center, where random maps often peak
