"""Where the shipped configuration lives: beside the package when installed, at the top of a source checkout else."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``."""
    return _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent.parent


def conf_folder() -> Path:
    """The folder of the shipped config groups."""
    return shipped_root() / "conf"


def options(group: str) -> dict[str, Path]:
    """The shipped options of a config group: name -> yaml file, sorted by name."""
    folder = conf_folder() / group
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
