"""Whether the files of an earlier report are those that would be made now: drawing them takes seconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thawline.errors import WriteError
from thawline.files import read_json, sha256_of_file, write_json
from thawline.records.manifest import load_manifest
from thawline.records.names import PROTOCOL_FILE, RECORD_FILE, SWEEP_FILE
from thawline.reports.loaded_run import names_a_folder
from thawline.reports.loading import LoadedSweep, runs_folder
from thawline.runtime.program import program

MADE_FILE = ".made.json"
"""Beside the files of a report: what they were made from, and how they were left."""


def stamps_of(folders: Sequence[Path]) -> list[Any] | None:
    """What the files are that a report of these sweeps is made from; None where that cannot be said.

    Taken before they are read: one that is edited meanwhile has another stamp the next time.
    """
    # The report of a protocol reads the sweeps of all its stages.
    if any((folder / PROTOCOL_FILE).exists() for folder in folders):
        return None
    try:
        return [*map(_of_sweep, folders), _stamps(_styles())]
    except (OSError, ValueError):
        return None


def _of_sweep(folder: Path) -> list[Any]:
    """The stamps of a sweep's files; raises OSError or ValueError where its manifest cannot be read."""
    manifest = folder / SWEEP_FILE
    digest, described = sha256_of_file(manifest), load_manifest(folder)
    runs = runs_folder(folder, described)
    identities = filter(names_a_folder, dict.fromkeys(cell.identity for cell in described.cells))
    done = [runs / identity for identity in identities if (runs / identity / RECORD_FILE).is_file()]
    return [str(manifest.absolute()), digest, [[str(run), _stamps(sorted(run.rglob("*")))] for run in done]]


def sources_of(stamps: list[Any] | None, sweep: LoadedSweep, arguments: Sequence[Any]) -> str | None:
    """A digest of all that a report is made from; None where that cannot be said.

    Args:
        stamps: `stamps_of` its sweeps, from before it was loaded.
        sweep: what it shows.
        arguments: what else was asked for.
    """
    used = program()
    if used is None or stamps is None:
        return None
    problems = [[cell.identity, cell.problem] for cell in sweep.cells]
    content = [used, [str(argument) for argument in arguments], stamps, problems]
    return hashlib.sha256(json.dumps(content).encode(errors="surrogateescape")).hexdigest()


def are_kept(folder: Path, sources: str | None) -> bool:
    """Whether a report's folder has the files that were made from these sources, as they were left."""
    try:
        made = read_json(folder / MADE_FILE)
        files = [Path(name) for name, *_ in made["files"]]
        return sources is not None and made["sources"] == sources and _stamps(files) == made["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def note_files(folder: Path, sources: str | None, files: Sequence[Path]) -> None:
    """Note what the files of a report in `folder` were made from."""
    try:
        if sources is None:
            (folder / MADE_FILE).unlink(missing_ok=True)
        else:
            write_json(folder / MADE_FILE, {"sources": sources, "files": _stamps(files)})
    except (OSError, WriteError):
        return  # they are then made again


def _stamps(files: Sequence[Path]) -> list[list[Any]]:
    """Path, size, times and inode of the files that are there."""
    found = []
    for file in files:
        if file.is_file():
            status = file.stat()
            found.append([str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
    return found


def _styles() -> list[Path]:
    """Where matplotlib looks for settings of the user's own."""
    named = [Path(os.environ[name]) for name in ("MATPLOTLIBRC", "MPLCONFIGDIR") if os.environ.get(name)]
    homes = [
        Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "matplotlib"),
        Path.home() / ".matplotlib",
    ]
    return [*named, *(folder / "matplotlibrc" for folder in (Path.cwd(), *named, *homes))]
