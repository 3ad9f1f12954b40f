"""``thawline sync``: W&B runs made again from records, offline or straight to the server."""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from thawline.commands.console import console
from thawline.commands.project import outputs

if TYPE_CHECKING:
    from thawline.records import Record
    from thawline.reports.loading import LoadedSweep
    from thawline.trackers import WandB


def run(argv: Sequence[str]) -> int:
    """Make the W&B run of every finished run of a sweep again, and the sweep's own.

    Raises:
        UsageError: there is no such sweep, or none of its runs is finished.
    """
    from thawline.errors import counted, usage_error
    from thawline.records import load_record
    from thawline.reports import find_sweep, make_report
    from thawline.reports.loading import load_sweep
    from thawline.trackers.weights_and_biases import files_folder, is_disabled

    arguments = _parser().parse_args(argv)
    if is_disabled():
        raise usage_error("WANDB_MODE", "W&B is disabled by the environment; unset it to make its runs")
    folder = find_sweep(arguments.sweep, arguments.outputs)
    sweep = load_sweep(folder)
    if not sweep.runs:
        raise usage_error("sweep", f"{folder} has no finished run")
    records = [load_record(found.folder) for found in sweep.runs]
    spec = _spec(records[0], arguments)
    model_of = _models() if spec.artifact else None
    for record, found in zip(records, sweep.runs, strict=True):
        _replay(spec, record, sweep, functools.partial(model_of, found.folder) if model_of else None)
    spec.summarise(sweep.name, folder, make_report(folder).folder)
    missing = sum(cell.run is None for cell in sweep.cells)
    left = f"; {counted(missing, 'cell')} without a record" if missing else ""
    console.print(f"{counted(len(records), 'run')} and the sweep's summary{left}", highlight=False)
    files = files_folder(folder) / "wandb"
    if list(files.glob("offline-run-*")):
        command = f"wandb sync {shlex.quote(str(files))}/offline-run-*"
        console.print(Text(f"offline, to upload: {command}"), soft_wrap=True)
    return 0


def _replay(spec: WandB, record: Record, sweep: LoadedSweep, model: Callable[[], Path] | None) -> None:
    from thawline.trackers import Mirrored
    from thawline.trackers.weights_and_biases import remove_offline

    remove_offline(sweep.folder, record.identity)
    axes = [override for override in record.overrides if override.lstrip("+").partition("=")[0] in sweep.axes]
    name = " ".join(axes) or record.identity
    directions = {f"val/{name}": of.direction for name, of in record.metric_definitions.items()}
    about = Mirrored(sweep.folder, record.identity, name, sweep.name, record.config, directions, model)
    spec.replay(record, about)


def _models() -> Callable[[Path], Path]:
    """Gives the file of the whole model of the run in a folder; the runs share their data and networks."""
    from thawline.execution.weights import ensure_model
    from thawline.planning.context import RunContext
    from thawline.planning.plan import plan_of_run
    from thawline.planning.session import Session

    session = Session()
    return lambda folder: ensure_model(RunContext(plan_of_run(folder, session), session))


def _spec(record: Record, arguments: argparse.Namespace) -> WandB:
    """W&B as the run had it, with what the command line says instead; the fields are data, the class is ours."""
    from thawline.specs import validate
    from thawline.trackers import WandB

    logger = record.config.get("logger") or {}
    said = logger if str(logger.get("_target_")).rpartition(".")[2] == WandB.__name__ else {}
    values: dict[str, Any] = {key: value for key, value in said.items() if key != "_target_"}
    values["mode"] = "online" if arguments.online else "offline"
    values |= {key: value for key in ("project", "entity") if (value := getattr(arguments, key)) is not None}
    spec: WandB = validate(WandB, values, "logger")
    return spec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline sync",
        description="Make a sweep's W&B runs again from its records: one for each run, with the run's identity as its "
        "id, and one for the sweep, with its tables and its figure.",
    )
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep's folder, its name under outputs/sweeps, or runs")
    parser.add_argument("--online", action="store_true", help="upload now (default: write offline runs)")
    parser.add_argument("--project", help="W&B project (default: that of the runs)")
    parser.add_argument("--entity", help="W&B entity (default: that of the runs)")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where sweeps lie")
    return parser
