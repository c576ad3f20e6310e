"""What a model said of a split: everything a metric, a plot or a later reader needs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from siglip_med.core.errors import UserError, one_line
from siglip_med.core.files import write_json, write_text, write_whole
from siglip_med.core.outside import csv_text, frame_csv
from siglip_med.core.provenance import Provenance
from siglip_med.core.ranges import UNFAMILIAR
from siglip_med.metrics.ranking import condition_order

FORMAT_VERSION = 2
IMAGES_FILE = "images.csv"
ARRAYS_FILE = "arrays.npz"
META_FILE = "meta.json"
FRAME_COLUMNS = ("image", "image_id", "case", "skin_tone", "sex", "age_group", "site")
_ARRAYS = (
    "logits", "labels", "primary", "dissimilarity", "train_counts", "text_embeddings", "image_embeddings",
)  # fmt: skip
_OPTIONAL = ("nearest", "familiarity")
_UNIT = 0.02
"""How far an embedding's length and a cosine may be off: half precision."""
_NAMES = ("conditions", "codes", "groups", "chapters", "blocks")


@dataclass(frozen=True)
class Predictions:
    """Scores of N images against C conditions, with what is needed to judge them.

    Attributes:
        logits: ``[N, C]`` float32, image against the ensembled prompt of each condition (sigmoid scale).
        labels: ``[N, C]`` float32 in [0, 1]; > 0 means positive.
        primary: ``[N]`` int, the image's first condition.
        frame: N rows of the table (image, image_id, case, skin_tone, sex, age_group, site; and source where several
            are mixed), unknown = "".
        conditions: the C names; ``codes``: their ICD-10-CM codes; ``groups``: their coarse groups.
        dissimilarity: ``[C, C]`` the matrix D.
        train_counts: ``[C]`` images per condition in the training split (the class prior, head/middle/tail).
        text_embeddings: ``[C, E]`` L2-normalized ensembled prompt embeddings.
        image_embeddings: ``[N, E]`` L2-normalized, or empty ``[0, E]``.
        split: "val", "test" or a user's name for it.
        meta: free text about where the scores came from (run, checkpoint).
        chapters: the C ICD-10-CM chapters, or empty: then chapter accuracy is undefined (NaN).
        blocks: the C ICD-10-CM blocks, or empty: then block accuracy is undefined (NaN).
        provenance: drawings or photographs, of which data set; None where nobody said.
        nearest: ``[N]`` float32, cosine to the training image that looks most alike by the base's features; ``[0]``
            where that was not looked for.
        familiarity: ``[N]`` float32, p-value of each image against validation (`docs/metrics.md`); ``[0]`` where
            the run knows none.

    Raises:
        ValueError: a shape, a range or a column breaks the description above.
        UserError: a logit is not finite (the run diverged).
    """

    logits: np.ndarray
    labels: np.ndarray
    primary: np.ndarray
    frame: pd.DataFrame
    conditions: tuple[str, ...]
    codes: tuple[str, ...]
    groups: tuple[str, ...]
    dissimilarity: np.ndarray
    train_counts: np.ndarray
    text_embeddings: np.ndarray
    image_embeddings: np.ndarray
    split: str = "test"
    meta: dict[str, str] = field(default_factory=dict)
    chapters: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    provenance: Provenance | None = None
    nearest: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    familiarity: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    def __post_init__(self) -> None:
        """Check shapes and ranges once, so that no metric has to."""
        _check_shapes(self)
        _check_values(self)

    @classmethod
    def of(
        cls,
        logits: ArrayLike,
        labels: ArrayLike,
        dissimilarity: ArrayLike | None = None,
        cases: Sequence[str] | None = None,
        train_counts: ArrayLike | None = None,
    ) -> "Predictions":
        """Scores from anywhere, to be judged as a run's are; what is not given is unknown.

        Args:
            logits: ``[N, C]`` on the sigmoid scale.
            labels: ``[N, C]`` in [0, 1]; the heaviest one of an image (the first of equal ones) is its primary one.
            dissimilarity: ``[C, C]``; 1 between any two conditions if omitted.
            cases: ``[N]``; every image is its own case if omitted.
            train_counts: ``[C]``; 0 if omitted, and then there is no class prior.

        Examples:
            >>> predictions = Predictions.of([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[1, 0, 0], [0, 1, 0]])
            >>> predictions.conditions, predictions.primary.tolist()
            (('condition 0', 'condition 1', 'condition 2'), [0, 1])
        """
        scores, targets = np.asarray(logits, dtype=np.float32), np.asarray(labels, dtype=np.float32)
        images, conditions = scores.shape
        rows = [str(row) for row in range(images)]
        frame = pd.DataFrame({name: [""] * images for name in FRAME_COLUMNS})
        blank = ("",) * conditions
        return cls(
            logits=scores,
            labels=targets,
            primary=targets.argmax(axis=1),
            frame=frame.assign(image=rows, image_id=rows, case=rows if cases is None else list(cases)),
            conditions=tuple(f"condition {index}" for index in range(conditions)),
            codes=blank,
            groups=blank,
            dissimilarity=1.0 - np.eye(conditions) if dissimilarity is None else np.asarray(dissimilarity, np.float64),
            train_counts=np.zeros(conditions, dtype=np.int64) if train_counts is None else np.asarray(train_counts),
            text_embeddings=np.empty((conditions, 0), dtype=np.float32),
            image_embeddings=np.empty((0, 0), dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def positive(self) -> np.ndarray:
        """``[N, C]`` bool, the conditions that each image's labels list."""
        return self.labels > 0

    @property
    def first(self) -> np.ndarray:
        """``[N]`` int, the first prediction of each image; at equal scores a negative one (`condition_order`)."""
        return condition_order(self.logits, self.positive)[:, 0]

    @property
    def size(self) -> str:
        """``480 images of 240 cases``."""
        return f"{len(self):,} images of {len(np.unique(self.cases)):,} cases"

    @property
    def cases(self) -> np.ndarray:
        """``[N]`` case of each image, as text: the unit that is resampled and never straddles a split."""
        return self.frame["case"].to_numpy(dtype=str)

    @property
    def unfamiliar(self) -> np.ndarray:
        """``[N]`` bool, images whose familiarity is below `UNFAMILIAR`; none where it is not known."""
        return self.familiarity < UNFAMILIAR if len(self.familiarity) else np.zeros(len(self), dtype=bool)

    def take(self, rows: np.ndarray) -> "Predictions":
        """The same predictions for some images: ``rows`` are positions (repeats allowed) or an ``[N]`` bool mask."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            logits=self.logits[rows],
            labels=self.labels[rows],
            primary=self.primary[rows],
            frame=self.frame.iloc[rows].reset_index(drop=True),
            image_embeddings=self.image_embeddings[rows] if len(self.image_embeddings) else self.image_embeddings,
            nearest=self.nearest[rows] if len(self.nearest) else self.nearest,
            familiarity=self.familiarity[rows] if len(self.familiarity) else self.familiarity,
        )

    def with_logits(self, logits: np.ndarray) -> "Predictions":
        """The same images judged by other scores ``[N, C]`` (a baseline, a calibrated model)."""
        return replace(self, logits=np.asarray(logits, dtype=np.float32))

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load` reads: every metric can be recomputed from it, bit for bit.

        ``images.csv`` has a row per image (the table's columns), ``arrays.npz`` the scores, labels and matrices in the
        order of those rows, ``meta.json`` the names. Each file is written under a temporary name first.

        Args:
            folder: made if it is absent; earlier predictions in it are replaced.
        """
        folder = Path(folder)
        meta = {"format": "siglip_med.predictions", "version": FORMAT_VERSION, "images": len(self), "split": self.split}
        meta |= {"meta": self.meta} | {name: list(getattr(self, name)) for name in _NAMES}
        meta |= {"provenance": self.provenance.as_dict() if self.provenance else None}
        write_text(folder / IMAGES_FILE, frame_csv(self.frame.astype(str)))
        there = [name for name in _OPTIONAL if len(getattr(self, name))]
        arrays: dict[str, Any] = {name: getattr(self, name) for name in (*_ARRAYS, *there)}
        write_whole(folder / ARRAYS_FILE, lambda file: np.savez_compressed(file, **arrays))
        write_json(folder / META_FILE, meta, indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing, unreadable, of another version, or does not fit the others.
        """
        folder = Path(folder)
        if not (folder / META_FILE).is_file():
            raise UserError(
                f"{folder}: no {META_FILE} there, so this is no folder of predictions; train or evaluate first"
            )
        try:
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            if meta.get("version") != FORMAT_VERSION:
                raise ValueError(f"format version {meta.get('version')}, this program reads {FORMAT_VERSION}")
            for name in (IMAGES_FILE, ARRAYS_FILE):
                if not (folder / name).is_file():
                    raise ValueError(f"no {name} there")
            frame = pd.read_csv(folder / IMAGES_FILE, dtype=str, keep_default_na=False, lineterminator="\n")
            frame = frame.map(csv_text).rename(columns=csv_text)
            if len(frame) != meta["images"]:
                raise ValueError(f"{IMAGES_FILE} has {len(frame)} rows, {META_FILE} says {meta['images']}")
            if frame["image_id"].duplicated().any():
                raise ValueError(f"{IMAGES_FILE} holds an image_id twice")
            with np.load(folder / ARRAYS_FILE, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*_ARRAYS, *_OPTIONAL) if name in file or name in _ARRAYS}
            names = {name: tuple(meta[name]) for name in _NAMES}
            odd = [name for name in _NAMES if not isinstance(meta[name], list) or not all(map(_is_text, meta[name]))]
            if odd or not all(map(str.strip, meta["conditions"])):
                raise ValueError(f"{META_FILE}: {(odd or ['conditions'])[0]} holds an entry that is no name")
            content: dict[str, Any] = arrays | names
            provenance = Provenance.read(meta.get("provenance"), str(folder / META_FILE))
            return cls(**content, frame=frame, split=meta["split"], meta=dict(meta["meta"]), provenance=provenance)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, BadZipFile) as error:
            reason = one_line(error)
            raise UserError(
                f"{folder}: these predictions cannot be read ({reason}); write them again: train, or evaluate with "
                "recompute=true"
            ) from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_shapes(predictions: Predictions) -> None:
    p = predictions
    images, conditions = len(p.logits), len(p.conditions)
    for name in (*(name for name in _ARRAYS if name != "primary"), *_OPTIONAL):
        if getattr(p, name).dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {getattr(p, name).dtype}, not real numbers")
    if p.primary.dtype.kind not in "iu":
        raise ValueError(f"primary holds {p.primary.dtype}, not positions of conditions")
    expected = {
        "logits": (images, conditions),
        "labels": (images, conditions),
        "primary": (images,),
        "dissimilarity": (conditions, conditions),
        "train_counts": (conditions,),
    }
    for name, shape in expected.items():
        if getattr(p, name).shape != shape:
            raise ValueError(f"{name} has shape {getattr(p, name).shape}, expected {shape}")
    if p.text_embeddings.ndim != 2 or len(p.text_embeddings) != conditions:
        raise ValueError(f"text_embeddings has shape {p.text_embeddings.shape}, expected ({conditions}, E)")
    if p.image_embeddings.ndim != 2 or len(p.image_embeddings) not in (0, images):
        raise ValueError(f"image_embeddings has shape {p.image_embeddings.shape}, expected ({images}, E) or (0, E)")
    for name in _OPTIONAL:
        if getattr(p, name).shape not in ((0,), (images,)):
            raise ValueError(f"{name} has shape {getattr(p, name).shape}, expected ({images},) or (0,)")
    if len(p.frame) != images:
        raise ValueError(f"frame has {len(p.frame)} rows, expected {images}")
    for name, required in (("codes", True), ("groups", True), ("chapters", False), ("blocks", False)):
        length = len(getattr(p, name))
        if length != conditions and (required or length):
            raise ValueError(f"{name} has {length} entries, expected {conditions}")
    if len(set(p.conditions)) != conditions:
        raise ValueError("conditions holds a name twice")
    missing = [name for name in FRAME_COLUMNS if name not in p.frame.columns]
    if missing:
        raise ValueError(f"frame has no column {missing[0]!r}")


def _check_values(predictions: Predictions) -> None:
    p = predictions
    finite = np.isfinite(p.logits).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise UserError(
            f"{int((~finite).sum())} of {len(p)} images of split {p.split!r} have a logit that is not finite (first: "
            f"{p.frame['image'].iloc[row]!r}): the run diverged; lower the learning rate or use bf16 or 32-bit"
        )
    if not ((p.labels >= 0) & (p.labels <= 1)).all():
        raise ValueError("labels holds values outside [0, 1]")
    if len(p) and not ((p.primary >= 0) & (p.primary < len(p.conditions))).all():
        raise ValueError(f"primary holds values outside 0..{len(p.conditions) - 1}")
    negative = np.flatnonzero(p.labels[np.arange(len(p)), p.primary] <= 0)
    if len(negative):
        raise ValueError(f"primary of row {negative[0]} is not among that image's labels")
    d = p.dissimilarity
    if not (
        np.isfinite(d).all() and (d >= 0).all() and (d <= 1).all() and np.allclose(d, d.T) and not np.diagonal(d).any()
    ):
        raise ValueError("dissimilarity must be symmetric with values from 0 to 1 and a zero diagonal")
    for name in ("text_embeddings", "image_embeddings"):
        lengths = np.linalg.norm(getattr(p, name).astype(np.float64), axis=1)
        if getattr(p, name).shape[1] and not (np.abs(lengths - 1) <= _UNIT).all():
            raise ValueError(f"{name} holds a row that is not of length 1")
    for name, low in (("nearest", -1.0), ("familiarity", 0.0)):
        values = getattr(p, name)
        if not ((values >= low - _UNIT) & (values <= 1 + _UNIT)).all():
            raise ValueError(f"{name} holds values outside [{low:g}, 1]")
    if not (np.isfinite(p.train_counts) & (p.train_counts >= 0)).all():
        raise ValueError("train_counts holds a negative or undefined count")
