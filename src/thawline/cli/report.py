"""``thawline report``: table, figure and page of a sweep, from its records alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from thawline.commands.console import console, errors, print_table
from thawline.commands.project import outputs
from thawline.errors import usage_error

if TYPE_CHECKING:
    from thawline.reports import ReportFiles

# More rows than these are for a file, not for a terminal.
_MOST_ROWS = 60


def run(argv: Sequence[str]) -> int:
    """Make the report of a sweep, or of several as one study, and show its table.

    Raises:
        UsageError: there is no such sweep, metric or axis, or no finished run.
    """
    from thawline.reports import find_sweep, make_report, report_folder
    from thawline.reports.figure_style import width_in_inches

    arguments = _parser().parse_args(argv)
    folders = list(dict.fromkeys(find_sweep(name, arguments.outputs) for name in arguments.sweeps))
    output = arguments.output or report_folder(folders, arguments.outputs)
    if arguments.watch is not None and not arguments.watch > 0:
        raise usage_error("--watch", "needs a number of seconds above 0")
    inches = width_in_inches(arguments.figure_width) if arguments.figure_width is not None else None
    chosen = [name for names in arguments.columns for name in names.split(",") if name]

    def make(more: bool = False) -> ReportFiles:
        return make_report(
            folders,
            output,
            arguments.metric,
            arguments.axis,
            arguments.margin,
            columns=chosen,
            figure_inches=inches,
            reload_seconds=arguments.watch if more else None,
        )

    files = make() if arguments.watch is None else _watched(folders, make, arguments.watch)
    if files is None:
        return 1
    if arguments.csv:
        print(files.table_csv.read_text(encoding="utf-8"), end="")
    else:
        show(files)
    return 0


def _watched(folders: Sequence[Path], make: Callable[[bool], ReportFiles], seconds: float) -> ReportFiles | None:
    """The last report of sweeps that are looked at every so many seconds; None where no run was done."""
    from thawline.commands.renewing import Look, Renewal, renew

    def tell(look: Look) -> None:
        if look.files is not None:
            errors.print(Text(f"{look.done} of {look.total} runs: {look.files.html}"), soft_wrap=True)

    files = renew(Renewal(folders, make), tell, lambda: time.sleep(seconds))
    if files is None:
        errors.print("no run is done, so there is no report")
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
        description="Make table, statistics, figure and report page of a sweep from its records; of several sweeps as "
        "one study: what they vary, and the settings in which they differ, are its axes.",
    )
    parser.add_argument(
        "sweeps",
        metavar="SWEEP",
        nargs="+",
        help="a sweep's folder, its name under outputs/sweeps, or a runs folder; several give one report",
    )
    parser.add_argument("--metric", help="compare the runs by this metric (default: what they selected by)")
    parser.add_argument("--axis", help="draw along this axis of the sweep (default: the one that counts layer groups)")
    parser.add_argument(
        "--margin",
        type=float,
        metavar="M",
        help="differences of the metric below it do not matter (default: report.margin, else 0.01 of 0 to 1)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: SWEEP/report; of several: outputs/reports/NAMES)",
    )
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where sweeps lie")
    parser.add_argument(
        "--columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="the columns of table.tex, in this order, such as k test runs (default: all)",
    )
    parser.add_argument(
        "--figure-width",
        metavar="WIDTH",
        help="draw every figure for this width: column, text, 3.25in, 8.3cm, 246pt (default: as each needs)",
    )
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="make the report again as runs are done, until none is left (Ctrl-C ends it); looks every 10 seconds, "
        "and the page reloads itself as often",
    )
    parser.add_argument("--csv", action="store_true", help="print the table as CSV instead")
    return parser
