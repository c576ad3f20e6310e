"""Resuming a run: which one is meant, with which settings, and what may differ from its own.

``resume=PATH`` names a checkpoint or a run folder, ``resume=auto`` the newest run with the settings that are given now.
The run is resumed in its own folder with its own settings. A setting of the command line that differs from them stops
it, unless `MAY_CHANGE` lists it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siglip_med.core.config import leaves, shipped_targets, targets
from siglip_med.core.errors import UserError
from siglip_med.core.outside import say
from siglip_med.core.trust import check_trusted, vouched
from siglip_med.models import DamagedCheckpoint, read_checkpoint
from siglip_med.runs.folder import (
    CHECKPOINTS,
    newest_checkpoint,
    others,
    read_record,
    run_folder,
)
from siglip_med.training.checkpointing import position

LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.min_steps", "trainer.min_epochs")
"""How long a run is: raising it extends the run."""
MAY_CHANGE = (
    *LENGTH,
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.compile",
    "trainer.compile_backend",
    "trainer.channels_last",
    "trainer.profiler",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "logger",
    "callbacks.progress",
    "callbacks.throughput",
    "callbacks.pruning",
    "callbacks.checkpoint.every_n_steps",
    "callbacks.checkpoint.every_n_minutes",
    "callbacks.checkpoint.keep_previous",
    "data.num_workers",
    "data.cache_dir",
    "data.source.root",
    "features.cache_dir",
    "model.path",
    "model.vision",
    "model.text",
    "evaluation",
    "refit",
    "optimized_metric",
)
"""Settings that may change when a run is resumed; data and base are compared by split and fingerprint."""
_OWN = ("resume", "paths", "trust")
_DECIDING = (*LENGTH, "evaluation", "refit", "optimized_metric")
_PLACES = ("dirpath", "save_dir", "default_root_dir")


@dataclass(frozen=True)
class ResumePoint:
    """A run that can be resumed.

    Attributes:
        folder: of the run.
        checkpoint: to resume from; None where the run was stopped before it wrote one, and starts over.
        settings: its own, as plain values.
        step: optimizer steps that are done.
        finished: whether it had come to its end.
    """

    folder: Path
    checkpoint: Path | None
    settings: Mapping[str, Any]
    step: int = 0
    finished: bool = False

    @property
    def said(self) -> str:
        """Where it goes on."""
        return f"{self.folder} {'is finished' if self.finished else 'goes on'}, at step {self.step}"


def find_run(value: str) -> ResumePoint:
    """The run that ``resume=PATH`` means.

    Args:
        value: a checkpoint, or a run folder.

    Raises:
        UserError: there is no such file, it is damaged (the line names the one before it), or it cannot be resumed.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        folder, checkpoint = path.resolve(), newest_checkpoint(path)
        content = None if checkpoint is None else read_checkpoint(checkpoint)
    else:
        try:
            content = read_checkpoint(path)
            position(content)
        except DamagedCheckpoint as error:
            raise UserError(f"{error}{others(path)}") from error
        except UserError as error:
            raise UserError(f"{error}{'' if path.exists() else others(path)}") from error
        folder, checkpoint = run_folder(path), path.resolve()
    if content is not None:
        where = position(content)
        return ResumePoint(folder, checkpoint, content["siglip_med"]["config"], where["step"], where["finished"])
    record = read_record(folder)
    if record is None:
        raise UserError(f"resume={value}: the folder holds no run; give one with {CHECKPOINTS}/last.ckpt")
    return ResumePoint(folder, None, record["settings"])


def find_same(now: Mapping[str, Any], folder: Path, neighbors: bool = True) -> ResumePoint | None:
    """The run that ``resume=auto`` means: the one in the folder, or else the newest beside it, with these settings.

    Args:
        now: the settings that are given, as plain values.
        folder: that a new run would get.
        neighbors: whether to look beside it too.

    Returns:
        None where there is none: a new run starts.

    Raises:
        UserError: its checkpoints are damaged.
    """
    return find_auto(now, folder, neighbors)[0]


