"""Views of photographs: which pixels they show, by ramps whose bilinear values are known."""

import numpy as np
import pytest
import torch

from siglip_med.inference.views import MOST, views

SIDE, INNER = 32, 28
CORNERS = [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]


def ramps():
    """``[1, 3, 32, 32]``: the column, the row, and the square of the row."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    return torch.from_numpy(np.stack([x, y, y**2])[None])


def test_the_first_is_the_photograph_itself_and_each_second_mirrors_the_one_before():
    pixels = ramps()
    found = list(views(pixels, MOST))
    assert len(found) == MOST
    assert found[0] is pixels
    for whole, mirrored in zip(found[::2], found[1::2], strict=True):
        assert whole.shape == pixels.shape
        np.testing.assert_array_equal(mirrored.numpy(), whole.numpy()[..., ::-1])


@pytest.mark.parametrize("number", range(5))
def test_crops_show_seven_eighths_from_center_and_corners(number):
    crop = list(views(ramps(), MOST))[2 * (number + 1)][0].numpy()
    top, left = CORNERS[number]
    inside = [(place + 0.5) * INNER / SIDE - 0.5 for place in range(1, SIDE - 1)]
    for channel, along in ((0, [left + at for at in inside]), (1, [top + at for at in inside])):
        line = crop[channel][5, 1:-1] if channel == 0 else crop[channel][1:-1, 5]
        np.testing.assert_allclose(line, along, atol=1e-4)


def test_fewer_are_the_first_of_more_and_none_is_refused():
    few, many = list(views(ramps(), 3)), list(views(ramps(), 6))
    assert len(few) == 3
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))
    for count in (0, MOST + 1):
        with pytest.raises(ValueError, match="1 to 12 views"):
            list(views(ramps(), count))
