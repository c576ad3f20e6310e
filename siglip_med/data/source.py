"""What a source of images is; those there are live in `siglip_med.sources` and `siglip_med.synthetic`."""

from typing import Protocol, runtime_checkable

from siglip_med.data.table import ImageTable


@runtime_checkable
class Source(Protocol):
    """Where images and labels come from."""

    def prepare(self) -> None:
        """Downloads, exports or renders what is not there yet; runs once, in one process."""

    def load(self) -> ImageTable:
        """Reads the table; opens no image unless near-duplicates are asked for."""
