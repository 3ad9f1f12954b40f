"""Which run a user means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thawline.errors import nearest, usage_error
from thawline.records import RECORD_FILE
from thawline.records.names import SWEEP_FILE

if TYPE_CHECKING:
    from thawline.reports.study import Study

_FEWEST_DIGITS = 4


@dataclass(frozen=True)
class FoundRun:
    """A finished run: its folder, and of a sweep's best run why it is that, in a sentence."""

    folder: Path
    why: str = ""


def find_run(name: str, outputs: Path) -> Path:
    """The folder of a finished run, by its path or by its identity under ``outputs/runs`` (the first digits will do).

    Raises:
        UsageError: there is none, or several begin like this.
    """
    found = _runs_called(name, outputs)
    if len(found) > 1:
        raise usage_error("run", f"{name!r} is the beginning of {len(found)} runs; give more of it")
    if not found:
        raise usage_error("run", _no_run(name, outputs))
    return found[0]


def find_run_or_best(name: str, outputs: Path) -> FoundRun:
    """A finished run as `find_run` finds it, or the best run by validation of the sweep `name`.

    Raises:
        UsageError: there is neither, or the sweep has no run that can be chosen.
    """
    for sweep in (Path(name), outputs / "sweeps" / name):
        if _has_manifest(sweep):
            from thawline.reports.loading import load_sweep
            from thawline.reports.study import make_study

            return best_run(make_study(load_sweep(sweep)))
    if _runs_called(name, outputs):
        return FoundRun(find_run(name, outputs))
    sweeps = [path.parent.name for path in (outputs / "sweeps").glob(f"*/{SWEEP_FILE}")]
    raise usage_error("run", f"{_no_run(name, outputs)}, and no sweep of that name{nearest(name, sweeps)}")


def best_run(study: Study) -> FoundRun:
    """The best run of a sweep by validation, and in a sentence by which number it is that.

    Raises:
        UsageError: no run can be chosen.
    """
    run, sweep = study.best_run, study.sweep
    value = run.metrics["val"][study.rule.metric]
    among = f"the best of {len(sweep.runs)} runs" if len(sweep.runs) > 1 else "the only run"
    places = [cell.values for cell in sweep.cells if cell.run is run]
    swept = " ".join(f"{axis}={value}" for axis, value in places[0].items()) if places else ""
    chosen = f"{among} of sweep {sweep.name} by validation {study.metric_label}, {value:.{study.digits}f}"
    return FoundRun(run.folder, f"run {run.identity} is {chosen}" + (f" ({swept})" if swept else ""))


def _runs_called(name: str, outputs: Path) -> list[Path]:
    """The folder at the path `name` or of this identity, else those of all identities that begin like this."""
    whole = [candidate for candidate in (Path(name), outputs / "runs" / name) if _has_record(candidate)]
    if whole or Path(name).name != name or len(name) < _FEWEST_DIGITS or not (outputs / "runs").is_dir():
        return whole[:1]
    folders = (outputs / "runs").iterdir()
    return sorted(folder for folder in folders if folder.name.startswith(name) and _has_record(folder))


def _no_run(name: str, outputs: Path) -> str:
    return f"no finished run {name!r}, neither as a folder nor under {outputs / 'runs'}"


def _has_manifest(folder: Path) -> bool:
    try:
        return (folder / SWEEP_FILE).is_file()
    except (OSError, ValueError):
        return False  # a name that no file system takes


def _has_record(folder: Path) -> bool:
    try:
        return (folder / RECORD_FILE).is_file()
    except (OSError, ValueError):
        return False  # a name that no file system takes
