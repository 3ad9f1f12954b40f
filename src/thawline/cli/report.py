"""``thawline report``: table, figure and page of a sweep, from its records alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from thawline.commands.console import console, print_table
from thawline.commands.project import outputs

if TYPE_CHECKING:
    from thawline.reports import ReportFiles

# More rows than these are for a file, not for a terminal.
_MOST_ROWS = 60


def run(argv: Sequence[str]) -> int:
    """Make the report of a sweep and show its table.

    Raises:
        UsageError: there is no such sweep, metric or axis, or no finished run.
    """
    from thawline.reports import find_sweep, make_report

    arguments = _parser().parse_args(argv)
    folder = find_sweep(arguments.sweep, arguments.outputs)
    if arguments.csv:
        files = make_report(folder, arguments.output, arguments.metric, arguments.axis)
        print(files.table_csv.read_text(encoding="utf-8"), end="")
        return 0
    report(folder, arguments.output, arguments.metric, arguments.axis)
    return 0


def report(folder: Path, output: Path | None = None, metric: str | None = None, axis: str | None = None) -> ReportFiles:
    """Make the report of the sweep in `folder` and print its answer, its table and where the files are."""
    from thawline.reports import make_report

    files = make_report(folder, output, metric, axis)
    show(files)
    return files


def show(files: ReportFiles) -> None:
    """Print the table of a report, the result in words, and where its files are."""
    from thawline.reports.tables import fitted, result_table
    from thawline.reports.wording import warnings

    print_table(fitted(result_table(files.study, _MOST_ROWS), console.width))
    for warning in warnings(files.study):
        console.print(Text(f"note: {warning}", style="yellow"))
    for paragraph in files.answer:
        console.print(Text(f"\n{paragraph}"))
    console.print(
        Text(f"\nreport: {files.html}\nfigure: {files.figure_png}\ntable:  {files.table_csv}"), soft_wrap=True
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline report",
        description="Make table, statistics, figure and report page of a sweep from its records.",
    )
    parser.add_argument(
        "sweep", metavar="SWEEP", help="a sweep's folder, its name under outputs/sweeps, or a runs folder"
    )
    parser.add_argument("--metric", help="compare the runs by this metric (default: what they selected by)")
    parser.add_argument("--axis", help="draw along this axis of the sweep (default: the one that counts layer groups)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the files go (default: SWEEP/report)")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where sweeps lie")
    parser.add_argument("--csv", action="store_true", help="print the table as CSV instead")
    return parser
