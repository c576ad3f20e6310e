"""What a sweep keeps of its jobs.

A job is known by a hash of its settings, so that an interrupted sweep can be repeated and does only what is left.
"""

from siglip_med.sweeps.records import JobRecord, State, differing, read_record, read_records, write_record

__all__ = [
    "JobRecord",
    "State",
    "differing",
    "read_record",
    "read_records",
    "write_record",
]
