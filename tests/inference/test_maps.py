"""Maps of where a model looks: their shape for every family, what they leave behind, and what they are worth."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.maps import Drawings, draw, hits, randomize
from siglip_med.core.errors import UserError
from siglip_med.inference import occlusion_map, relevance_map, shifted_maps, shifted_relevance_map
from siglip_med.inference.maps import _eager, _recorded, relevance_maps
from siglip_med.models import Frozen, TwoTower, siglip
from siglip_med.models.frozen_blocks import encoder_layers
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


def test_maps_of_several_images_are_those_of_each(model: TwoTower) -> None:
    text, several = _text(model), images(3)
    alone = np.stack([relevance_map(model, image, text) for image in several])
    assert len({alone[number].tobytes() for number in range(3)}) == 3
    np.testing.assert_allclose(relevance_maps(model, several, text), alone, rtol=1e-3, atol=1e-6 * alone.max())


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
    found = occlusion_map(model, image, text)
    mean = image.mean(dim=(1, 2))[:, None, None]
    places = list(itertools.product(range(-2, 32, 2), repeat=2))  # corners of squares of 4 pixels, some beyond the edge
    padded = torch.full((len(places), 3, 36, 36), torch.nan)
    padded[:, :, 2:34, 2:34] = image
    for hidden, (top, left) in zip(padded, places, strict=True):
        hidden[:, top + 2 :, left + 2 :][:, :4, :4] = mean
    with torch.no_grad():
        whole = model.logits(model.encode_images(image[None]), text[None]).item()
        falls = whole - model.logits(model.encode_images(padded[:, :, 2:34, 2:34]), text[None])[:, 0].numpy()
    expected = np.empty((16, 16))
    for row, column in np.ndindex(expected.shape):
        over = [top <= 2 * row < top + 4 and left <= 2 * column < left + 4 for top, left in places]
        assert sum(over) == 4
        expected[row, column] = falls[over].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shifts", [1, 2, 4])
def test_a_shifted_map_is_the_mean_of_maps_moved_back(model: TwoTower, monkeypatch, shifts: int) -> None:
    """Pixel by pixel, with a map that is any function of the patches."""
    (image,) = images(1)

    def blocks(model: TwoTower, pixels: torch.Tensor, text: torch.Tensor) -> np.ndarray:
        return pixels.abs().mean(1).unfold(1, 8, 8).unfold(2, 8, 8).amax((3, 4)).numpy()

    monkeypatch.setattr(shifted_maps, "relevance_maps", blocks)
    found = shifted_relevance_map(model, image, _text(model), shifts)
    cell, side = 8 // shifts, 32
    padded = np.pad(image.numpy(), ((0, 0), (8, 8), (8, 8)), mode="reflect")
    moves = [number * cell for number in range(-(shifts // 2), shifts - shifts // 2)]
    total, seen = np.zeros((side, side)), np.zeros((side, side))
    for down, right, mirrored in itertools.product(moves, moves, (False, True)):
        view = padded[:, 8 + down : 40 + down, 8 + right : 40 + right]
        values = blocks(model, torch.from_numpy((view[:, :, ::-1] if mirrored else view)[None].copy()), image)[0]
        values = values / values.sum()
        for row, column in np.ndindex(side, side):
            y, x = row - down, column - right  # where the pixel of the image lies in the view
            if 0 <= y < side and 0 <= x < side:
                total[row, column] += values[y // 8, (side - 1 - x if mirrored else x) // 8]
                seen[row, column] += 1
    expected = (total / seen)[::cell, ::cell]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(("patch", "side", "shifts"), [(8, 64, 4), (8, 72, 2), (14, 112, 2), (16, 224, 2), (7, 49, 1)])
def test_coarse_patches_are_cut_finer(monkeypatch, patch: int, side: int, shifts: int) -> None:
    grid = np.ones((side // patch, side // patch), np.float32)
    monkeypatch.setattr(shifted_maps, "patch_grid", lambda *_: grid.shape)
    monkeypatch.setattr(shifted_maps, "relevance_maps", lambda _, views, __: np.stack([grid] * len(views)))
    found = shifted_relevance_map(None, torch.zeros(3, side, side), torch.zeros(1))
    assert found.shape == (len(grid) * shifts,) * 2


def test_a_shifted_map_of_nothing_is_nothing_and_a_part_of_a_pixel_is_one_line(tmp_path: Path, monkeypatch) -> None:
    model = build(model_node("siglip", tmp_path))
    with pytest.raises(UserError, match=r"shifts=3: a patch is 8 pixels wide"):
        shifted_relevance_map(model, images(1)[0], _text(model), 3)
    monkeypatch.setattr(shifted_maps, "relevance_maps", lambda _, views, __: np.zeros((len(views), *GRID), np.float32))
    assert (shifted_relevance_map(model, images(1)[0], _text(model)) == 0).all()


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
        return shifted_relevance_map(model, pixels, text)

    (found, _), chance = hits(drawings, relevance, 2), drawings.chance(0)
    half = Drawings(drawings.pixels[:50], drawings.lesions[:50], drawings.texts[:50])
    randomize(model)
    assert chance < 0.25
    assert found > 0.75  # 0.81, where the standard error is 0.04
    assert hits(half, relevance, 2)[0] < 0.42  # 0.28: lesions lie near the center, where random maps often peak
