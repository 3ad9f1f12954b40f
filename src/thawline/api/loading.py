"""Runs and sweeps that are there, by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from thawline.api.process import options
from thawline.api.run import Run
from thawline.api.sweep import Sweep


def load_sweep(
    name_or_path: str | os.PathLike[str],
    *,
    output_dir: str | os.PathLike[str] | None = None,
    allow: str | Sequence[str] = (),
) -> Sweep:
    """A sweep that was run before, here or by the command line.

    Args:
        name_or_path: its name under ``outputs/sweeps``, or its folder; a plain folder of runs will do.
        output_dir: where runs and sweeps lie; default: the project file's, or ``outputs``.
        allow: packages of your own that the runs' classes are from, to load models.

    Raises:
        UsageError: there is no such sweep; the nearest names are in the message.
    """
    from thawline.reports import find_sweep

    folder = find_sweep(os.fspath(name_or_path), _outputs(output_dir))
    return Sweep(folder.absolute(), allow=_listed(allow))


def load_run(
    identity: str | os.PathLike[str],
    *,
    output_dir: str | os.PathLike[str] | None = None,
    allow: str | Sequence[str] = (),
) -> Run:
    """A finished run.

    Args:
        identity: its identity under ``outputs/runs`` (the first digits will do), or its folder.
        output_dir: where runs lie; default: the project file's, or ``outputs``.
        allow: packages of your own that the run's classes are from, to load its model.

    Raises:
        UsageError: there is no such run, or its record is damaged.
    """
    from thawline.commands.finding import find_run

    folder = find_run(os.fspath(identity), _outputs(output_dir))
    return Run(folder.absolute(), allow=_listed(allow))


def _listed(allow: str | Sequence[str]) -> tuple[str, ...]:
    return (allow,) if isinstance(allow, str) else tuple(allow)


def _outputs(given: str | os.PathLike[str] | None) -> Path:
    from thawline.commands.project import outputs

    if given is not None:
        return Path(given)
    with options((), None):
        return outputs()
