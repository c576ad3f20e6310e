"""Finds the files of a table whose names are spelled a little differently on the disk."""

import unicodedata
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from siglip_med.data.table import ImageTable


def find_files(table: ImageTable) -> ImageTable:
    """The same table with image paths as the disk has them.

    Letter case (``.jpg`` for ``.JPG``) and the form of accents (composed or decomposed) don't count, as long as one
    file alone fits. Paths that fit no file stay, for the policy on bad images to judge.
    """
    listing = lru_cache(maxsize=64)(_listing)
    images, changed = [], 0
    for image in table.frame["image"]:
        found = image
        if not (table.root / image).is_file():
            spelled = PurePosixPath()
            for part in PurePosixPath(image).parts:
                fits = [part] if (table.root / spelled / part).exists() else []
                fits = fits or listing(table.root / spelled).get(_plain(part), [])
                if len(fits) != 1:
                    break
                spelled /= fits[0]
            else:
                found = str(spelled)
                changed += 1
        images.append(found)
    if not changed:
        return table
    # without names: cards repeat it, and a file's may be a patient's
    note = f"{changed:,} images are spelled otherwise than their files (letter case or accents)"
    return replace(table, frame=table.frame.assign(image=images)).with_notes(note)


def near_files(path: Path) -> str:
    """What to say of files beside a missing one: names with another ending; "" where there are none."""
    names = [name for fits in _listing(path.parent).values() for name in fits]
    stem = _plain(path.stem)
    same = sorted(name for name in names if _plain(Path(name).stem) == stem)
    if same:
        return f" (there is {same[0]})"
    return "" if path.parent.is_dir() else f" (nor does the folder {path.parent})"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _listing(folder: Path) -> dict[str, list[str]]:
    """Names of a folder's files by their plain form."""
    names: dict[str, list[str]] = {}
    if folder.is_dir():
        for item in folder.iterdir():
            names.setdefault(_plain(item.name), []).append(item.name)
    return names


def removed_beside(table: Path) -> Path:
    """Where cleaning leaves the rows that it removes from a table."""
    return table.with_name(f"{table.stem}_removed{table.suffix}")
