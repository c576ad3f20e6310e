"""The training cases that an image is nearest to: their embeddings, labels and, where that is allowed, thumbnails."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from PIL import Image

from siglip_med.core.errors import UserError, one_line
from siglip_med.core.progress import tracked
from siglip_med.core.seals import check_sealed, write_sealed
from siglip_med.data import LabeledData
from siglip_med.data.images import read_image
from siglip_med.inference.neighbour import Neighbour
from siglip_med.inference.splits import Embedded, embed_split, project
from siglip_med.models import TwoTower

NEIGHBOURS = "neighbours.npz"
"""The file's name in a run folder."""

FORMAT = "siglip_med.neighbours 1"
_SIDE = 96
_ARRAYS = ("embeddings", "labels", "rows", "cases", "images", "thumbnails", "ends", "conditions", "weights", "format")


class OtherWeights(UserError):
    """Training cases as another model embeds them: nothing is wrong with the file, but it is of no use here."""


@dataclass(frozen=True)
class Neighbours:
    """n images of a training split, as one model embeds them.

    Attributes:
        embeddings: ``[n, E]`` float32, L2-normalized.
        labels: ``[n, C]`` float32 in [0, 1].
        rows: ``[n]`` int64, row of each in the run's table.
        cases: ``[n]`` case of each.
        images: ``[n]`` path of each in the data set.
        thumbnails: one JPEG per image; empty where the source does not allow them (``data.source.thumbnails``).
        conditions: the C names.
        weights: digest of the trained weights that made the embeddings (`TwoTower.fingerprint`).
    """

    embeddings: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    cases: tuple[str, ...]
    images: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    conditions: tuple[str, ...]
    weights: str

    def __len__(self) -> int:
        return len(self.rows)

    def nearest(self, embedding: np.ndarray, k: int) -> tuple[Neighbour, ...]:
        """The k images of the largest cosine to ``[E]``, nearest first, exactly; equal ones in the order of the table.

        Raises:
            UserError: the embedding is of another size.
        """
        if embedding.shape != self.embeddings.shape[1:]:
            raise UserError(
                f"the embedding has shape {list(embedding.shape)}, the training cases have "
                f"{list(self.embeddings.shape[1:])}: they are of different models"
            )
        cosines = self.embeddings @ (embedding / np.linalg.norm(embedding)).astype(np.float32)
        return tuple(self._one(int(place), float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:k])

    def _one(self, place: int, cosine: float) -> Neighbour:
        labels = self.labels[place]
        listed = [column for column in np.argsort(-labels, kind="stable") if labels[column] > 0]
        return Neighbour(
            int(self.rows[place]),
            self.cases[place],
            self.images[place],
            tuple(self.conditions[column] for column in listed),
            cosine,
            self.thumbnails[place] if self.thumbnails else None,
        )

    def save(self, path: Path) -> None:
        """Writes the file whole and sealed."""
        ends = np.cumsum([len(one) for one in self.thumbnails], dtype=np.int64)
        arrays: dict[str, Any] = {
            "embeddings": self.embeddings.astype(np.float32),
            "labels": self.labels.astype(np.float32),
            "rows": self.rows.astype(np.int64),
            "cases": np.array(self.cases, dtype=np.str_),
            "images": np.array(self.images, dtype=np.str_),
            "thumbnails": np.frombuffer(b"".join(self.thumbnails), dtype=np.uint8),
            "ends": ends,
            "conditions": np.array(self.conditions, dtype=np.str_),
            "weights": np.array(self.weights),
            "format": np.array(FORMAT),
        }
        write_sealed(path, lambda file: np.savez(file, **arrays), archive=True)

    @classmethod
    def load(cls, path: Path, model: TwoTower) -> "Neighbours":
        """Reads what `save` wrote; nothing in it is executed.

        Raises:
            UserError: the file is absent, altered, or no such file.
            OtherWeights: it is of another model than this.
        """
        if not path.is_file():
            raise UserError(
                f"{path}: no training cases there; train.py writes them at the end of a run unless "
                "evaluation.neighbours=0, so train again to get them"
            )
        wrong = check_sealed(path)
        if wrong is not None:
            raise UserError(f"{path} {wrong}; copy it again from the run, or remove it")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _ARRAYS}
            found = _checked(arrays)
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            reason = one_line(error)
            raise UserError(f"{path} is no file of training cases that this program reads ({reason})") from error
        if found.weights != model.fingerprint():
            raise OtherWeights(
                f"{path}: was made by other weights than this checkpoint's, so its distances would mean nothing; it "
                "belongs to the run's best.ckpt"
            )
        return found


