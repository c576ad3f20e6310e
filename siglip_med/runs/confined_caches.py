"""A run that is read from a file writes below the cache of this command, whatever cache its settings name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siglip_med.core.config import TARGET
from siglip_med.core.outside import say
from siglip_med.core.trust import Builders

_ELSEWHERE = "stored"


def kept_below(
    cache_dir: str | Path, data: Mapping[str, Any], features: Any, given: Mapping[str, Any], allowed: Builders
) -> tuple[dict[str, Any], Any]:
    """Stored ``data`` and ``features`` nodes with their caches below this command's cache.

    A cache that the file has outside is moved, which is printed: what is kept there is then made again. The
    folder of a source that writes into it (drawings, an export of a hub's data set) is one.

    Args:
        cache_dir: of this command, ``paths.cache_dir``.
        data: the node, already checked by `siglip_med.core.trust`.
        features: the node, or None.
        given: keys of the data node given on this command line; they may name any folder.
        allowed: the builders that the node was checked against.
    """
    data, source = dict(data), data.get("source")
    if "cache_dir" in data and "cache_dir" not in given:
        data["cache_dir"] = _below(cache_dir, "data.cache_dir", data["cache_dir"])
    if isinstance(source, Mapping) and _writes(source, allowed) and "root" not in (given.get("source") or {}):
        data["source"] = {**source, "root": _below(cache_dir, "data.source.root", source.get("root"))}
    if isinstance(features, Mapping) and "cache_dir" in features:
        features = {**features, "cache_dir": _below(cache_dir, "features.cache_dir", features["cache_dir"])}
    return data, features


def _writes(source: Mapping[str, Any], allowed: Builders) -> bool:
    return bool(getattr(allowed.get(str(source.get(TARGET))), "writes", False))


def _below(cache_dir: str | Path, key: str, stored: Any) -> Any:
    """The stored folder if it is below the cache; else a folder of its own there."""
    here = Path(cache_dir).resolve()
    if not isinstance(stored, str) or Path(stored).resolve().is_relative_to(here):
        return stored
    moved = here / _ELSEWHERE / hashlib.sha256(f"{key} {stored}".encode()).hexdigest()[:12]
    say(f"{key}: the stored {stored} is not below this command's cache; {moved} is used")
    return str(moved)
