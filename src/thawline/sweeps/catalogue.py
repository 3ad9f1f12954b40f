"""Every run under an output folder: its state, its settings, and the sweeps that it belongs to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from thawline.dotted import leaves
from thawline.files import read_json
from thawline.ledger.runs import Status, status_of
from thawline.records import Record, read_record
from thawline.records.manifest import load_manifest
from thawline.records.names import CONFIG_FILE
from thawline.reports.loading import override_values
from thawline.sweeps.manifest import sweep_folders


@dataclass(frozen=True)
class KnownRun:
    """A run that is done, or under way, or that a sweep still waits for.

    `overrides` maps each key of the command line to its text. `record` is None for a run that is not done.
    """

    folder: Path
    sweeps: tuple[str, ...]
    status: Status
    overrides: Mapping[str, str]
    config: Mapping[str, Any]
    record: Record | None

    @property
    def identity(self) -> str:
        """The run's identity."""
        return self.folder.name

    @property
    def state(self) -> str:
        """The state of the ledger; ``diverged`` for a run that is done without a usable model."""
        return "diverged" if self.record is not None and self.record.diverged else self.status.state

    @property
    def date(self) -> str:
        """When it was finished, or when its state changed last (UTC, ISO 8601); empty where nothing has happened."""
        finished = self.record.provenance.finished_at if self.record is not None else ""
        return finished or self.status.since

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every key of the resolved config with its value, and the config groups by the option that was asked for.

        Of a run that has not begun only its overrides are known.
        """
        known = {name: value for name, value in leaves(self.config) if value != {}}
        for key, text in self.overrides.items():
            known.setdefault(key, text)
        return known

    def value(self, split: str, metric: str) -> float | None:
        """A metric of a split; None where the run has none or a number that is not finite."""
        return self.record.metrics.get(split, {}).get(metric) if self.record is not None else None


@dataclass(frozen=True)
class Catalogue:
    """All runs, and what of the folder could not be read, a sentence each."""

    runs: tuple[KnownRun, ...]
    problems: tuple[str, ...]


def read_catalogue(outputs: Path) -> Catalogue:
    """The runs under ``outputs/runs``, and the cells of the sweeps under ``outputs/sweeps``, each once."""
    waiting: dict[Path, tuple[list[str], Sequence[str]]] = {}
    problems = []
    for folder in sweep_folders(outputs):
        try:
            manifest = load_manifest(folder)
        except (OSError, ValueError) as error:
            problems.append(f"{folder}: not a valid sweep: {str(error).splitlines()[0]}")
            continue
        runs = Path(os.path.normpath(folder / manifest.runs_folder))
        for cell in manifest.cells:
            if Path(cell.identity).name == cell.identity:
                names, _ = waiting.setdefault(runs / cell.identity, ([], cell.overrides))
                if manifest.name not in names:
                    names.append(manifest.name)
    there = outputs / "runs"
    if there.is_dir():
        for folder in sorted(there.iterdir()):
            if folder.is_dir():
                waiting.setdefault(folder, ([], ()))
    found = (_known(folder, names, overrides) for folder, (names, overrides) in waiting.items())
    return Catalogue(tuple(run for run in found if run is not None), tuple(problems))


def _known(folder: Path, sweeps: Sequence[str], overrides: Sequence[str]) -> KnownRun | None:
    status = status_of(folder)
    record = read_record(folder) if status.state == "done" else None
    config = record.config if record is not None else _config(folder)
    if not sweeps and not config:
        return None  # a folder that no run has made
    # Cells of two sweeps may ask for one run in different words: the record has those that made it.
    said = record.overrides if record is not None else overrides
    return KnownRun(folder, tuple(sorted(sweeps)), status, override_values(said), config, record)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = read_json(folder / CONFIG_FILE)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
