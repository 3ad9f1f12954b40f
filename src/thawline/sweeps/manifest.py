"""``sweep.json``: what a sweep consists of, and the state of its cells."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thawline.errors import usage_error
from thawline.files import read_json, write_json
from thawline.ledger.runs import Status, status_of

SWEEP_FILE = "sweep.json"


class CellEntry(BaseModel):
    """One cell: the identity of its run, and the overrides that make it."""

    model_config = ConfigDict(extra="ignore")
    # It names a folder, so it may be nothing but an identity.
    identity: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    overrides: list[str]


class Manifest(BaseModel):
    """A sweep: the command that makes it again, its axes with their values, and its cells in the grid's order.

    `options` is what the command of one cell needs before its overrides (``--allow``, ``--config-dir``).
    """

    model_config = ConfigDict(extra="ignore")
    schema_version: Literal[1] = 1
    name: str
    command: str = ""
    options: list[str] = []
    axes: dict[str, list[str]]
    cells: list[CellEntry]
    runs_folder: str = "../../runs"

    def label(self, cell: CellEntry) -> str:
        """The cell's overrides that are swept; all of them where none is."""
        swept = [override for override in cell.overrides if override.partition("=")[0] in self.axes]
        return " ".join(swept or cell.overrides)


@dataclass(frozen=True)
class CellStatus:
    """A cell of a sweep, and what has become of it."""

    identity: str
    label: str
    overrides: tuple[str, ...]
    folder: Path
    status: Status


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of the sweep in `folder`.

    Raises:
        WriteError: the folder cannot be written.
    """
    write_json(folder / SWEEP_FILE, manifest.model_dump())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the sweep in `folder`.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / SWEEP_FILE
    try:
        return Manifest.model_validate(read_json(path))
    except FileNotFoundError:
        raise usage_error("sweep", f"{folder} holds no {SWEEP_FILE}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise usage_error("sweep", f"{path}: not a valid sweep: {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise usage_error("sweep", f"{path}: not a valid sweep: {error}") from None


def statuses(folder: Path, manifest: Manifest) -> list[CellStatus]:
    """The state of every cell of the sweep in `folder`."""
    runs = Path(os.path.normpath(folder / manifest.runs_folder))
    return [
        CellStatus(
            cell.identity,
            manifest.label(cell),
            tuple(cell.overrides),
            runs / cell.identity,
            status_of(runs / cell.identity),
        )
        for cell in manifest.cells
    ]


def counts(cells: Sequence[CellStatus]) -> dict[str, int]:
    """How many cells are in each state that occurs, in the order of a run's life."""
    found = [cell.status.state for cell in cells]
    order = ("done", "running", "interrupted", "failed", "pending")
    return {state: found.count(state) for state in order if state in found}


def sweep_folders(outputs: Path) -> Iterator[Path]:
    """The folders of all sweeps under an output folder, the latest last."""
    folders = [path.parent for path in outputs.glob(f"sweeps/*/{SWEEP_FILE}")]
    yield from sorted(folders, key=lambda folder: (folder / SWEEP_FILE).stat().st_mtime)
