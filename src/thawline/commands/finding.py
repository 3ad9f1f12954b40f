"""Which run a user means."""

from __future__ import annotations

from pathlib import Path

from thawline.errors import UsageError, nearest, usage_error
from thawline.records import RECORD_FILE
from thawline.records.names import SWEEP_FILE

_FEWEST_DIGITS = 4


def find_run(name: str, outputs: Path) -> Path:
    """The folder of a finished run, by its path or by its identity under ``outputs/runs`` (the first digits will do).

    Raises:
        UsageError: there is none, or several begin like this.
    """
    for candidate in (Path(name), outputs / "runs" / name):
        if _has_record(candidate):
            return candidate
    if Path(name).name == name and len(name) >= _FEWEST_DIGITS and (outputs / "runs").is_dir():
        found = sorted(
            folder for folder in (outputs / "runs").iterdir() if folder.name.startswith(name) and _has_record(folder)
        )
        if len(found) == 1:
            return found[0]
        if found:
            raise usage_error("run", f"{name!r} is the beginning of {len(found)} runs; give more of it")
    raise usage_error("run", f"no finished run {name!r}, neither as a folder nor under {outputs / 'runs'}")


def find_run_or_best(name: str, outputs: Path) -> Path:
    """The folder of a finished run as `find_run` finds it, or of the best run by validation of the sweep `name`.

    Raises:
        UsageError: there is neither, or the sweep has no run that can be chosen.
    """
    for sweep in (Path(name), outputs / "sweeps" / name):
        if _has_manifest(sweep):
            from thawline.reports.loading import load_sweep
            from thawline.reports.study import make_study

            return make_study(load_sweep(sweep)).best_run.folder
    try:
        return find_run(name, outputs)
    except UsageError as error:
        sweeps = [path.parent.name for path in (outputs / "sweeps").glob(f"*/{SWEEP_FILE}")]
        message = f"{error.problems[0].message}, and no sweep of that name{nearest(name, sweeps)}"
        raise usage_error("run", message) from None


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
