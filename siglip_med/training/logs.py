"""Logs of a run that goes on: what was written after its checkpoint is taken back, so that no step is there twice."""

import csv
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from siglip_med.core.files import write_csv, write_whole


def keep_logs_before(loggers: Sequence[Logger], step: int) -> None:
    """Cuts TensorBoard and CSV logs back to the steps before one; other loggers keep what they have.

    Args:
        loggers: of the run, none of which has written yet.
        step: the first step that will be logged again.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            keep_events_before(Path(logger.log_dir), step)
        elif isinstance(logger, CSVLogger):
            _keep_rows_before(logger, step)


def keep_events_before(folder: Path, step: int) -> None:
    """Joins a folder's event files into one that holds the training's scalars before a step.

    Pictures, layouts and hyper-parameters are left out: the end of a run writes them again.
    """
    paths = sorted(folder.glob("events.out.tfevents.*"))
    if not paths:
        return
    from tensorboard.compat.proto.event_pb2 import Event  # slow to import
    from tensorboard.summary.writer.record_writer import RecordWriter

    before: set[tuple[str, int]] = set()  # of earlier files: a kill while they are joined leaves some of it twice

    def write(file: Any) -> None:
        writer = RecordWriter(file)
        for path in paths:
            here: set[tuple[str, int]] = set()
            for record in _records(path):
                event = Event.FromString(record)
                if not event.HasField("summary"):
                    if path == paths[0] and event.HasField("file_version"):
                        writer.write(record)
                    continue
                tags = [value.tag for value in event.summary.value]
                keys = {(tag, event.step) for tag in tags}
                is_scalar = all(value.HasField("simple_value") for value in event.summary.value)
                of_training = not any(tag.startswith("hp/") or tag == "hp_metric" for tag in tags)
                if event.step < step and is_scalar and of_training and not keys & before:
                    here |= keys
                    writer.write(record)
            before.update(here)

    write_whole(paths[0], write)
    for path in paths[1:]:
        path.unlink()
    for path in folder.glob("hparams.yaml"):
        path.unlink()


def _records(path: Path) -> Iterator[bytes]:
    """The whole records of an event file; a killed run may have left the last one cut off."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while (head := file.read(12)) and len(head) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            if file.tell() + length + 4 > size:
                return
            record = file.read(length)
            file.read(4)
            yield record


def _keep_rows_before(logger: CSVLogger, step: int) -> None:
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        place = header.index("step") if "step" in header else None
        rows = [row for row in reader if len(row) == len(header) and place is not None and int(row[place]) < step]
    writer: Any = logger.experiment  # it removes the file when it is made
    writer.metrics_keys = list(header)
    write_csv(path, header, rows)
