"""Averages over the finished runs of a sweep, and the sweep that compares them with those runs."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thawline.errors import usage_error
from thawline.execution.averaging import alike, soup_plan, wise_ft_plan
from thawline.invocation import Invocation
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan, plan_of_run
from thawline.planning.session import Session
from thawline.records import load_record, require_record
from thawline.records.manifest import CellEntry, Manifest
from thawline.sweeps.manifest import read_manifest, write_manifest

Method = Literal["wise_ft", "uniform", "greedy"]
AXIS = "average.method"
"""The axis of the comparing sweep: ``none`` for the runs themselves."""


@dataclass(frozen=True)
class Averages:
    """The averages that are to be made.

    Attributes:
        plans: one for each.
        left_out: why some runs are in none of them.
        folder: the sweep that compares, if it is of a sweep.
    """

    plans: tuple[Plan, ...]
    left_out: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class _Finished:
    plan: Plan
    overrides: tuple[str, ...]


def of_run(folder: Path, alphas: Sequence[float], start: str | None, session: Session) -> Averages:
    """The WiSE-FT average of one run.

    Raises:
        UsageError: there is no finished run, or `start` does not fit it.
    """
    plan = _plan(folder, session)
    overrides = [*plan.overrides, f"{AXIS}=wise_ft"]
    return Averages((wise_ft_plan(RunContext(plan, session), alphas, start, overrides),))


def of_sweep(
    folder: Path, method: Method, alphas: Sequence[float], start: str | None, invocation: Invocation, session: Session
) -> Averages:
    """The averages of a sweep: one of each run (WiSE-FT), or one soup of all runs that are alike.

    Runs with another validation or test split (another data seed) are not alike: what one of them was trained on
    another would be evaluated on. Diverged runs and averages are left out.

    Args:
        folder: the sweep's.
        method: how to average.
        alphas: of WiSE-FT.
        start: of WiSE-FT, the run at the other end of the line, or None for the source.
        invocation: the command that makes the averages again.
        session: what the plans share.

    Raises:
        UsageError: nothing can be averaged.
    """
    manifest = read_manifest(folder)
    runs, left_out = _finished(folder, manifest, session)
    if method == "wise_ft":
        plans = [
            wise_ft_plan(RunContext(run.plan, session), alphas, start, [*run.overrides, f"{AXIS}=wise_ft"])
            for run in runs
        ]
    else:
        plans, alone = _soups(runs, method, session)
        left_out += [f"run {identity}: no other run of the sweep is like it" for identity in alone]
    if not plans:
        raise usage_error("sweep", f"{folder}: nothing to average: {'; '.join(left_out) or 'it has no finished run'}")
    compared = Manifest(
        name=f"{manifest.name}-{method}",
        command=invocation.command,
        options=manifest.options,
        axes={**manifest.axes, AXIS: ["none", method]},
        cells=[
            *(
                CellEntry(identity=cell.identity, overrides=[*cell.overrides, f"{AXIS}=none"])
                for cell in manifest.cells
            ),
            *(CellEntry(identity=plan.identity, overrides=list(plan.overrides)) for plan in plans),
        ],
        runs_folder=manifest.runs_folder,
    )
    beside = folder.parent / compared.name
    write_manifest(beside, compared)
    return Averages(tuple(plans), tuple(left_out), beside)


def _finished(folder: Path, manifest: Manifest, session: Session) -> tuple[list[_Finished], list[str]]:
    """The runs that can be averaged, and why the others cannot."""
    runs_folder = Path(os.path.normpath(folder.absolute() / manifest.runs_folder))
    found, left_out = [], []
    for cell in manifest.cells:
        place = runs_folder / cell.identity
        try:
            record = load_record(place)
        except (OSError, ValueError):
            left_out.append(f"run {cell.identity}: not done")
            continue
        if record.selection.kept == "last":
            left_out.append(f"run {cell.identity}: trained on its validation images, which would choose the average")
        elif record.diverged or record.selection.value is None:
            left_out.append(f"run {cell.identity}: diverged")
        elif record.config.get("average") is None:
            found.append(_Finished(_plan(place, session), tuple(cell.overrides)))
    return found, left_out


def _plan(folder: Path, session: Session) -> Plan:
    record = require_record(folder)
    if record.config.get("average") is not None:
        raise usage_error("", f"{folder} is an average itself")
    if record.selection.kept == "last":
        raise usage_error("", f"{folder} trained on its validation images, which would choose the average")
    if record.diverged:
        raise usage_error("", f"{folder} diverged: {record.divergence}")
    return plan_of_run(folder, session)


def _soups(runs: Sequence[_Finished], method: Method, session: Session) -> tuple[list[Plan], list[str]]:
    """A soup for each set of runs that are alike, and the runs that are like no other."""
    groups: dict[Hashable, list[_Finished]] = {}
    for run in runs:
        groups.setdefault(alike(run.plan), []).append(run)
    soups, alone = [], []
    for group in groups.values():
        if len(group) < 2:
            alone += [run.plan.identity for run in group]
            continue
        shared = [item for item in group[0].overrides if all(item in run.overrides for run in group)]
        soups.append(soup_plan([run.plan for run in group], method, [*shared, f"{AXIS}={method}"], session))
    return soups, alone
