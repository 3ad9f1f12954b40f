"""The manifest of a sweep on disk, and the state of its cells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from thawline.errors import usage_error
from thawline.files import write_json
from thawline.ledger.runs import Status, status_of
from thawline.records.manifest import Manifest, load_manifest
from thawline.records.names import PROTOCOL_FILE, SWEEP_FILE
from thawline.records.protocol import ProtocolManifest, load_protocol

# An identity names a folder, so it may be nothing else.
_IDENTITY = re.compile(r"[0-9a-f]{8,64}")


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


def write_protocol(folder: Path, manifest: ProtocolManifest) -> None:
    """Write the manifest of the protocol whose test stage is the sweep in `folder`.

    Raises:
        WriteError: the folder cannot be written.
    """
    write_json(folder / PROTOCOL_FILE, manifest.model_dump())


def read_protocol(folder: Path) -> ProtocolManifest | None:
    """The manifest of the protocol whose test stage is the sweep in `folder`; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    try:
        return load_protocol(folder)
    except (OSError, ValueError) as error:
        where = f"{folder / PROTOCOL_FILE}: not a valid protocol"
        raise usage_error("sweep", f"{where}: {str(error).splitlines()[0]}") from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the sweep in `folder`.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / SWEEP_FILE
    try:
        manifest = load_manifest(folder)
    except FileNotFoundError:
        raise usage_error("sweep", f"{folder} holds no {SWEEP_FILE}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise usage_error("sweep", f"{path}: not a valid sweep: {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise usage_error("sweep", f"{path}: not a valid sweep: {error}") from None
    for number, cell in enumerate(manifest.cells):
        if not _IDENTITY.fullmatch(cell.identity):
            wrong = f"cells.{number}.identity: {cell.identity!r} is not the identity of a run"
            raise usage_error("sweep", f"{path}: not a valid sweep: {wrong}")
    return manifest


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
