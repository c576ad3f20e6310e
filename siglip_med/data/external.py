"""Another clinic's data set as a whole: no split, labels of a model's conditions, what a run has seen of it."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from siglip_med.core.config import check_arguments
from siglip_med.core.errors import UserError
from siglip_med.data.datamodule import DataModule
from siglip_med.data.near_duplicates import near_duplicate_pairs, perceptual_hashes
from siglip_med.data.splitting.split import Split
from siglip_med.data.table import ImageTable


class ExternalData(DataModule):
    """The images of another data set, all of them ``test``.

    Args:
        name: Of the folder that the results go to.
        matches: A ``matches.csv`` that a person changed; None matches by code.
        codes: A CSV with ``condition`` and ``code``, of any level, for labels that the curated tables do not know.
        keep_leaks: Whether images that the run has seen count all the same.
        zero_shot: Whether the base before training ranks the set's own labels too, for a second pass over the images.
        leak_distance: Bits of 64 in which perceptual hashes of near-duplicates differ at most.
        **settings: Of `DataModule`; those on splits and training say nothing here, and 16-bit files are read as the
            run reads its own where ``image_bits`` is None.

    Raises:
        UserError: A setting is unknown or wrong; and as of `DataModule`.
    """

    def __init__(
        self,
        name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")],
        matches: str | None = None,
        codes: str | None = None,
        keep_leaks: bool = False,
        zero_shot: bool = False,
        leak_distance: Annotated[int, Field(ge=0, le=32)] = 4,
        **settings: Any,
    ) -> None:
        typed = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
        check_arguments("external", DataModule, "DataModule", typed, complete=False)
        settings["image_bits"] = settings.get("image_bits") or settings["image"].bits
        super().__init__(**settings, seed=0)
        self.title, self.matches, self.codes = name, matches, codes
        self.keep_leaks, self.leak_distance, self.look_alikes = keep_leaks, leak_distance, "off"
        self.zero_shot = zero_shot

    def _divide(self) -> None:
        parts = np.full(len(self.table), "test")
        self.split = Split(self.table.frame["image_id"].to_numpy(dtype=str), self.table.cases, parts)
        self.train_counts = np.zeros(len(self.conditions), dtype=np.int64)

    def keep(self, rows: np.ndarray) -> None:
        """Keeps ``[n]`` rows of the table alone."""
        self.table = self.table.take(rows)
        self.records = self.records[rows]
        self._divide()


@dataclass(frozen=True)
class Leaks:
    """What of N external images a run has seen.

    Attributes:
        identical: ``[N]`` row of the run's table with the same bytes, or -1.
        near: ``[N]`` row of it with the nearest perceptual hash within the distance, or -1.
        left_out: ``[N]`` bool, these images and all others of their cases.
    """

    identical: np.ndarray
    near: np.ndarray
    left_out: np.ndarray

    @property
    def counts(self) -> Mapping[str, int]:
        """Images by kind; what is identical is not counted as a near-duplicate too."""
        same, near = self.identical >= 0, self.near >= 0
        found = {"byte-identical": same, "near-duplicates": near & ~same}
        return {k: int(v.sum()) for k, v in found.items()} | {
            "others of their cases": int((self.left_out & ~same & ~near).sum())
        }


def find_leaks(table: ImageTable, seen: ImageTable, rows: np.ndarray, distance: int) -> Leaks:
    """Finds the images of an external table that are among ``rows`` of a run's, byte by byte or by perceptual hash.

    Raises:
        UserError: an image of the run's cannot be read, so that nothing could be said.
    """
    part = seen.take(rows)
    place = dict(zip(_digests(part), rows.tolist(), strict=True))
    identical = np.array([place.get(digest, -1) for digest in _digests(table)])
    pairs = near_duplicate_pairs(perceptual_hashes(table, "skip"), distance, perceptual_hashes(part))
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")]  # the nearest is written last
    near = np.full(len(table), -1)
    near[pairs[:, 0]] = rows[pairs[:, 1]]
    return Leaks(identical, near, np.isin(table.cases, table.cases[(identical >= 0) | (near >= 0)]))


def _digests(table: ImageTable) -> list[bytes]:
    def digest(image: str) -> bytes:
        try:
            return hashlib.blake2b((table.root / image).read_bytes()).digest()
        except OSError as error:
            raise UserError(f"{table.root / image}: cannot be read ({error.strerror}); mend it") from error

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(digest, table.frame["image"]))
