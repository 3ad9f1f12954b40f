"""Which run a user means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.errors import UsageError, nearest, usage_error
from thawline.records import RECORD_FILE
from thawline.records.names import SWEEP_FILE

if TYPE_CHECKING:
    from thawline.reports.study import Study

_FEWEST_DIGITS = 4
_RUN = "run:"


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
    from thawline.reports.loading import load_sweep, refuse_protocol_without_test

    for sweep in (Path(name), outputs / "sweeps" / name):
        if _has_manifest(sweep):
            from thawline.reports.study import make_study

            return best_run(make_study(load_sweep(sweep)))
        refuse_protocol_without_test(sweep)
    if _runs_called(name, outputs):
        return FoundRun(find_run(name, outputs))
    sweeps = [path.parent.name for path in (outputs / "sweeps").glob(f"*/{SWEEP_FILE}")]
    raise usage_error("run", f"{_no_run(name, outputs)}, and no sweep of that name{nearest(name, sweeps)}")


def find_run_or_sweep(name: str, outputs: Path) -> tuple[Path, bool]:
    """The folder of a sweep, or of a finished run as `find_run` finds it; and whether it is a run.

    Raises:
        UsageError: there is neither, or several runs begin like this.
    """
    from thawline.reports.loading import find_sweep

    if not any(map(_has_manifest, (Path(name), outputs / "sweeps" / name))) and _runs_called(name, outputs):
        return find_run(name, outputs), True
    return find_sweep(name, outputs), False


def whole_identity(name: str, outputs: Path) -> str:
    """The identity of the one finished run under ``outputs/runs`` whose identity begins with `name`, else `name`.

    Raises:
        UsageError: several begin like this.
    """
    if Path(name).name != name or not _runs_called(name, outputs):
        return name
    return find_run(name, outputs).name


def name_runs_whole(values: dict[str, Any]) -> None:
    """Write out the identities in a configuration's weights: ``run:3f2a`` becomes ``run:`` and all of its digits.

    Where they name no finished run they stay; the plan refuses them.

    Raises:
        UsageError: several runs begin like this.
    """
    outputs = Path(str(values.get("output_dir", "")))
    for path, node in _with_weights(values, ""):
        name = node["weights"].removeprefix(_RUN)
        try:
            node["weights"] = f"{_RUN}{whole_identity(name, outputs)}"
        except UsageError as error:
            raise usage_error(f"{path}weights", error.problems[0].message) from None


def _with_weights(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings of a configuration whose weights are those of a run, each with what stands before its fields."""
    if isinstance(node, dict):
        if isinstance(weights := node.get("weights"), str) and weights.startswith(_RUN):
            yield path, node
        for key, value in node.items():
            yield from _with_weights(value, f"{path}{key}.")


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