def beside(checkpoint: Path, model: TwoTower) -> tuple[Neighbours | None, str]:
    """The training cases that the run of a checkpoint of ``model`` kept, or None, and a sentence on what is missing.

    Raises:
        UserError: the file is there and altered, or no such file.
    """
    if checkpoint.is_dir():
        return None, f"no training cases: an export holds none, they stay in the run folder as {NEIGHBOURS}"
    home = checkpoint.resolve().parent
    path = (home.parent if home.name == "checkpoints" else home) / NEIGHBOURS
    if not path.is_file():
        return None, (
            f"no training cases: there is no {path}; train.py writes it at the end of a run unless "
            "evaluation.neighbours=0"
        )
    try:
        found = Neighbours.load(path, model)
    except OtherWeights as error:
        return None, f"no training cases: {error}"
    lacking = (
        "training cases without pictures: their source does not allow thumbnails (data.source.thumbnails), or one of "
        "its files was gone"
    )
    return found, "" if found.thumbnails else lacking


def _checked(arrays: dict[str, np.ndarray]) -> Neighbours:
    """The arrays as `Neighbours`, if they fit each other."""
    if str(arrays["format"]) != FORMAT:
        raise ValueError(f"its format is {str(arrays['format'])[:40]!r}, not {FORMAT!r}")
    embeddings, labels, rows, ends = (arrays[name] for name in ("embeddings", "labels", "rows", "ends"))
    count, blob = len(rows), arrays["thumbnails"].tobytes()
    shapes = embeddings.ndim == labels.ndim == 2 and rows.ndim == ends.ndim == arrays["conditions"].ndim == 1
    lengths = {len(embeddings), len(labels), len(arrays["cases"]), len(arrays["images"])}
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    if (
        not shapes
        or lengths != {count}
        or labels.shape[1] != len(arrays["conditions"])
        or len(ends) not in (0, count)
        or (np.diff(starts) < 0).any()
        or starts[-1] != len(blob)
        or not np.isfinite(embeddings).all()
    ):
        raise ValueError("its parts do not fit each other")
    cases, images, conditions = (tuple(map(str, arrays[name])) for name in ("cases", "images", "conditions"))
    thumbnails = tuple(blob[start:end] for start, end in pairwise(starts))
    return Neighbours(embeddings, labels, rows, cases, images, thumbnails, conditions, str(arrays["weights"]))


def keep_training_cases(
    model: TwoTower, data: LabeledData, most: int, seed: int, folder: Path, embedded: Embedded | None = None
) -> str:
    """Writes `NEIGHBOURS` into a run folder (nothing where ``most`` is 0), and says what is in it."""
    if most == 0:
        return "kept for the nearest training cases: nothing (evaluation.neighbours=0)"
    found, note = training_cases(model, data, most, seed, embedded)
    found.save(folder / NEIGHBOURS)
    return note


def training_cases(
    model: TwoTower, data: LabeledData, most: int, seed: int, embedded: Embedded | None = None
) -> tuple[Neighbours, str]:
    """Embeds ``most`` of the training images, drawn at random, in float32 and without augmentation.

    Where all of them are among ``embedded``, of the same model, no image goes through its tower again.

    Returns:
        The images, and a sentence on how many of them there are. Where a file went since the run began, they have no
        thumbnails, and the sentence names it: the run itself does not need the files any more.
    """
    train = data.rows("train")
    total = len(train)
    chosen = train[np.sort(np.random.default_rng(seed).permutation(total)[:most])]
    if embedded is not None and np.isin(chosen, embedded[1]).all():
        places = pd.Index(embedded[1]).get_indexer(pd.Index(chosen))
        embeddings, rows = project(model, embedded[0][places]), chosen
    else:
        embeddings, rows = embed_split(model, data, "train", model.embed_images, "embedding the training cases", chosen)
    table = data.table
    images = tuple(table.frame["image"].iloc[rows])
    thumbnails: tuple[bytes, ...] = ()
    shown = "without thumbnails (data.source.thumbnails)"
    if table.thumbnails:
        thumbnails, shown = _thumbnails(table.root, images, model.image_spec.bits)
    cases, weights = tuple(table.cases[rows]), model.fingerprint()
    found = Neighbours(embeddings, table.labels[rows], rows, cases, images, thumbnails, data.conditions, weights)
    cut = (
        f"{len(rows):,} of {total:,} training images, drawn by the seed (evaluation.neighbours)"
        if len(rows) < total
        else f"all {total:,} training images"
    )
    return found, f"kept for the nearest training cases: {cut}, {shown}"


def _thumbnails(root: Path, images: Sequence[str], bits: int) -> tuple[tuple[bytes, ...], str]:
    """One JPEG per image, or none at all, and how to say so."""
    thumbnails = []
    try:
        for image in tracked(images, "thumbnails", "images"):
            buffer = io.BytesIO()
            Image.fromarray(read_image(root / image, _SIDE, bits=bits)).save(buffer, "JPEG", quality=80)
            thumbnails.append(buffer.getvalue())
    except UserError as error:
        return (), f"without thumbnails ({error})"
    return tuple(thumbnails), "with thumbnails"
