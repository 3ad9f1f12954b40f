"""What the terminal shows when a run or a sweep is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from thawline.cli.report import show
from thawline.commands.console import console, errors
from thawline.errors import counted
from thawline.evaluation.corruptions import corruption_of
from thawline.records import read_record

if TYPE_CHECKING:
    from thawline.commands.outcome import FinishedSweep
    from thawline.planning.plan import Plan
    from thawline.records.protocol import ProtocolManifest
    from thawline.sweeps.known import KnownPlan


def print_run(plan: Plan | KnownPlan) -> None:
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
    counts, selection = record.parameters, record.selection
    kept = "kept as the last one" if selection.kept == "last" else f"chosen by {selection.monitor}"
    console.print(
        f"trainable {counts.trainable:,} of {counts.total:,} parameters; epoch {record.selection.epoch} {kept}; "
        f"{record.cost.total_seconds:.1f} s"
    )
    if record.diverged:
        errors.print(f"[red]diverged[/]: {escape(record.divergence)}", highlight=False, soft_wrap=True)
    console.print(f"record: {plan.folder / 'record.json'}")


def print_sweep(finished: FinishedSweep) -> None:
    """Every run that is not done, and the report."""
    for one in finished.unfinished:
        where = f" (traceback: {one.status.traceback_file})" if one.status.traceback_file else ""
        said = f"{escape(one.label)}: {escape(one.status.error)}{where}"
        errors.print(f"[red]{one.status.state}[/]: {said}", soft_wrap=True)
    if finished.protocol is not None:
        console.print(*protocol_lines(finished.protocol), sep="\n", soft_wrap=True)
    if finished.report is not None:
        show(finished.report)


def protocol_lines(protocol: ProtocolManifest) -> list[Text]:
    """What the stages of a protocol were, and what they chose or dropped."""
    runs = ", ".join(f"{stage.name} {counted(len(stage.points), 'run')}" for stage in protocol.stages)
    lines = [Text(f"{protocol.name}: {runs}{'' if protocol.complete else '; further stages follow'}")]
    trials = max((candidate.trials for candidate in protocol.candidates), default=0)
    chosen = [(candidate, candidate.choice) for candidate in protocol.candidates if candidate.choice is not None]
    if chosen:
        tuned = f" of {counted(trials, 'setting')} each" if trials else ""
        lines.append(Text(f"chosen on validation{tuned}:", style="bold"))
    for candidate, choice in chosen:
        value = "" if choice.value is None else f", val {choice.metric} {choice.value:.4f}"
        over = f" (mean of {len(choice.seeds)} seeds)" if len(choice.seeds) > 1 else ""
        number = "" if choice.trial is None else f"trial {choice.trial}"
        setting = " ".join(choice.changes)
        lines.append(Text(f"  {candidate.label}: {setting}  ({number}{value}{over})"))
        lines += [Text(f"note: {candidate.label}: {warning}", style="yellow") for warning in choice.warnings]
    dropped = [(candidate, candidate.drop) for candidate in protocol.candidates if candidate.drop is not None]
    if dropped:
        lines.append(Text("dropped on validation:", style="bold"))
    labels = dict(enumerate(candidate.label for candidate in protocol.candidates))
    for candidate, drop in dropped:
        by = f"beaten by {labels.get(drop.winner, 'another')} (p = {drop.p:.3g})"
        lines.append(Text(f"  {candidate.label}: at {drop.seeds} seeds, {by}{', audited' if drop.audited else ''}"))
    return lines
