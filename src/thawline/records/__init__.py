"""What a run leaves on disk: one validated record."""

from thawline.records.record import (
    IDENTITY_LENGTH,
    RECORD_FILE,
    Cost,
    GroupRecord,
    Parameters,
    PhaseRecord,
    Record,
    Selection,
    SplitRecord,
    identity_of,
    load_record,
    read_record,
    require_record,
    seal_of,
    write_record,
)

__all__ = [
    "IDENTITY_LENGTH",
    "RECORD_FILE",
    "Cost",
    "GroupRecord",
    "Parameters",
    "PhaseRecord",
    "Record",
    "Selection",
    "SplitRecord",
    "identity_of",
    "load_record",
    "read_record",
    "require_record",
    "seal_of",
    "write_record",
]
