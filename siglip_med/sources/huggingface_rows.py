"""Opens a data set of Hugging Face `datasets`, whole or streamed, as rows that come shard by shard."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from siglip_med.core.errors import UserError, one_line
from siglip_med.core.extras import require

logger = logging.getLogger(__name__)

READERS = ("webdataset", "parquet", "arrow", "json", "csv", "imagefolder")
"""Formats that ``data_files`` may hold. The library has others, and one of them (``pandas``) runs code from a file."""

PROTOCOLS = frozenset({"http", "https", "hf", "s3", "gs", "gcs", "az", "abfs", "abfss", "zip", "file"})
"""Where files may be; fsspec supports more, and some of those evaluate templates or start programs."""

DataFiles = str | list[str] | dict[str, str | list[str]]
"""Patterns of file names; by split where a mapping."""

_NUMBERS = re.compile(r"{(\d+)\.\.(\d+)}")
_MOST_FILES = 1_000_000
_TAR_END = 1024


@dataclass(frozen=True)
class Part:
    """One split.

    Attributes:
        name: of the split.
        features: types of its columns by the library, as `flat` names them; None where only the rows show them.
        shards: names of the pieces it is read in, in order.
        total: its rows; None where the data set does not tell.
        stream: the library's iterable, with encoded images.
    """

    name: str
    features: Mapping[str, Any] | None
    shards: tuple[str, ...]
    total: int | None
    stream: Any

    def open(self, shard: int, skip: int) -> Iterator[dict[str, Any]]:
        """Rows of a shard behind the first ``skip``, as `flat` names their cells; a UserError for a truncated tar."""
        _check_tar_end(self.shards[shard])
        rows = self.stream.shard(num_shards=len(self.shards), index=shard, contiguous=True)
        return map(flat, rows.skip(skip) if skip else rows)

    def has(self, column: str) -> bool:
        """Whether a column is there, as far as types tell; whatever may be in JSON objects counts as there."""
        known = {} if self.features is None else self.features
        json = [name for name, kind in known.items() if isinstance(kind, library().Json)]
        return self.features is None or column in known or any(column.startswith(f"{name}.") for name in json)

    def class_names(self, column: str) -> list[str] | None:
        """Names behind the numbers of a column of class labels, or of lists of them."""
        kind = (self.features or {}).get(column)
        kind = getattr(kind, "feature", kind)
        return list(kind.names) if isinstance(kind, library().ClassLabel) else None


def library() -> Any:
    """The library `datasets`; a UserError where it is not installed."""
    return require("datasets", feature="data=huggingface", extra="huggingface")


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the cells of nested columns beside these, under dotted names: ``json`` and ``json.condition``."""
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": item for inner, item in flat(value).items()}
    return found


def expand(pattern: str) -> list[str]:
    """File names with number ranges written out, as WebDataset writes them: ``train-{000..099}.tar``.

    Raises:
        UserError: a range runs backwards, or there are more than a million names.
    """
    found = _NUMBERS.search(pattern)
    if found is None:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    rest = expand(pattern[found.end() :])
    if first > last or (last - first + 1) * len(rest) > _MOST_FILES:
        raise UserError(
            f"data.source.data_files: {found[0]} is no range of up to {_MOST_FILES:,} files that runs upwards"
        )
    start, width = pattern[: found.start()], len(found[1])
    return [f"{start}{number:0{width}d}{end}" for number in range(first, last + 1) for end in rest]


def expanded(data_files: Any) -> Any:
    """`DataFiles` with every range written out, as lists."""
    if isinstance(data_files, Mapping):
        return {split: expanded(given) for split, given in data_files.items()}
    patterns = [data_files] if isinstance(data_files, str) else data_files
    return [name for pattern in patterns for name in expand(pattern)]


def check_protocols(name: str, where: str) -> None:
    """A UserError, begun by ``where``, for an address of which a hop is neither a path nor of `PROTOCOLS`."""
    *hops, last = name.split("::")
    protocols = [hop.partition("://")[0] for hop in (*hops, *([last] if "://" in last else []))]
    if not PROTOCOLS.issuperset(protocols):
        raise UserError(f"{where}: {name} is neither a path nor an address of {', '.join(sorted(PROTOCOLS))}")


