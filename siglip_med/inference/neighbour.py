"""A training image that another image is near to: what inference finds, and reports and pages show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """One training image with the conditions that its labels list; the thumbnail is a JPEG, or None if not allowed."""

    row: int
    case: str
    image: str
    conditions: tuple[str, ...]
    cosine: float
    thumbnail: bytes | None
