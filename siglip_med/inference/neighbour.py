"""A training image that another image is near to: what inference finds, and reports and pages show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """One training image.

    Attributes:
        row: of the run's table.
        case: its case.
        image: its path in the data set.
        conditions: that its labels list, the heaviest first.
        cosine: of its embedding and the one asked about, in [-1, 1].
        thumbnail: JPEG; None where the data may not be shown.
    """

    row: int
    case: str
    image: str
    conditions: tuple[str, ...]
    cosine: float
    thumbnail: bytes | None
