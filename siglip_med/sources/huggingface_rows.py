"""Opens a data set of Hugging Face `datasets`, whole or streamed, as rows that come shard by shard."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from siglip_med.core.errors import UserError
from siglip_med.sources.huggingface_cells import library, top_column

logger = logging.getLogger(__name__)

READERS = ("webdataset", "parquet", "arrow", "json", "csv", "imagefolder")
"""Formats that ``data_files`` may hold. The library has others, and one of them (``pandas``) runs what a file says."""

PROTOCOLS = frozenset({"http", "https", "hf", "s3", "gs", "gcs", "az", "abfs", "abfss", "zip", "file"})
"""Where files may lie; fsspec knows more, and some of those evaluate templates or start programs."""

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
        columns: that its rows have.
        features: types of the columns by the library; None where only the rows themselves show them.
        shards: names of the pieces it is read in, in order.
        rows: how many there are; None where the data set does not say.
        open: rows of shard ``i`` from its row ``k`` on, each a mapping, with encoded images.
    """

    name: str
    columns: tuple[str, ...]
    features: Mapping[str, Any] | None
    shards: tuple[str, ...]
    rows: int | None
    open: Callable[[int, int], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Opened:
    """A data set: its splits, and a digest of the files that they come from ("" where the library names none)."""

    parts: tuple[Part, ...]
    digest: str


@dataclass(frozen=True)
class Place:
    """Which data set, and how it is read; the fields are those of `HuggingFaceSource`."""

    dataset: str
    name: str | None
    revision: str | None
    split: str | None
    data_files: DataFiles | None
    streaming: bool
    images: tuple[str, ...]
    others: tuple[str, ...]


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


def expanded(data_files: DataFiles | None) -> dict[str, list[str]] | list[str] | None:
    """``data_files`` with every range written out."""
    if data_files is None:
        return None
    if isinstance(data_files, dict):
        return {split: _all([given] if isinstance(given, str) else given) for split, given in data_files.items()}
    return _all([data_files] if isinstance(data_files, str) else data_files)


def check_protocols(name: str, where: str) -> None:
    """Refuses an address that is neither a path nor of `PROTOCOLS`.

    Raises:
        UserError: see above; ``where`` is put before the message.
    """
    *hops, last = name.split("::")
    protocols = [hop.partition("://")[0] for hop in (*hops, *([last] if "://" in last else []))]
    if not PROTOCOLS.issuperset(protocols):
        raise UserError(f"{where}: {name} is neither a path nor an address of {', '.join(sorted(PROTOCOLS))}")


def open_parts(place: Place) -> Opened:
    """The splits of a data set, in its own order.

    Raises:
        UserError: there is no such data set or split, or it cannot be loaded.
    """
    datasets = library()
    folder = Path(place.dataset).expanduser()
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if saved and (place.streaming or place.data_files is not None):
        key = "streaming" if place.streaming else "data_files"
        raise UserError(
            f"data.source.{key}: {place.dataset} is a folder of save_to_disk, which is read where it lies; leave it out"
        )
    files: dict[str, Sequence[str]] = {}
    digest = ""
    options = {
        "revision": place.revision,
        "data_files": expanded(place.data_files),
        "features": _fields(place),
    }
    options = {name: value for name, value in options.items() if value is not None}
    try:
        if saved:
            loaded = datasets.load_from_disk(str(folder))
        elif place.streaming:
            builder = datasets.load_dataset_builder(place.dataset, place.name, **options)
            files = dict(builder.config.data_files or {})
            digest = _digest(builder.config.data_files or {})
            loaded = builder.as_streaming_dataset()
        else:
            loaded = datasets.load_dataset(place.dataset, place.name, **options)
    except Exception as error:  # whatever the reader of a format or the network raises
        raise UserError(f"data.source.dataset={place.dataset}: cannot be loaded ({said(error)})") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or ""): loaded}
    if place.split is not None:
        if place.split not in splits:
            raise UserError(f"{place.dataset}: has no split {place.split!r}; there are {', '.join(splits)}")
        splits = {place.split: splits[place.split]}
    make = _streamed if place.streaming else _whole
    return Opened(tuple(make(place, name, rows, files.get(name, ())) for name, rows in splits.items()), digest)


