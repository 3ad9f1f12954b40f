"""``thawline runs``: every run over all sweeps, those that meet conditions, as a table or as a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from thawline.commands.console import console, errors, print_table
from thawline.commands.project import outputs
from thawline.commands.run_conditions import Condition, read_conditions, require_key
from thawline.commands.run_rows import (
    FIELDS,
    digits_that_differ,
    file_rows,
    in_order,
    keys_with_room,
    require_metric,
    run_table,
    same_types,
    values_of,
    values_told,
    varying,
)
from thawline.errors import usage_error
from thawline.files import atomic_write
from thawline.reports.document import Table
from thawline.reports.escaping import plain
from thawline.sweeps.catalogue import KnownRun, read_catalogue

# More rows than these are for a file, not for a terminal.
_MOST_ROWS = 60
_FIRST_TO_GO = ("date", "seconds", "sweep")
_TERMINAL = Path("-")


def run(argv: Sequence[str]) -> int:
    """List the runs; the exit status.

    Raises:
        UsageError: there is no run at all, or an option names a key or metric that no run has.
    """
    arguments = _parser().parse_args(argv)
    catalogue = read_catalogue(arguments.outputs)
    for problem in catalogue.problems:
        errors.print(Text(f"note: {problem}"), soft_wrap=True)
    every = catalogue.runs
    if not every:
        raise usage_error("--outputs", f"no run under {arguments.outputs}")
    known = list(dict.fromkeys([*FIELDS, *(key for each in every for key in each.settings)]))
    conditions = read_conditions(arguments.where, known)
    order = require_key("--sort", arguments.sort, known)
    require_metric(every, arguments.metric)
    found = [each for each in every if _meets(each, conditions, arguments.metric)]
    found = in_order(found, order, arguments.metric)
    if arguments.parquet is not None:
        _write_parquet(arguments.parquet, same_types(file_rows(found, arguments.metric)))
        print(f"{len(found)} of {len(every)} runs: {arguments.parquet}")
    elif arguments.csv == _TERMINAL:
        print(_csv(file_rows(found, arguments.metric)), end="")
    elif arguments.csv is not None:
        with atomic_write(arguments.csv) as stream:
            stream.write(_csv(file_rows(found, arguments.metric)).encode())
        print(f"{len(found)} of {len(every)} runs: {arguments.csv}")
    elif arguments.json:
        print(json.dumps(file_rows(found, arguments.metric), indent=2))
    else:
        _show(found, every, conditions, arguments)
    return 0


def _meets(run: KnownRun, conditions: Sequence[Condition], metric: str | None) -> bool:
    if not conditions:
        return True
    values = values_of(run, metric)
    return all(condition.holds(values) for condition in conditions)


def _show(
    found: Sequence[KnownRun], every: Sequence[KnownRun], conditions: Sequence[Condition], arguments: argparse.Namespace
) -> None:
    shown = found if arguments.all else found[:_MOST_ROWS]
    if shown:
        # What distinguishes a single run is how it differs from the rest.
        keys = varying(found if len(found) > 1 else every)
        digits = digits_that_differ([each.identity for each in every])
        table, without = _fitting_table(shown, keys, arguments.metric, digits)
        print_table(table)
        if without:
            said = f"no room for {', '.join(map(plain, without))}; --csv has every setting"
            console.print(Text(said, style="dim"), soft_wrap=True)
    console.print(Text(_summary(found, every)))
    if len(shown) < len(found):
        console.print(Text(f"the first {len(shown)} are shown; --all shows them all", style="dim"))
    for condition in () if found else conditions:
        there = values_told(every, condition.key, arguments.metric)
        console.print(Text(f"{condition.key} is {there}", style="dim"), soft_wrap=True)


def _fitting_table(
    runs: Sequence[KnownRun], keys: Sequence[str], metric: str | None, digits: int
) -> tuple[Table, list[str]]:
    """The table of the runs for this terminal, and the keys for which it has no room."""
    from thawline.reports.tables import fitted

    whole = run_table(runs, keys, metric, digits)
    table = fitted(whole, console.width, _FIRST_TO_GO)
    if _settings(table) in ([], _settings(whole)):
        return table, []
    kept = keys_with_room(runs, keys, max(map(len, _settings(table))))
    table = fitted(run_table(runs, kept, metric, digits), console.width, _FIRST_TO_GO)
    return table, [key for key in keys if key not in kept]


def _settings(table: Table) -> list[str]:
    """The column of settings; none where it is said once for all runs."""
    places = [place for place, column in enumerate(table.columns) if column.heading == "settings"]
    return [line.entries[place] for place in places for line in table.lines]


def _summary(found: Sequence[KnownRun], every: Sequence[KnownRun]) -> str:
    states = [run.state for run in found]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    sweeps = len({name for run in found for name in run.sweeps})
    of = f" of {len(every)}" if len(found) < len(every) else ""
    where = f" in {sweeps} {'sweep' if sweeps == 1 else 'sweeps'}" if sweeps else ""
    runs = "run" if len(every) == 1 else "runs"
    return f"{len(found)}{of} {runs}{where}" + (f": {counted}" if counted else "")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    from thawline.reports.rendering import csv_text

    return csv_text(
        [{key: ", ".join(value) if key == "sweep" else value for key, value in row.items()} for row in rows]
    )


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise usage_error("--parquet", "needs the library pyarrow: pip install 'thawline[parquet]'") from None
    with atomic_write(path) as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), stream)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline runs",
        description="List the runs of all sweeps: what varies among them, state, headline metric, cost, date.",
        epilog="thawline runs --where backbone.name=resnet18 'optimizer.lr>0.001' --sort test      "
        "thawline runs --where state=failed      thawline runs --csv > runs.csv",
    )
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="CONDITION",
        help="only runs that meet every one: KEY=VALUE (with * and ?), KEY!=VALUE, 'KEY<NUMBER', 'KEY>NUMBER'; KEY is "
        f"any key of the config, a group of the command line, or {', '.join(FIELDS)}",
    )
    parser.add_argument(
        "--sort",
        default="date",
        metavar="KEY",
        help="by a key as of --where: the latest date first (the default), the best metric first, else the smallest",
    )
    parser.add_argument("--metric", help="show this metric (default: each task's headline metric)")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs and sweeps lie")
    parser.add_argument("--all", action="store_true", help=f"every run, also where there are more than {_MOST_ROWS}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--csv", type=Path, nargs="?", const=_TERMINAL, metavar="FILE", help="print or write CSV, with every metric"
    )
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--parquet", type=Path, metavar="FILE", help="write a Parquet file (needs thawline[parquet])")
    return parser
