"""``thawline average``: averages of finished runs, chosen on validation and tested once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from thawline.commands.console import console, errors
from thawline.commands.project import outputs
from thawline.errors import usage_error
from thawline.invocation import Invocation

if TYPE_CHECKING:
    from thawline.planning.plan import Plan
    from thawline.planning.session import Session
    from thawline.records import Record
    from thawline.sweeps.averages import Averages

_ALPHAS = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"


def run(argv: Sequence[str]) -> int:
    """Make the averages, each a run with a record of its own, and show what they are worth.

    Raises:
        UsageError: there is no such run or sweep, or nothing in it can be averaged.
    """
    arguments = _parser().parse_args(argv)
    if arguments.method != "wise_ft" and (arguments.start or arguments.alphas != _ALPHAS):
        raise usage_error("--method", f"--start and --alphas are of wise_ft, not of {arguments.method}")

    target = _target(arguments)
    from thawline.execution.run import execute
    from thawline.ledger.runs import RunFailed, run_once
    from thawline.planning.context import RunContext
    from thawline.planning.session import Session

    session = Session()
    averages = _planned(arguments, *target, session)
    for reason in averages.left_out:
        errors.print(Text(f"left out: {reason}", style="yellow"), soft_wrap=True)
    group = averages.folder.name if averages.folder is not None else None

    def average(plan: Plan) -> Record:
        return execute(RunContext(plan, session), group=group, on_epoch=lambda row: None)

    records, failed = [], 0
    with errors.status("") as status:
        for number, plan in enumerate(averages.plans, start=1):
            status.update(Text(f"average {number} of {len(averages.plans)}"))
            try:
                records.append(run_once(plan, average))
            except RunFailed as error:
                errors.print(Text(f"error: {error}"), soft_wrap=True)
                failed += 1
    if records:
        _show(records)
    runs = averages.plans[0].folder.parent
    console.print(Text(f"\nrecords: {runs}"), soft_wrap=True)
    if averages.folder is not None:
        console.print(Text(f"beside the runs they are made of: thawline report {averages.folder}"), soft_wrap=True)
    return 1 if failed else 0


def _target(arguments: argparse.Namespace) -> tuple[Path, bool]:
    """The folder that is meant, and whether it is one run; found before torch is imported."""
    from thawline.commands.finding import find_run_or_sweep

    folder, is_run = find_run_or_sweep(arguments.target, arguments.outputs)
    if is_run and arguments.method != "wise_ft":
        raise usage_error("--method", f"{arguments.method} averages the runs of a sweep; {folder} is one run")
    return folder, is_run


def _planned(arguments: argparse.Namespace, folder: Path, is_run: bool, session: Session) -> Averages:
    from thawline.commands.finding import whole_identity
    from thawline.sweeps import averages

    alphas = _numbers(arguments.alphas) if arguments.method == "wise_ft" else []
    start = whole_identity(arguments.start, arguments.outputs) if arguments.start else None
    if is_run:
        return averages.of_run(folder.absolute(), alphas, start, session)
    return averages.of_sweep(folder, arguments.method, alphas, start, Invocation.current(), session)


def _numbers(text: str) -> list[float]:
    try:
        numbers = sorted({float(item) for item in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not all(0.0 <= number <= 1.0 for number in numbers):
        raise usage_error("--alphas", f"{text!r} is not a list of numbers from 0 to 1, such as 0,0.25,0.5,1")
    return numbers


def _show(records: Sequence[Record]) -> None:
    """A line for each average: what was chosen, and its metric on the splits that it opens."""
    metric = records[0].selection.monitor.removeprefix("val/")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True)
    table.add_column("chosen", overflow="fold")
    # An average of runs that keep the test split closed keeps it closed, too.
    splits = [split for split in ("val", "test") if any(split in record.metrics for record in records)]
    for split in splits:
        table.add_column(f"{split} {metric}", justify="right")
    for record in records:
        about = record.diagnostics["average"]
        chosen = about["chosen"]
        said = (
            f"a = {chosen['alpha']:g}"
            if "alpha" in chosen
            else f"{len(chosen['ingredients'])} of {len(about['ingredients'])} runs"
        )
        values = [record.metrics.get(split, {}).get(metric) for split in splits]
        table.add_row(
            Text(record.identity), Text(said), *("-" if value is None else f"{value:.4f}" for value in values)
        )
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline average",
        description="Average the weights of finished runs. Everything is chosen on validation; the test split is "
        "opened once, for what was chosen. Each average is a run with a record of its own.",
        epilog="thawline average SWEEP --method greedy      thawline average RUN --method wise_ft --alphas 0,0.5,1",
    )
    parser.add_argument(
        "target", metavar="SWEEP|RUN", help="a sweep's folder or name, or (wise_ft) a run's folder or identity"
    )
    parser.add_argument(
        "--method",
        required=True,
        choices=("wise_ft", "uniform", "greedy"),
        help="wise_ft: between each run and its start; uniform, greedy: a soup of all runs that are alike, or of "
        "those that do not harm it on validation",
    )
    parser.add_argument("--alphas", default=_ALPHAS, metavar="LIST", help=f"places between start and run ({_ALPHAS})")
    parser.add_argument("--start", metavar="RUN", help="the run to start from (default: the weights before tuning)")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs and sweeps lie")
    return parser
