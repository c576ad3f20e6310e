"""Damaged files end in an image or in one sentence, and never in an image that is silently another one."""

import numpy as np
import pytest

from siglip_med.data.images import BadImageError, decode
from tests.data.test_images import encode, photograph

MUTATIONS = 500


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """One of: bits flipped, bytes overwritten, a piece cut out, doubled, zeroed, or the end cut off."""
    mutant = bytearray(data)
    start = int(generator.integers(len(mutant)))
    length = int(generator.integers(1, 64))
    match generator.integers(6):
        case 0:
            for place in generator.integers(len(mutant), size=generator.integers(1, 8)):
                mutant[place] ^= 1 << generator.integers(8)
        case 1:
            mutant[start : start + length] = generator.bytes(length)
        case 2:
            del mutant[start : start + length]
        case 3:
            mutant[start:start] = mutant[start : start + length]
        case 4:
            mutant[start : start + length] = bytes(len(mutant[start : start + length]))
        case _:
            del mutant[start:]
    return bytes(mutant)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_mutations_give_an_image_or_one_clear_error(form: str) -> None:
    generator = np.random.default_rng(0)
    data = encode(photograph(120, 100), form)
    good = decode(data, 32, 1_000_000)
    outcomes = {"same": 0, "other": 0}
    reasons: list[str] = []
    for _ in range(MUTATIONS):
        try:
            found = decode(mutate(data, generator), 32, 1_000_000)
        except BadImageError as error:
            reasons.append(str(error))
        else:
            assert found.shape == (32, 32, 3)
            assert found.dtype == np.uint8
            outcomes["same" if np.array_equal(found, good) else "other"] += 1
    assert sum(outcomes.values()) + len(reasons) == MUTATIONS
    assert len(reasons) > MUTATIONS / 2
    assert all(reason and "\n" not in reason for reason in reasons)
    if form == "PNG":  # has checksums: damage cannot pass for another picture
        assert outcomes["other"] == 0, outcomes
