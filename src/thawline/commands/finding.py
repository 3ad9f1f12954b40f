"""Which run a user means."""

from __future__ import annotations

from pathlib import Path

from thawline.errors import usage_error
from thawline.records import RECORD_FILE

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


def _has_record(folder: Path) -> bool:
    try:
        return (folder / RECORD_FILE).is_file()
    except (OSError, ValueError):
        return False  # a name that no file system takes
