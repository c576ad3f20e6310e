"""Maps against a tower whose answer is known, and against plain loops."""

import numpy as np
import pytest
import torch

from siglip_med.demo.maps import GRID, occlusion_map, relevance_map
from tests.models import runs


class Corner(torch.nn.Module):
    """Scores the mean of one cell of the photograph, and nothing else."""

    def __init__(self, row, column, side):
        super().__init__()
        self.place = (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))

    def encode_images(self, images):
        return images[:, :, *self.place].mean(dim=(1, 2, 3))[:, None]

    def logits(self, images, texts):
        return images @ texts.T


@pytest.fixture
def pixels():
    """A gray photograph with one bright cell, at row 2 and column 5."""
    result = torch.zeros(3, 32, 32)
    result[:, 8:12, 20:24] = 1.0
    return result


@pytest.mark.parametrize("map_of", [relevance_map, occlusion_map])
def test_the_map_is_high_where_the_score_comes_from_and_nowhere_else(map_of, pixels):
    found = map_of(Corner(2, 5, 4), pixels, torch.ones(1))
    assert found.shape == (GRID, GRID)
    assert found.dtype == np.float32
    assert np.unravel_index(found.argmax(), found.shape) == (2, 5)
    assert np.abs(np.delete(found.ravel(), 2 * GRID + 5)).max() == pytest.approx(0, abs=1e-6)


def test_the_map_turns_its_sign_with_the_text(pixels):
    for map_of in (relevance_map, occlusion_map):
        up, down = (map_of(Corner(2, 5, 4), pixels, torch.full((1,), sign)) for sign in (1.0, -1.0))
        np.testing.assert_allclose(up, -down, atol=1e-6)
        assert up.max() > 0


def test_covering_equals_a_loop_on_a_real_tower(tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path / "base")).eval()
    image = runs.images(1)[0]
    text = model.encode_texts(**model.tokenize([runs.TEXTS[0]]))[0].detach()
    found = occlusion_map(model, image, text, batch_size=5)
    side = image.shape[-1] // GRID
    assert side * GRID == image.shape[-1]
    with torch.no_grad():
        whole = model.logits(model.encode_images(image[None]), text[None]).item()
        for row, column in ((0, 0), (3, 6), (7, 7)):
            covered = image.clone()
            for channel in range(3):
                covered[channel, row * side : (row + 1) * side, column * side : (column + 1) * side] = image[
                    channel
                ].mean()
            expected = whole - model.logits(model.encode_images(covered[None]), text[None]).item()
            assert found[row, column] == pytest.approx(expected, abs=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert relevance_map(model, image, text).shape == (GRID, GRID)
    assert all(parameter.grad is None for parameter in model.parameters())
