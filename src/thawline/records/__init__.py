"""What a run leaves on disk: one validated record."""

from thawline.records.files import (
    IDENTITY_LENGTH,
    identity_of,
    load_record,
    read_record,
    require_record,
    run_folder,
    seal_of,
    write_record,
)
from thawline.records.fitting import (
    ContractRecord,
    FreezeContractRecord,
    OptimizerGroup,
    PhaseRecord,
    Recipe,
    RegularizerRecord,
    Selection,
    StoredValue,
    Strategy,
    ThawLineRecord,
)
from thawline.records.names import RECORD_FILE
from thawline.records.provenance import (
    Commit,
    Hardware,
    Provenance,
    Resumption,
    Software,
    SourceFileRecord,
    WeightsRecord,
)
from thawline.records.record import Cost, GroupRecord, Parameters, Record, SplitRecord

__all__ = [
    "IDENTITY_LENGTH",
    "RECORD_FILE",
    "Commit",
    "ContractRecord",
    "Cost",
    "FreezeContractRecord",
    "GroupRecord",
    "Hardware",
    "OptimizerGroup",
    "Parameters",
    "PhaseRecord",
    "Provenance",
    "Recipe",
    "Record",
    "RegularizerRecord",
    "Resumption",
    "Selection",
    "Software",
    "SourceFileRecord",
    "SplitRecord",
    "StoredValue",
    "Strategy",
    "ThawLineRecord",
    "WeightsRecord",
    "identity_of",
    "load_record",
    "read_record",
    "require_record",
    "run_folder",
    "seal_of",
    "write_record",
]
