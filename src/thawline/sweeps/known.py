"""Runs that an earlier command has planned as this one would: to see that they are done takes no torch.

A plan takes the libraries, which say what a network's parameters are called and what its images are like. What came of
it is kept by everything that it rests on: the resolved configuration, the data and the weights, read as a plan reads
them, and the program with its libraries. Only where all of it is as it was, and the record itself names the same
settings and the same data, is a run known; in any doubt it is planned again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from thawline.backbones.descriptions import described
from thawline.datasets import Dataset, Splits
from thawline.errors import UsageError, WriteError
from thawline.files import finite, read_json, sha256_of_file, write_json
from thawline.ledger.runs import finished_record
from thawline.planning.devices import require_devices
from thawline.planning.plan import (
    IDENTITY_FORMAT,
    Plan,
    data_identity,
    fitting_splits,
    teachers,
    weights_file,
    weights_identity,
)
from thawline.planning.session import Session
from thawline.planning.settings import RunSettings, parse
from thawline.records import RECORD_FILE, Record, identity_of, run_folder
from thawline.runtime.program import program
from thawline.specs import ALLOWED_PREFIXES, Spec, without_libraries
from thawline.sweeps.cells import CellConfig

_FOLDER = "plans"
_NOT_PLANNED_BY = ("sweep", "report", "logger")
"""What of a configuration a plan only hands on: how a sweep is called and shown."""


@dataclass(frozen=True)
class KnownPlan:
    """What is known of a run that is done: as much of a `Plan` as showing it takes."""

    identity: str
    settings: RunSettings
    overrides: tuple[str, ...]
    label: str
    splits: Splits
    warnings: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the run has left its files."""
        return run_folder(self.settings.output_dir, self.identity)


class _Entry(BaseModel):
    """A run as it is kept: its identity, a digest of its data and weights, and what its plan warned of."""

    identity: str
    inputs: str
    warnings: tuple[str, ...]


class _Kept(BaseModel):
    """The runs of a grid, in its order, and the program that planned them."""

    program: str
    entries: tuple[_Entry, ...]


def known_plans(cells: Sequence[CellConfig], *, here: bool = True) -> list[KnownPlan] | None:
    """The runs of all cells, where each of them is known and done; None where one is not, or cannot be used.

    Args:
        cells: the grid.
        here: whether the runs would use this machine's devices, which must then be there.
    """
    try:
        kept = _Kept.model_validate(read_json(_file(cells)))
        if kept.program != program() or len(kept.entries) != len(cells):
            return None
        records = [_record(cell, entry) for cell, entry in zip(cells, kept.entries, strict=True)]
        session, found = Session(), []
        for cell, entry, record in zip(cells, kept.entries, records, strict=True):
            plan = _known(cell, entry, record, session) if record is not None else None
            if plan is None:
                return None
            if here:
                require_devices(plan.settings)
            found.append(plan)
    except (UsageError, ValidationError, OSError, ValueError, LookupError, TypeError):
        return None  # whoever plans it again says what is wrong
    return found


def remember_plans(cells: Sequence[CellConfig], plans: Sequence[Plan], session: Session) -> None:
    """Keep what the plan of each cell came to, for `known_plans`; where that is not possible, nothing is kept."""
    used, entries = program(), []
    if used is None or not all(_can_be_known(cell.config) for cell in cells):
        return
    for plan in plans:
        inputs = _digest(_inputs(plan.settings, session))
        entries.append(_Entry(identity=plan.identity, inputs=inputs, warnings=plan.warnings))
    try:
        write_json(_file(cells), _Kept(program=used, entries=tuple(entries)).model_dump(mode="json"))
    except WriteError:
        return  # a full or read-only disk costs the next command its seconds and nothing else


def _file(cells: Sequence[CellConfig]) -> Path:
    """Where the runs of a grid are kept: a name for the configurations of all cells, in the store's folder."""
    folder = Path(str(cells[0].config["cache"]["dir"]))
    configs = [{key: cell.config[key] for key in cell.config if key not in _NOT_PLANNED_BY} for cell in cells]
    return folder / _FOLDER / f"{_digest(configs)[:20]}.json"


