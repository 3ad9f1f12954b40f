"""From a sweep's folder to its runs: what is done, what is missing, and nothing that a report does not need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from thawline.errors import nearest, usage_error
from thawline.records import RECORD_FILE
from thawline.records.manifest import Manifest, load_manifest
from thawline.records.names import PROTOCOL_FILE, SWEEP_FILE
from thawline.reports.loaded_run import LoadedRun, read_run
from thawline.reports.shared_passes import with_shares


@dataclass(frozen=True)
class Cell:
    """One point of the grid: its place on each axis, the command that makes it, and its run, or why there is none.

    `overrides` maps each key of that command to its text.
    """

    identity: str
    command: tuple[str, ...]
    values: Mapping[str, str]
    run: LoadedRun | None
    problem: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedSweep:
    """A set of cells, of one sweep or of several: `commands` make them, `axes` maps keys to values in their order."""

    names: tuple[str, ...]
    commands: tuple[str, ...]
    folder: Path
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    runs: tuple[LoadedRun, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the sweep, or the names of all."""
        return ", ".join(self.names)


def find_sweep(name: str, outputs: Path) -> Path:
    """The folder that a user means by `name`: a path, or the name of a sweep under ``outputs/sweeps``.

    Raises:
        UsageError: there is no such sweep; the message has the nearest names.
    """
    sweeps = outputs / "sweeps"
    for candidate in (Path(name), sweeps / name):
        if _is_sweep(candidate):
            return candidate
        refuse_protocol_without_test(candidate)
    if _is_folder(Path(name)):
        raise usage_error("sweep", f"{_quoted(name)} holds neither {SWEEP_FILE} nor a folder with {RECORD_FILE}")
    known = sorted(path.parent.name for path in sweeps.glob(f"*/{SWEEP_FILE}")) if sweeps.is_dir() else []
    there = (
        f"{len(known)} {'sweep' if len(known) == 1 else 'sweeps'} under {sweeps}" if known else f"none under {sweeps}"
    )
    raise usage_error("sweep", f"no sweep {_quoted(name)}{nearest(name, known)} ({there})")


def refuse_protocol_without_test(folder: Path) -> None:
    """Raise UsageError where the folder is that of a protocol whose test stage, the sweep of its name, is to come."""
    try:
        begun = (folder / PROTOCOL_FILE).is_file() and not (folder / SWEEP_FILE).is_file()
    except (OSError, ValueError):
        return  # a name that no file system takes
    if begun:
        said = "is a protocol that has not come to its test stage, whose runs stand for it"
        raise usage_error("sweep", f"{_quoted(folder.name)} {said}; thawline status {folder.name} shows its stages")


def load_sweep(folder: Path) -> LoadedSweep:
    """The sweep in `folder`: one with a ``sweep.json``, or a plain folder of runs.

    Raises:
        UsageError: the folder holds neither, or a damaged ``sweep.json``.
    """
    if (folder / SWEEP_FILE).is_file():
        return _from_file(folder)
    if _holds_runs(folder):
        return _from_runs(folder)
    raise usage_error("sweep", f"{folder} holds neither {SWEEP_FILE} nor a folder with {RECORD_FILE}")


def override_values(overrides: Sequence[str]) -> dict[str, str]:
    """Key and value of each ``key=value`` override, without Hydra's ``+`` and ``++``; the last of a key counts."""
    pairs = (override.partition("=") for override in overrides)
    return {key.lstrip("+"): value for key, equals, value in pairs if equals}


def runs_folder(folder: Path, described: Manifest) -> Path:
    """The folder of the runs of the sweep in `folder`."""
    return Path(os.path.normpath(folder.absolute() / described.runs_folder))


def _from_file(folder: Path) -> LoadedSweep:
    path = folder / SWEEP_FILE
    try:
        described = load_manifest(folder)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        raise usage_error("", f"{path}: not a valid sweep: {wrong}") from None
    except (OSError, ValueError) as error:
        raise usage_error("", f"{path}: not a valid sweep: {error}") from None
    axes = {key.lstrip("+"): tuple(values) for key, values in described.axes.items()}
    # Cells that resolve to the same config share a run; it is read once.
    read = _read_runs(runs_folder(folder, described), dict.fromkeys(cell.identity for cell in described.cells))
    cells = []
    for cell in described.cells:
        values = override_values(cell.overrides)
        run, problem = read[cell.identity]
        place = {axis: values.get(axis, "") for axis in axes}
        command = run.command if run is not None else ("thawline", "train", *described.options, *cell.overrides)
        cells.append(Cell(cell.identity, command, place, run, problem, values))
    runs = tuple(run for run, _ in read.values() if run is not None)
    commands = (described.command,) if described.command else ()
    return LoadedSweep((described.name,), commands, folder, axes, tuple(cells), runs)


def _from_runs(folder: Path) -> LoadedSweep:
    folder = folder.absolute()
    names = sorted(path.parent.name for path in folder.glob(f"*/{RECORD_FILE}"))
    read = _read_runs(folder, names)
    overrides = {name: override_values(run.overrides) for name, (run, _) in read.items() if run is not None}
    seen: dict[str, dict[str, None]] = {}
    for values in overrides.values():
        for key, value in values.items():
            seen.setdefault(key, {})[value] = None
    # An override that only some runs have separates them from the rest just as two values would.
    varied = {
        key: tuple(values)
        for key, values in seen.items()
        if len(values) > 1 or any(key not in run for run in overrides.values())
    }
    axes = {key: tuple(sorted(values, key=natural)) for key, values in varied.items()}
    cells = tuple(
        Cell(
            name,
            run.command if run is not None else (),
            {axis: overrides.get(name, {}).get(axis, "") for axis in axes},
            run,
            problem,
            overrides.get(name, {}),
        )
        for name, (run, problem) in read.items()
    )
    runs = tuple(run for run, _ in read.values() if run is not None)
    return LoadedSweep((folder.name,), (), folder, axes, cells, runs)


def _read_runs(folder: Path, identities: Iterable[str]) -> dict[str, tuple[LoadedRun | None, str]]:
    """By identity the run, with its share of the passes that several need, or why there is none."""
    read = {identity: read_run(folder, identity) for identity in identities}
    shared = with_shares({identity: run for identity, (run, _) in read.items() if run is not None})
    return {identity: (shared.get(identity), problem) for identity, (_, problem) in read.items()}


def natural(text: str) -> tuple[int, float, str]:
    """A sort key that puts numbers first, by value, then text."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _is_sweep(folder: Path) -> bool:
    return _is_folder(folder) and ((folder / SWEEP_FILE).is_file() or _holds_runs(folder))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False  # a name that no file system takes is the name of no folder


def _holds_runs(folder: Path) -> bool:
    return any(folder.glob(f"*/{RECORD_FILE}"))


def _quoted(name: str) -> str:
    shown = repr(name)
    return shown if len(shown) <= 80 else shown[:77] + "...'"
