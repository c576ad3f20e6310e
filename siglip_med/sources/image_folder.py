"""A folder of folders: ``<root>/<condition>/*.jpg`` or ``<root>/<train|val|test>/<condition>/*.jpg``."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from siglip_med.core.errors import UserError
from siglip_med.data.accounting import LeftOut
from siglip_med.data.checks import left_out_word
from siglip_med.data.images import HEIC_SUFFIXES, SUFFIXES
from siglip_med.data.table import ImageTable, TableRow
from siglip_med.data.values import parse_split
from siglip_med.sources.base import FolderSource, alias_key

_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
_HIDDEN, _LOOSE, _DEAD = "hidden files", "in no condition's folder", "links that lead nowhere"


@dataclass(frozen=True, kw_only=True)
class ImageFolderSource(FolderSource):
    """Images whose folder names the condition. Where every folder of the root is named like a split, they are splits.

    Every file below the root is used or counted as left out.

    Args:
        group_pattern: regular expression with one group, matched at the start of the file name: what it captures is
            the case, e.g. ``(patient\\d+)_``; None makes each image its own case.

    Raises:
        UserError: as `FolderSource`; a pattern that is none, or that a file name does not match; a condition's folder
            that has files but no image; folders of splits beside others.
    """

    group_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.group_pattern is not None:
            try:
                groups = re.compile(self.group_pattern).groups
            except re.error as error:
                raise UserError(f"data.source.group_pattern: {self.group_pattern!r} is no pattern ({error})") from error
            if groups != 1:
                raise UserError(f"data.source.group_pattern: {self.group_pattern!r} has {groups} groups; give it one")

    def read(self) -> ImageTable:
        """The files in alphabetical order as a table; ``source_row`` counts them."""
        root = self.folder()
        files = _files(root)
        images = {path for path in files if _why_not(root, path) is None}
        depth = 1 + _has_splits(root, files, images)
        rows: list[TableRow] = []
        dropped: Counter[str] = Counter()
        lost: dict[str, Counter[str]] = {}
        for path in files:
            reason = _why_not(root, path)
            if reason is None and len(path.parts) <= depth:
                reason = _LOOSE
            if reason is None:
                rows.append(self._row(root, path, depth, len(rows) + 1))
                continue
            dropped[reason] += 1
            if len(path.parts) > depth and reason != _HIDDEN:
                lost.setdefault(path.parts[depth - 1], Counter())[reason] += 1
        if not rows:
            why = f" ({', '.join(f'{count:,} {reason}' for reason, count in dropped.items())})" if dropped else ""
            raise UserError(f"{root}: holds no folder with images{why}; it should look like {root}/CONDITION/IMAGE.jpg")
        self._check_vanished(root, lost, {name for row in rows for name in row.weights})
        notes = []
        if self.group_pattern is None:
            notes.append("no group pattern: each image is its own case, which leaks where a patient has several")
        deeper = [row.image for row in rows if row.image.count("/") > depth]
        if deeper:
            notes.append(
                f"{len(deeper):,} images lie in folders below their condition's: the folder "
                f"{PurePosixPath(deeper[0]).parts[depth - 1]!r} alone is their condition"
            )
        left_out = [LeftOut(reason, count) for reason, count in dropped.items()]
        return self.table_of(rows, root, notes=notes, left_out=left_out, unit="files")

    def _row(self, root: Path, path: PurePosixPath, depth: int, number: int) -> TableRow:
        return TableRow(
            image=path.as_posix(),
            weights={path.parts[depth - 1]: 1.0},
            source_row=number,
            case=self._case(root / path),
            source_split=parse_split(path.parts[0], str(root)) if depth == 2 else "",
        )

    def _check_vanished(self, root: Path, lost: dict[str, Counter[str]], there: set[str]) -> None:
        """A condition none of whose files is an image must not vanish silently, unless the user left it out."""
        for name, reasons in sorted(lost.items()):
            chosen = self.conditions is None or name in self.conditions
            if name in there or not chosen or self.renamed.get(alias_key(name), "") is None:
                continue
            counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            raise UserError(
                f"{root / name}: none of its files is an image ({counts}); repair them, remove the folder, or leave it "
                f"out with {left_out_word(name)}"
            )

    def _case(self, path: Path) -> str:
        if self.group_pattern is None:
            return ""
        match = re.match(self.group_pattern, path.name)
        if match is None or not match[1]:
            raise UserError(f"{path}: the file name does not match data.source.group_pattern {self.group_pattern!r}")
        return match[1]


def _files(root: Path) -> list[PurePosixPath]:
    """Every file below the root, links followed (each folder once), relative to it and sorted."""
    seen: set[str] = set()
    found: list[PurePosixPath] = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in sorted(inner) if _first_visit(Path(folder, name), seen)]
        found += [PurePosixPath(Path(folder, name).relative_to(root).as_posix()) for name in files]
    return sorted(found)


def _first_visit(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    return not (real in seen or seen.add(real))  # type: ignore[func-returns-value]


def _why_not(root: Path, path: PurePosixPath) -> str | None:
    """Why a file is not taken for an image; None where it is."""
    suffix = path.suffix.lower()
    if any(part.startswith(".") for part in path.parts) or path.name.lower() in ("thumbs.db", "desktop.ini"):
        return _HIDDEN
    if not (root / path).is_file():
        return _DEAD
    if suffix in SUFFIXES:
        return None
    if suffix in HEIC_SUFFIXES:
        return "HEIC images (pip install 'siglip-med[heic]' reads them)"
    return f"files with the ending {suffix or 'none'}"


def _has_splits(root: Path, files: list[PurePosixPath], images: set[PurePosixPath]) -> bool:
    """Whether the root's folders are splits; a UserError where some are, and others hold images too."""
    tops = sorted({path.parts[0] for path in files if len(path.parts) > 1 and not path.parts[0].startswith(".")})
    tops = [top for top in tops if any(path.parts[0] == top for path in images if len(path.parts) > 1)]
    splits = [top for top in tops if top.lower() in _SPLIT_FOLDERS]
    if splits and len(splits) < len(tops):
        other = next(top for top in tops if top not in splits)
        raise UserError(
            f"{root}: holds folders named like splits ({', '.join(splits)}) beside {other!r}; keep either splits or "
            "conditions on this level"
        )
    return bool(splits)
