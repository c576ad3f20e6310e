"""Images and texts as points of the towers' shared space: for search, clustering, or a classifier of one's own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from siglip_med.core.extras import require
from siglip_med.core.files import write_whole
from siglip_med.inference.familiarity import BLANK
from siglip_med.inference.files import batches, none_readable
from siglip_med.models import PromptEnsemble, TwoTower, cut_texts

SUFFIXES = (".npz", ".parquet")
"""Endings of the files that `Embeddings.save` writes."""
NORMALIZATION = "L2: every embedding has length 1, so the dot product of two is their cosine"


@dataclass(frozen=True)
class Embeddings:
    """N images and texts of one model.

    Attributes:
        ids: the N paths and texts.
        kinds: ``image`` or ``text`` of each.
        vectors: ``[N, E]`` float32, L2-normalized.
        model: name of the base, and `TwoTower.fingerprint`, by which embeddings of one model are known.
        unreadable: path and reason of every file that is no image.
        notes: a sentence each on what is odd with images and texts that have a row.
    """

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    vectors: np.ndarray
    model: dict[str, str]
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def about(self) -> dict[str, Any]:
        """What a file says of its rows."""
        return {
            "format": "siglip_med.embeddings 1",
            "model": self.model,
            "normalization": NORMALIZATION,
            "unreadable": [{"image": image, "reason": reason} for image, reason in self.unreadable],
            "notes": list(self.notes),
        }

    def save(self, path: Path) -> None:
        """Writes ``id``, ``kind`` and ``embedding`` of each row, and `about` as JSON, whole or not at all.

        In ``.npz`` they are arrays of these names and ``about``; in ``.parquet`` columns, and ``siglip_med`` in the
        metadata of the schema.

        Raises:
            UserError: pyarrow is missing, the folder cannot be written, or the disk is full.
        """
        about = json.dumps(self.about(), ensure_ascii=False)
        if path.suffix == ".parquet":
            write_whole(path, lambda file: self._parquet(file, about))
            return
        ids, kinds = (np.array(column, np.str_) for column in (self.ids, self.kinds))
        write_whole(
            path, lambda file: np.savez(file, id=ids, kind=kinds, embedding=self.vectors, about=np.array(about))
        )

    def _parquet(self, file: IO[bytes], about: str) -> None:
        arrow, parquet = (require(name, "out=….parquet", "parquet") for name in ("pyarrow", "pyarrow.parquet"))
        rows = arrow.FixedSizeListArray.from_arrays(arrow.array(self.vectors.reshape(-1)), self.vectors.shape[1])
        table = arrow.table({"id": arrow.array(self.ids), "kind": arrow.array(self.kinds), "embedding": rows})
        parquet.write_table(table.replace_schema_metadata({"siglip_med": about}), file)


@torch.no_grad()
def embed(model: TwoTower, images: Sequence[Path], texts: Sequence[str], batch_size: int = 16) -> Embeddings:
    """Embeds image files as a run embeds its own, and texts as it does its prompts; images first, each in their order.

    Args:
        model: in evaluation mode.
        images: files; those that cannot be read are listed and have no row.
        texts: sentences.
        batch_size: images encoded at once.

    Raises:
        UserError: images were given and none can be read.
    """
    unreadable: list[tuple[str, str]] = []
    read: list[str] = []
    vectors, blank = [np.empty((0, model.embedding_dim), np.float32)], 0
    for paths, pixels, faults in batches(images, model.image_spec, batch_size, unreadable, "embedding images"):
        vectors.append(model.embed_images(pixels.to(model.logit_scale.device)).cpu().numpy())
        read += map(str, paths)
        blank += faults.count(BLANK)
    if images and not read:
        raise none_readable(unreadable)
    notes = [f"{blank:,} of {len(read):,} images are blank: there is nothing in them"] if blank else []
    if texts:
        vectors.append(PromptEnsemble([(text,) for text in texts], model.tokenize).encode(model).cpu().numpy())
        notes += cut_texts(model, texts, "texts")
    kinds = ("image",) * len(read) + ("text",) * len(texts)
    about = {"base": model.base.name, "fingerprint": model.fingerprint()}
    return Embeddings((*read, *texts), kinds, np.concatenate(vectors), about, tuple(unreadable), tuple(notes))
