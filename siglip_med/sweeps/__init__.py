"""What a sweep keeps of its jobs, and the space that it searches.

A job is known by a hash of its settings, so that a sweep that was cut can be given again and does only what is left.
"""

from siglip_med.sweeps.records import JobRecord, State, differing, read_record, read_records, write_record
from siglip_med.sweeps.space import Knob, TuneSettings, Value, draw

__all__ = [
    "JobRecord",
    "Knob",
    "State",
    "TuneSettings",
    "Value",
    "differing",
    "draw",
    "read_record",
    "read_records",
    "write_record",
]
