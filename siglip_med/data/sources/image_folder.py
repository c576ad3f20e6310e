"""A folder of folders: ``<root>/<condition>/*.jpg`` or ``<root>/<train|val|test>/<condition>/*.jpg``."""

import re
from dataclasses import dataclass
from pathlib import Path

from siglip_med.data.images import SUFFIXES
from siglip_med.data.sources.base import FolderSource
from siglip_med.data.sources.values import parse_split
from siglip_med.data.table import ImageTable, TableRow, build_table
from siglip_med.errors import UserError

_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test"})


@dataclass(frozen=True, kw_only=True)
class ImageFolderSource(FolderSource):
    """Images whose folder says the condition. Where every folder of the root is named like a split, they are splits.

    Args:
        group_pattern: regular expression with one group, matched at the start of the file name: what it captures is
            the case, e.g. ``(patient\\d+)_``; None makes each image its own case.

    Raises:
        UserError: as `FolderSource`; a pattern that is none, or that a file name does not match.
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
        tops = _folders(root)
        if tops and all(top.name.lower() in _SPLIT_FOLDERS for top in tops):
            folders = [(parse_split(top.name, str(top)), folder) for top in tops for folder in _folders(top)]
        else:
            folders = [("", folder) for folder in tops]
        files = [(split, folder, path) for split, folder in folders for path in _files(folder)]
        images = [item for item in files if item[2].suffix.lower() in SUFFIXES]
        if not images:
            raise UserError(f"{root}: holds no folder with images; it should look like {root}/CONDITION/IMAGE.jpg")
        rows = [
            TableRow(
                image=path.relative_to(root).as_posix(),
                weights={folder.name: 1.0},
                source_row=number,
                case=self._case(path),
                source_split=split,
            )
            for number, (split, folder, path) in enumerate(images, start=1)
        ]
        notes = []
        if len(images) < len(files):
            notes.append(f"{len(files) - len(images)} files without an image extension are passed over")
        if self.group_pattern is None:
            notes.append("no group pattern: each image is its own case, which leaks where a patient has several")
        return build_table(rows, root=root, source=str(root), notes=notes)

    def _case(self, path: Path) -> str:
        if self.group_pattern is None:
            return ""
        match = re.match(self.group_pattern, path.name)
        if match is None or not match[1]:
            raise UserError(f"{path}: the file name does not match data.source.group_pattern {self.group_pattern!r}")
        return match[1]


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


def _files(path: Path) -> list[Path]:
    return sorted(item for item in path.rglob("*") if item.is_file() and not item.name.startswith("."))
