"""What the terminal shows when a run or a sweep is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from thawline.cli.console import console, errors
from thawline.evaluation.corruptions import corruption_of
from thawline.ledger.runs import status_of
from thawline.records import read_record

if TYPE_CHECKING:
    from thawline.planning.plan import Plan
    from thawline.sweeps.sweep import Sweep


def print_run(plan: Plan) -> None:
    """The metrics of a finished run and where its record is."""
    record = read_record(plan.folder)
    if record is None:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    # A corrupted set of its own is for the record and the report; their mean stands for them here.
    splits = [split for split in record.metrics if corruption_of(split.removeprefix("test/")) is None]
    names = list(dict.fromkeys(name for values in record.metrics.values() for name in values))
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
    for name in names:
        values = [record.metrics[split].get(name) for split in splits]
        table.add_row(name, *("-" if value is None else f"{value:.4f}" for value in values))
    console.print(table)
    counts = record.parameters
    console.print(
        f"trainable {counts.trainable:,} of {counts.total:,} parameters; epoch {record.selection.epoch} chosen by "
        f"{record.selection.monitor}; {record.cost.total_seconds:.1f} s"
    )
    if record.diverged:
        errors.print(f"[red]diverged[/]: {escape(record.divergence)}", highlight=False, soft_wrap=True)
    console.print(f"record: {plan.folder / 'record.json'}")


def print_data(plans: Sequence[Plan]) -> None:
    """What is to be known of the data of these runs before they start: files left out, and warnings."""
    for left_out in dict.fromkeys(tuple(plan.splits.left_out.items()) for plan in plans):
        if left_out:
            listed = ", ".join(f"{count} {kind}" for kind, count in left_out)
            console.print(f"left out of the data: {escape(listed)}", highlight=False, soft_wrap=True)
    told = Counter(warning for plan in plans for warning in plan.warnings)
    for warning, count in told.items():
        where = "" if count == len(plans) else f" (in {count} of {len(plans)} runs)"
        errors.print(f"[yellow]warning[/]: {escape(warning)}{where}", highlight=False, soft_wrap=True)


def report_sweep(sweep: Sweep) -> int:
    """Print every failure, make the report, and return how many cells are not done."""
    unfinished = 0
    for plan in sweep.plans:
        status = status_of(plan.folder)
        if status.state == "done":
            continue
        unfinished += 1
        where = f" (traceback: {status.traceback_file})" if status.traceback_file else ""
        errors.print(f"[red]{status.state}[/]: {escape(plan.label)}: {escape(status.error)}{where}", soft_wrap=True)
    first = sweep.plans[0].settings
    if first.sweep.report and unfinished < len(sweep.plans):
        from thawline.cli.report import report
        from thawline.trackers import mirror_sweep

        files = report(sweep.folder)
        mirror_sweep(first.logger, sweep.name, sweep.folder, files.folder)
    return unfinished
