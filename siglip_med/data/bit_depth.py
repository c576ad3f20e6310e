"""How many of 16 bits per channel a data set uses: one rule for all of its files, by their brightest pixel.

Cameras and microscopes write 10, 12 or 14 bits into 16, and some exports write 8. One picture cannot tell: a dark one
of 16 bits looks like a bright one of 12, and a rule of its own for each would take exposure out of the set.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from siglip_med.core.files import write_json
from siglip_med.data.cache import stamp
from siglip_med.data.images import BadImageError, read_bytes, used_bits

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and exports use, the fewest first."""

_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jpf", ""})
"""Endings of files that may hold 16 bits per channel; others are not opened."""


@dataclass(frozen=True)
class BitDepth:
    """What the files of a data set with 16 bits per channel use.

    Attributes:
        bits: in use; 16 where there is no such file.
        files: of 16 bits per channel.
        needed: bits of their brightest color.
    """

    bits: int = 16
    files: int = 0
    needed: int = 0

    def account(self) -> list[str]:
        """A line for the account of the rows; none where no file has 16 bits."""
        if not self.files:
            return []
        return [
            f"16 bits per channel: {self.files:,} images, no color above {2**self.needed - 1:,}: the upper 8 of "
            f"{self.bits} bits are taken (data.image_bits)"
        ]


def bits_in_use(paths: Sequence[Path], memory: Path, workers: int = 1, wanted: int | None = None) -> BitDepth:
    """Looks at every file that may hold 16 bits per channel; those that cannot be read are left to the decoder.

    Args:
        paths: of the data set's images.
        memory: a JSON file that keeps what was found, by path, size and modification time.
        workers: threads.
        wanted: bits that the user says are in use; None: the fewest that hold the brightest color of all.
    """
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        known = {}
    candidates = [path for path in paths if path.suffix.lower() in _SUFFIXES]
    stamps = {str(path): list(stamp(path) or ()) for path in candidates}
    missing = [path for path in candidates if known.get(str(path), [None, None])[:-1] != stamps[str(path)]]
    if missing:
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            found = list(pool.map(_used_bits, missing))
        known |= {str(path): [*stamps[str(path)], value] for path, value in zip(missing, found, strict=True)}
        write_json(memory, known, indent=None)
    values = [known[str(path)][-1] for path in candidates if known[str(path)][-1] is not None]
    if not values:
        return BitDepth(wanted or 16)
    return BitDepth(wanted or next(bits for bits in DEPTHS if max(values) <= bits), len(values), max(values))


def _used_bits(path: Path) -> int | None:
    try:
        return used_bits(read_bytes(path))
    except BadImageError:
        return None
