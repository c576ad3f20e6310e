"""Another clinic's data set as a whole: no split, its labels matched to a model's conditions, its leaks left out."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.core.ranges import PositiveShare
from siglip_med.data.datamodule import BatchSize, DataModule
from siglip_med.data.images import MAX_PIXELS, MAX_PIXELS_LIMIT
from siglip_med.data.near_duplicates import near_duplicate_pairs, perceptual_hashes
from siglip_med.data.sampling import Natural
from siglip_med.data.source import Source
from siglip_med.data.splitting.split import GivenSplitter, Split
from siglip_med.data.table import ImageTable

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
_UNUSED = ("splitter", "sampling", "augmentation", "batch_size", "drop_last", "split_file", "look_alikes")
_UNUSED += ("look_alikes_threshold",)


class ExternalData(DataModule):
    """The images of another data set, all of them ``test``; the settings of the group ``data`` that it needs, and more.

    After `setup`, `judge` gives the table labels of the model's conditions.

    Args:
        source: Where the table comes from.
        image: What the model expects; given by the program.
        cache_dir: As in `DataModule`.
        name: Of the folder that the results go to.
        matches: A ``matches.csv`` that a person changed; None matches by code.
        codes: A CSV with ``condition`` and ``code``, of any level, for labels that the curated tables do not know.
        keep_leaks: Whether images that the run has seen count all the same.
        leak_distance: Bits of 64 in which perceptual hashes of near-duplicates differ at most.
        eval_batch_size: As in `DataModule`, like what follows.
        num_workers: As there.
        on_bad_image: As there.
        max_pixels: As there.
        image_bits: As there; None: as the run reads its own.
        max_left_out: As there.
        max_case_share: As there.
        **unused: Settings of the group ``data`` on splits and training; what they say is not used.

    Raises:
        UserError: As of `DataModule`.
    """

    def __init__(
        self,
        source: Source,
        image: ImageSpec,
        cache_dir: str,
        name: Name,
        matches: str | None = None,
        codes: str | None = None,
        keep_leaks: bool = False,
        leak_distance: Annotated[int, Field(ge=0, le=32)] = 4,
        eval_batch_size: BatchSize = 128,
        num_workers: Annotated[int, Field(ge=0, le=1024)] = 2,
        on_bad_image: Literal["error", "skip"] = "error",
        max_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS_LIMIT)] = MAX_PIXELS,
        image_bits: Annotated[int, Field(ge=8, le=16)] | None = None,
        max_left_out: PositiveShare = 0.5,
        max_case_share: PositiveShare = 0.5,
        **unused: Any,
    ) -> None:
        if unknown := sorted(set(unused) - set(_UNUSED)):
            raise UserError(f"external.{unknown[0]}: no such setting of {type(self).__name__}")
        super().__init__(
            source,
            image,
            GivenSplitter(),
            Natural(),
            cache_dir,
            seed=0,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            on_bad_image=on_bad_image,
            max_pixels=max_pixels,
            image_bits=image_bits or image.bits,
            max_left_out=max_left_out,
            max_case_share=max_case_share,
            look_alikes="off",
        )
        self.title, self.matches, self.codes = name, matches, codes
        self.keep_leaks, self.leak_distance = keep_leaks, leak_distance

    def _divide(self) -> None:
        parts = np.full(len(self.table), "test")
        self.split = Split(self.table.frame["image_id"].to_numpy(dtype=str), self.table.cases, parts)
        self.train_counts = np.zeros(len(self.conditions), dtype=np.int64)

    def judge(
        self, rows: np.ndarray, labels: np.ndarray, primary: np.ndarray, conditions: Sequence[str], counts: np.ndarray
    ) -> None:
        """Keeps some images, and gives them labels of a model's conditions.

        Args:
            rows: ``[n]`` of the table.
            labels: ``[n, C]`` of them; ``primary``: ``[n]``.
            primary: the first condition of each.
            conditions: the C names.
            counts: ``[C]`` training images of the run.
        """
        frame = self.table.frame.iloc[rows].reset_index(drop=True).assign(primary=primary)
        self.table = replace(self.table, frame=frame, labels=labels, conditions=tuple(conditions))
        self.records, self.conditions = self.records[rows], tuple(conditions)
        self._divide()
        self.train_counts = counts


@dataclass(frozen=True)
class Leaks:
    """What of an external table a run has seen.

    Attributes:
        identical: ``[N]`` int, row of the run's table that has the same bytes; -1 where none has.
        near: ``[N]`` int, row of the run's table whose perceptual hash is nearest, within the distance; -1 where none.
        left_out: ``[N]`` bool, these images and all others of their cases.
    """

    identical: np.ndarray
    near: np.ndarray
    left_out: np.ndarray

    @property
    def counts(self) -> Mapping[str, int]:
        """Images by kind; what is identical is not counted as a near-duplicate too."""
        same, near = self.identical >= 0, self.near >= 0
        found = {"byte-identical": int(same.sum()), "near-duplicates": int((near & ~same).sum())}
        return found | {"others of their cases": int((self.left_out & ~same & ~near).sum())}


def find_leaks(table: ImageTable, seen: ImageTable, rows: np.ndarray, distance: int) -> Leaks:
    """Finds the images of an external table that a run trained on or was chosen by.

    Args:
        table: external, N images.
        seen: of the run; ``rows`` of it count.
        rows: of training and validation.
        distance: bits of 64 in which perceptual hashes differ at most.

    Raises:
        UserError: an image of the run's cannot be read, so that nothing could be said.
    """
    part = replace(seen, frame=seen.frame.iloc[rows].reset_index(drop=True), labels=seen.labels[rows])
    place = {digest: row for row, digest in zip(rows.tolist(), _digests(part), strict=True)}
    identical = np.array([place.get(digest, -1) for digest in _digests(table)])
    theirs, ours = perceptual_hashes(table, "skip"), perceptual_hashes(part)
    pairs = near_duplicate_pairs(theirs, distance, ours)
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")]  # the nearest is written last
    near = np.full(len(table), -1)
    near[pairs[:, 0]] = rows[pairs[:, 1]]
    leaked = (identical >= 0) | (near >= 0)
    return Leaks(identical, near, np.isin(table.cases, table.cases[leaked]))


def _digests(table: ImageTable) -> list[bytes]:
    def digest(image: str) -> bytes:
        try:
            return hashlib.blake2b((table.root / image).read_bytes(), digest_size=16).digest()
        except OSError as error:
            raise UserError(f"{table.root / image}: cannot be read ({error.strerror}); mend it") from error

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(digest, table.frame["image"]))