def find_auto(now: Mapping[str, Any], folder: Path, neighbors: bool = True) -> tuple[ResumePoint | None, str]:
    """As `find_same`, with a sentence on what was found and why it was taken, or not."""
    folders = [folder]
    if neighbors and folder.parent.is_dir():
        folders += [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    there = {path: record for path in folders if (record := read_record(path))}
    found = [path for path, record in there.items() if not _differing(record, now)]
    where = folder.parent if neighbors else folder
    if not there:
        return None, f"no run in {where}: a new one begins"
    newest = max(found or there, key=lambda path: (path == folder, there[path]["started"]))
    if not found:
        key, own, given = _differing(there[newest], now)[0]
        count = f"none of {len(there)} runs in {where} has" if neighbors else f"the run in {where} has not"
        return None, f"{count} these settings, the newest has {key}={own} and not {given}: a new one begins"
    point = find_run(str(newest))
    return point, f"{point.said}; {len(found)} of {len(there)} runs there have these settings"


def own_settings(
    point: ResumePoint, now: Mapping[str, Any], default: Mapping[str, Any], words: Sequence[str]
) -> dict[str, Any]:
    """The settings of a resumed run: its own, with what may change as this command line gives it.

    Args:
        point: the run.
        now: the settings of this command line, as plain values.
        default: those of an empty command line; what differs from them was given.
        words: the command line; what it names was given, even where it is the default.

    Raises:
        UserError: a given setting differs from the run's and may not change, or the stored settings would
            build what is not this package's.
    """
    source = str(point.checkpoint or point.folder)
    check_trusted(point.settings, shipped_targets() | targets(now) | set(vouched(now["trust"])), "", source)
    moved = _moved(point.settings, str(_text(point.settings, "paths", "output_dir")), str(point.folder))
    _check_places(moved, point.folder, source)
    own, given, plain = dict(leaves(moved)), dict(leaves(now)), dict(leaves(default))
    named = [word.lstrip("+~").split("=", 1)[0].split("@")[0].replace("/", ".") for word in words]
    changes = {}
    for path, value in given.items():
        explicit = value != plain.get(path, _ABSENT) or _within(path, named)
        if not explicit or _equal(own.get(path, _ABSENT), value) or _within(path, _OWN):
            continue
        if not _within(path, MAY_CHANGE):
            raise UserError(
                f"{path}={value}: the run in {point.folder} has {own.get(path, 'no such setting')}, and what it has "
                "done cannot be undone; leave it out, or start a new run"
            )
        changes[path] = value
    for path, value in changes.items():
        _put(moved, path, value)
    moved["resume"], moved["trust"] = now["resume"], now["trust"]
    _check_length(point, moved, changes)
    return moved


def check_same(point: ResumePoint, now: Mapping[str, Any]) -> None:
    """Makes sure that the settings of a resumed run are its own, but for what may change.

    Raises:
        UserError: one differs; the line names it.
    """
    moved = _moved(point.settings, str(_text(point.settings, "paths", "output_dir")), str(point.folder))
    here = Path(str(_text(now, "paths", "output_dir"))).resolve()
    if here != point.folder.resolve():
        raise UserError(f"paths.output_dir={here}: a run is resumed in its own folder, {point.folder}")
    own, given = dict(leaves(moved)), dict(leaves(now))
    for path in sorted(own.keys() | given.keys()):
        a, b = own.get(path, _ABSENT), given.get(path, _ABSENT)
        if not _equal(a, b) and not _within(path, (*MAY_CHANGE, *_OWN)):
            raise UserError(f"{path}={b}: the run in {point.folder} has {a}; resume it with its own settings")


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings by path, ``a.b``, that decide the result of a run: neither its place nor what it prints.

    Args:
        settings: plain values.
    """
    here = str(_text(settings, "paths", "output_dir"))
    free = (*(name for name in MAY_CHANGE if name not in _DECIDING), *_OWN)
    found = dict(leaves(_moved(settings, here, ".")))
    return {path: value for path, value in found.items() if not _within(path, free) and value not in (None, {})}


def is_extended(own: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the run is longer now than it was."""
    before, after = dict(leaves(own)), dict(leaves(now))
    return any(before.get(key) != after.get(key) for key in LENGTH[:2])


def _check_length(point: ResumePoint, settings: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    steps = settings["trainer"].get("max_steps", -1)
    if "trainer.max_steps" in changes and 0 < steps < point.step:
        raise UserError(f"trainer.max_steps={steps}: the run in {point.folder} has done {point.step} steps already")
    for key in LENGTH[:2]:
        if key in changes:
            say(
                f"{key} is {changes[key]} now: the learning rate and a schedule in fractions are laid over the new "
                "length, so this is not the run that it would have been from its start"
            )


_ABSENT = "nothing"


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are the same; a group that is off is stored as None, and a command line leaves it out."""
    off: tuple[Any, ...] = (None, _ABSENT, {})
    return bool(a == b) or (a in off and b in off)


def _put(node: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[last] = value


def _within(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _differing(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The settings that a run and a command line do not share, with both values."""
    stored = record["settings"]
    before, after = str(_text(stored, "paths", "output_dir")), str(_text(now, "paths", "output_dir"))
    a, b = dict(leaves(_moved(stored, before, after))), dict(leaves(now))
    free = (*MAY_CHANGE, *_OWN)
    both = [(path, a.get(path, _ABSENT), b.get(path, _ABSENT)) for path in sorted(a.keys() | b.keys())]
    return [(path, x, y) for path, x, y in both if not (_within(path, free) or _equal(x, y))]


def _text(node: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        node = node.get(key) or {}
    return node


def _moved(node: Any, before: str, after: str) -> Any:
    """The settings with the present path of the run folder."""
    if isinstance(node, Mapping):
        return {key: _moved(value, before, after) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_moved(value, before, after) for value in node]
    if isinstance(node, str) and (node == before or node.startswith(f"{before}/")):
        return after + node[len(before) :]
    return node


def _check_places(settings: Mapping[str, Any], folder: Path, source: str) -> None:
    """What a stored run writes of itself, it writes into its folder."""
    for path, value in leaves({key: settings.get(key) for key in ("trainer", "callbacks", "logger")}):
        if path.rpartition(".")[2] in _PLACES and isinstance(value, str):
            place = Path(value).resolve()
            if place != folder and folder not in place.parents:
                raise UserError(f"refused to load {source}: {path} would write into {value}, outside of its run folder")