def said(error: BaseException) -> str:
    """What an error of a library says, on one line; its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _all(patterns: Sequence[str]) -> list[str]:
    return [name for pattern in patterns for name in expand(pattern)]


def _digest(data_files: Mapping[str, Any]) -> str:
    """Of the names of all files, and of what their servers say of their state (ETag, commit, or time of change)."""
    lines = [
        f"{split} {name} {state}"
        for split, names in data_files.items()
        for name, state in zip(names, getattr(names, "origin_metadata", [""] * len(names)), strict=True)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _fields(place: Place) -> Any:
    """Types of the files of a WebDataset sample; None for other formats.

    The library would take them from the first five samples, and refuse where these differ: in a set of JPEG and PNG
    files, or where a sidecar has a key more.
    """
    if place.dataset != "webdataset":
        return None
    datasets = library()
    kinds = {
        **dict.fromkeys(("json", "jsn"), datasets.Json()),
        **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), datasets.Value("int64")),
        **dict.fromkeys(("txt", "text", "transcript"), datasets.Value("string")),
    }
    fields = {name: datasets.Image(decode=False) for name in place.images}
    for column in place.others:
        # a sidecar may be called lesion.json, and its key lesion.json.condition
        name = re.sub(r"((?:^|\.)jso?n)\..*$", r"\1", column)
        fields[name] = kinds.get(name.rpartition(".")[2].lower(), datasets.Value("binary"))
    return datasets.Features(fields)


def _encoded(place: Place, rows: Any) -> tuple[Any, tuple[str, ...], Mapping[str, Any] | None]:
    """The rows with the columns that are wanted alone and with images as bytes; all column names; the features."""
    features = rows.features
    if features is None:  # streamed text formats: only the rows show what they hold
        first: dict[str, Any] = next(iter(rows), {})
        return rows, tuple(first), None
    columns = tuple(features)
    wanted = {top_column(name, columns) for name in (*place.images, *place.others)} - {None}
    rows = rows.select_columns([name for name in columns if name in wanted])
    images = [name for name in place.images if name in features]
    for name in images:
        rows = rows.cast_column(name, library().Image(decode=False))
    # those of WebDataset are ours, and say nothing of what the files hold
    return rows, columns, None if place.dataset == "webdataset" else features


def _whole(place: Place, name: str, rows: Any, files: Sequence[str]) -> Part:
    rows, columns, features = _encoded(place, rows)
    count = len(rows)
    return Part(name, columns, features, (name,), count, lambda shard, skip: iter(rows.select(range(skip, count))))


def _streamed(place: Place, name: str, rows: Any, files: Sequence[str]) -> Part:
    info = (rows.info.splits or {}).get(name)
    try:
        rows, columns, features = _encoded(place, rows)
    except Exception as error:
        raise UserError(f"data.source.dataset={place.dataset}: cannot be read ({said(error)})") from error
    count = rows.num_shards
    named = list(files) if len(files) == count else [f"shard {number} of {count}" for number in range(1, count + 1)]

    def opened(shard: int, skip: int) -> Iterator[dict[str, Any]]:
        _check_tar_end(named[shard])
        part = rows.shard(num_shards=count, index=shard, contiguous=True)
        return iter(part.skip(skip) if skip else part)

    return Part(name, columns, features, tuple(named), info.num_examples if info else None, opened)


def _check_tar_end(name: str) -> None:
    """Refuses a tar that is cut short, which a reader takes for its end where the cut falls between two members.

    Raises:
        UserError: the file does not end as a tar does. A server that gives no part of a file is not asked again, which
            the log says.
    """
    if not name.endswith(".tar"):
        return
    with fsspec.open(name, "rb") as file:
        try:
            file.seek(-_TAR_END, 2)
            end = file.read(_TAR_END)
        except (OSError, ValueError, NotImplementedError) as error:
            logger.warning(
                "%s: its end cannot be read alone (%s), so whether it is cut short was not checked", name, said(error)
            )
            return
    if end.strip(b"\0"):
        raise UserError(f"{name}: is cut short (a tar ends with 1,024 zero bytes); fetch or write it again")