def _record(cell: CellConfig, entry: _Entry) -> Record | None:
    """The record of a run, where it is one that this program would find."""
    record = finished_record(run_folder(Path(str(cell.config["output_dir"])), entry.identity))
    if record is None or record.identity_format != IDENTITY_FORMAT:
        return None
    return record if identity_of(record.identity_parts) == entry.identity else None


def _known(cell: CellConfig, entry: _Entry, record: Record, session: Session) -> KnownPlan | None:
    """The run of a cell, where its data, its weights and what its record was made from are those of now."""
    if not _can_be_known(cell.config):
        return None
    with without_libraries():
        settings = parse(cell.config)
        decides, parts = finite(settings.deciding()), record.identity_parts
    if _digest(_inputs(settings, session)) != entry.inputs:
        return None
    splits = fitting_splits(session.data.splits(settings), settings)
    # What the backbone says of its images has been filled into the transform.
    same = {**decides, "transform": None} == {**parts["settings"], "transform": None}
    if not same or parts["data"] != finite(data_identity(splits)) or parts["code"]:
        return None
    if not _has_weights_of_now(settings, parts, session):
        return None
    return KnownPlan(entry.identity, settings, cell.overrides, cell.label, splits, entry.warnings)


def _has_weights_of_now(settings: RunSettings, parts: Mapping[str, Any], session: Session) -> bool:
    """Whether the weights that the run has read are there still: they may have changed since it was planned."""
    read = {name: said[0] for name, said in parts["teachers"].items()}
    now = {name: weights_identity(teacher, settings, session) for name, teacher in teachers(settings).items()}
    if settings.source is None:
        read["backbone"], now["backbone"] = parts["weights"], weights_identity(settings.backbone, settings, session)
    return read == now


def _inputs(settings: RunSettings, session: Session) -> dict[str, Any]:
    """What the files are that a plan reads: every data set, every network's weights; and those of the source run."""
    data = {repr(dataset): session.data.loaded(dataset, settings) for dataset in _datasets(settings)}
    networks = {"backbone": settings.backbone, **teachers(settings)}
    return {
        # What is left out, such as images that do not decode, is in the warnings alone.
        "data": {name: [data_identity(splits), splits.warnings] for name, splits in data.items()},
        "weights": {name: _weights(backbone, settings, session) for name, backbone in networks.items()},
        "source": None if settings.source is None else _inputs(settings.source, session),
    }


def _weights(backbone: Any, settings: RunSettings, session: Session) -> Any:
    if settings.source is not None and backbone is settings.backbone:
        return "those of the source run"
    file = weights_file(backbone, settings)
    if file is None:
        return backbone.weights
    if str(backbone.weights).startswith("run:"):
        return [backbone.weights, sha256_of_file(file.with_name(RECORD_FILE))]
    about = described(file)
    about_images = about.preprocessing.model_dump(mode="json")
    return [weights_identity(backbone, settings, session), about.classes, about_images, about.file]


def _datasets(value: Any) -> Iterator[Dataset]:
    """The data sets among the settings of a run, without those of its source run."""
    if isinstance(value, Dataset):
        yield value
    if isinstance(value, Spec):
        yield from _datasets([getattr(value, name) for name in type(value).model_fields if name != "source"])
    elif isinstance(value, Mapping):
        yield from _datasets(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _datasets(item)


def _can_be_known(config: Mapping[str, Any]) -> bool:
    """Whether `_inputs` are all that a plan of this configuration reads."""
    return config.get("average") is None and _is_shipped(config)


def _is_shipped(node: Any) -> bool:
    """Whether all that a configuration names is thawline's or a library's: own code may read what it likes."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and target.partition(".")[0] not in ALLOWED_PREFIXES:
            return False
        return all(_is_shipped(item) for item in node.values())
    return all(_is_shipped(item) for item in node) if isinstance(node, (list, tuple)) else True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(finite(value), sort_keys=True, default=str).encode()).hexdigest()
