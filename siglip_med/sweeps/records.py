"""How each job of a sweep ended: one sealed file per job in ``<sweep>/jobs/``, named by the hash of its settings."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from siglip_med.core.outside import say
from siglip_med.core.seals import check_sealed, write_sealed

FOLDER = "jobs"
State = Literal["running", "finished", "failed"]
"""``running`` is also that of an interrupted job: it is done again."""


@dataclass(frozen=True)
class JobRecord:
    """One job of a sweep.

    Attributes:
        key: hash of its settings.
        state: how it ended.
        folder: of its run, relative to the sweep's.
        overrides: its part of the command line.
        objective: what a sweep optimizes, if it is finished and there is such a metric.
        reason: why it failed, in one line.
        log: where more is written about that, relative to the sweep's folder.
        time: of the last change, in seconds since the epoch.
    """

    key: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    state: State
    folder: str
    overrides: tuple[str, ...]
    objective: float | None = None
    reason: str = ""
    log: str = ""
    time: float = field(default=0.0)


_ADAPTER: TypeAdapter[JobRecord] = TypeAdapter(JobRecord)


def write_record(sweep: Path, record: JobRecord) -> None:
    """Writes the record of a job, in place of an earlier one.

    Raises:
        UserError: the folder cannot be written.
    """
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"
    write_sealed(_path(sweep, record.key), lambda file: file.write(text.encode("utf-8")))


def read_record(sweep: Path, key: str) -> JobRecord | None:
    """The record of a job; None where there is none, or it is damaged, which is logged."""
    return _read(_path(sweep, key)) if _path(sweep, key).is_file() else None


def read_records(sweep: Path) -> list[JobRecord]:
    """The records of a sweep by folder; one that is damaged is named on the screen and left out."""
    found = [record for path in (sweep / FOLDER).glob("*.json") if (record := _read(path)) is not None]
    return sorted(found, key=lambda record: (record.folder, record.key))


def differing(overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job's words those that not all jobs have; all of them where there is one job alone.

    Args:
        overrides: the words of each job.
    """
    everywhere = set(overrides[0]).intersection(*overrides) if len({tuple(words) for words in overrides}) > 1 else set()
    return [[word for word in words if word not in everywhere] for words in overrides]


def _path(sweep: Path, key: str) -> Path:
    return sweep / FOLDER / f"{key}.json"


def _read(path: Path) -> JobRecord | None:
    wrong = check_sealed(path)
    if wrong is None:
        try:
            record = _ADAPTER.validate_python(json.JSONDecoder().raw_decode(path.read_text(encoding="utf-8"))[0])
        except (ValueError, ValidationError):
            wrong = "is no record of a job"
        else:
            if record.key == path.stem:
                return record
            wrong = "is the record of another job"
    say(f"{path} {wrong}; its job is done again")
    return None