@contextmanager
def in_one_line(said: str, advice: str = "") -> Iterator[None]:
    """Whatever the reader of a format, a file system or the network raises, as one line: what, why, what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{said} ({one_line(error, 300)}){advice}") from error


def open_parts(settings: Mapping[str, Any], images: Sequence[str], others: Sequence[str]) -> tuple[list[Part], str]:
    """The splits of a data set, in its own order, and a digest of its files ("" where the library names none).

    Args:
        settings: of `HuggingFaceSource`.
        images: columns of images.
        others: the other columns that are wanted.

    Raises:
        UserError: there is no such data set or split, or it cannot be loaded.
    """
    with in_one_line(f"data.source.dataset={settings['dataset']}: cannot be loaded"):
        return _opened(settings, images, others)


def _opened(settings: Mapping[str, Any], images: Sequence[str], others: Sequence[str]) -> tuple[list[Part], str]:
    datasets = library()
    dataset, streaming, wanted = settings["dataset"], settings["streaming"], settings["split"]
    folder = Path(dataset).expanduser()
    files: Mapping[str, Any] = {}
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        if streaming or settings["data_files"]:
            key = "streaming" if streaming else "data_files"
            raise UserError(
                f"data.source.{key}: {dataset} is a folder of save_to_disk, which is read in place; leave it out"
            )
        loaded = datasets.load_from_disk(str(folder))
    else:
        options = {name: settings[name] for name in ("name", "revision") if settings[name] is not None}
        if settings["data_files"]:
            options["data_files"] = expanded(settings["data_files"])
        if dataset == "webdataset":
            options["features"] = _webdataset_features(images, others)
        if streaming:
            builder = datasets.load_dataset_builder(dataset, **options)
            files = builder.config.data_files or {}
            loaded = builder.as_streaming_dataset()
        else:
            loaded = datasets.load_dataset(dataset, **options)
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or ""): loaded}
    if wanted is not None and wanted not in splits:
        raise UserError(f"{dataset}: has no split {wanted!r}; there are {', '.join(splits)}")
    parts = []
    for split, rows in splits.items():
        if wanted not in (None, split):
            continue
        about = (rows.info.splits or {}).get(split)
        total = about.num_examples if streaming and about else None if streaming else len(rows)
        features, stream = _encoded(rows if streaming else rows.to_iterable_dataset(), images, others)
        count, names = stream.num_shards, tuple(files.get(split, ()))
        if not streaming:
            names = (", ".join(filter(None, (dataset, split))),)
        elif len(names) != count:
            names = tuple(f"shard {number} of {count}" for number in range(1, count + 1))
        # the settings of WebDataset are set here, and tell nothing of what the files hold
        parts.append(Part(split, None if dataset == "webdataset" else features, names, total, stream))
    return parts, _digest(files)


def _encoded(stream: Any, images: Sequence[str], others: Sequence[str]) -> tuple[dict[str, Any] | None, Any]:
    """The types of all columns, and the rows with those that are wanted alone and with images as bytes."""
    if stream.features is None:  # text formats: only the rows show what they hold
        return None, stream
    features = dict(stream.features)
    wanted = [name for name in features if any(f"{column}.".startswith(f"{name}.") for column in (*images, *others))]
    stream = stream.select_columns(wanted)
    for name in features.keys() & set(images):
        stream = stream.cast_column(name, library().Image(decode=False))
    return flat(features), stream


def _digest(data_files: Mapping[str, Any]) -> str:
    """Of the names of all files, and of their state on the server (ETag, commit, or time of change)."""
    lines = [
        f"{split} {name} {state}"
        for split, names in data_files.items()
        for name, state in zip(names, getattr(names, "origin_metadata", [""] * len(names)), strict=True)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _webdataset_features(images: Sequence[str], others: Sequence[str]) -> Any:
    """Types of the files of a WebDataset sample.

    The library would take them from the first five samples, and refuse where these differ: in a set of JPEG and PNG
    files, or where a sidecar has a key more.
    """
    datasets = library()
    kinds = {
        **dict.fromkeys(("json", "jsn"), datasets.Json()),
        **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), datasets.Value("int64")),
        **dict.fromkeys(("txt", "text", "transcript"), datasets.Value("string")),
    }
    features = {name: datasets.Image(decode=False) for name in images}
    for column in others:
        # a sidecar may be called lesion.json, and its key lesion.json.condition
        name = re.sub(r"((?:^|\.)jso?n)\..*$", r"\1", column)
        features[name] = kinds.get(name.rpartition(".")[2].lower(), datasets.Value("binary"))
    return datasets.Features(features)


def _check_tar_end(name: str) -> None:
    """Refuses a tar that is truncated, which a reader takes for its end where the cut falls between two members.

    A server that gives no part of a file is not asked again, which the log says.
    """
    if not name.endswith(".tar"):
        return
    with fsspec.open(name, "rb") as file:
        try:
            file.seek(-_TAR_END, 2)
            end = file.read(_TAR_END)
        except (OSError, ValueError, NotImplementedError) as error:
            logger.warning(
                "%s: its end cannot be read alone (%s), so whether it is truncated was not checked",
                name,
                one_line(error, 300),
            )
            return
    if end.strip(b"\0"):
        raise UserError(f"{name}: is truncated (a tar ends with 1,024 zero bytes); fetch or write it again")
