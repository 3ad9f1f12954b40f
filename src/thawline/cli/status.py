"""``thawline status``: which runs of a sweep are done, running, interrupted, failed or left."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from thawline.commands.console import console
from thawline.commands.project import outputs
from thawline.errors import counted, first_line, usage_error
from thawline.records.manifest import Manifest
from thawline.records.protocol import ProtocolManifest
from thawline.runtime.signals import Interrupted
from thawline.sweeps.manifest import CellStatus, counts, read_manifest, read_protocol, statuses, sweep_folders
from thawline.sweeps.progress import duration

# More rows than these hide what is going on; then only what is not plainly done or left is shown.
_MOST_ROWS = 60
_STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "pending": "dim"}


def run(argv: Sequence[str]) -> int:
    """Show the states; the exit status is 0 when every cell is done, else 1.

    Raises:
        UsageError: there is no such sweep.
    """
    arguments = _parser().parse_args(argv)
    if arguments.watch is not None and not arguments.watch > 0:
        raise usage_error("--watch", "needs a number of seconds above 0")
    look = _look(arguments.sweep, arguments.outputs)
    shown = look()
    if arguments.json:
        print(json.dumps(shown.plain, indent=2))
    elif arguments.failed:
        # A run that several sweeps share is one run.
        _print_failures([*{cell.folder: cell for _, cells in shown.sweeps for cell in cells}.values()])
    elif arguments.watch is not None:
        return _watch(look, arguments)
    else:
        console.print(shown.view(everything=arguments.all))
    return shown.exit_status


@dataclass(frozen=True)
class _Shown:
    """The cells of a sweep; or of the stages of a protocol, as far as it has come."""

    sweeps: tuple[tuple[Manifest, list[CellStatus]], ...]
    protocol: ProtocolManifest | None = None

    @property
    def exit_status(self) -> int:
        """0 when every cell is done, and no further stage is to come."""
        left = self.protocol is not None and not self.protocol.complete
        return int(left or any(_exit_status(cells) for _, cells in self.sweeps))

    @property
    def plain(self) -> object:
        """What the JSON output has."""
        sweeps = [_plain(manifest, cells) for manifest, cells in self.sweeps]
        if self.protocol is None:
            return sweeps[0]
        stages = [
            {"stage": stage.name, "purpose": stage.purpose, **sweep}
            for stage, sweep in zip(self.protocol.stages, sweeps, strict=True)
        ]
        candidates = [candidate.model_dump() for candidate in self.protocol.candidates]
        return {
            "name": self.protocol.name,
            "complete": self.protocol.complete,
            "stages": stages,
            "candidates": candidates,
        }

    def view(self, *, everything: bool) -> RenderableType:
        """What the terminal shows."""
        views = [_view(manifest, cells, everything=everything) for manifest, cells in self.sweeps]
        if self.protocol is None:
            return views[0]
        from thawline.cli.reporting import protocol_lines

        lines = [Text(_printable(line.plain), style=line.style) for line in protocol_lines(self.protocol)]
        return Group(*views, *lines)


class _EverySweep(_Shown):
    """All sweeps under an output folder: a line for each."""

    @property
    def plain(self) -> object:
        """What the JSON output has."""
        return [_plain(manifest, cells) for manifest, cells in self.sweeps]

    def view(self, *, everything: bool) -> RenderableType:
        """What the terminal shows; with `everything` also the runs of each."""
        if everything:
            return Group(*(_view(manifest, cells, everything=True) for manifest, cells in self.sweeps))
        return Group(*(_summary(manifest, cells) for manifest, cells in self.sweeps))


def _look(name: str | None, outputs: Path) -> Callable[[], _Shown]:
    """What looks at the state of a sweep or a protocol, or without a name of every sweep.

    Raises:
        UsageError: there is none of this name, or none at all.
    """
    from thawline.reports.loading import find_sweep

    if name is None:
        return partial(_every_sweep, outputs)
    for folder in (Path(name), outputs / "sweeps" / name):
        if read_protocol(folder) is not None:
            return partial(_stages, folder)
    return partial(_sweep, find_sweep(name, outputs))


def _every_sweep(outputs: Path) -> _Shown:
    found = tuple(_cells(folder) for folder in sweep_folders(outputs))
    if not found:
        raise usage_error("--outputs", f"no sweep under {outputs}")
    return _EverySweep(found)


def _sweep(folder: Path) -> _Shown:
    return _Shown((_cells(folder),))


def _stages(folder: Path) -> _Shown:
    protocol = read_protocol(folder)
    if protocol is None:
        raise usage_error("sweep", f"{folder} holds no protocol any more")
    return _Shown(tuple(_cells(folder.parent / stage.sweep) for stage in protocol.stages), protocol)


def _cells(folder: Path) -> tuple[Manifest, list[CellStatus]]:
    manifest = read_manifest(folder)
    return manifest, statuses(folder, manifest)


def _watch(look: Callable[[], _Shown], arguments: argparse.Namespace) -> int:
    """Show the states until every cell is done, or the user has seen enough."""
    shown = look()
    with (
        contextlib.suppress(Interrupted),
        Live(shown.view(everything=arguments.all), console=console, auto_refresh=False) as live,
    ):
        while shown.exit_status:
            time.sleep(arguments.watch)
            shown = look()
            live.update(shown.view(everything=arguments.all), refresh=True)
    return shown.exit_status


def _summary(manifest: Manifest, cells: Sequence[CellStatus]) -> Text:
    parts = [Text(f"{number} {state}", style=_STYLES[state]) for state, number in counts(cells).items()]
    diverged = sum(cell.status.diverged for cell in cells)
    if diverged:
        parts.append(Text(f"{diverged} of those done diverged", style="red"))
    return Text(f"{_printable(manifest.name)}: {counted(len(cells), 'run')}: ").append(Text(", ").join(parts))


def _view(manifest: Manifest, cells: Sequence[CellStatus], *, everything: bool) -> RenderableType:
    summary = Group(_summary(manifest, cells), *_versions(cells))
    shown = cells if everything or len(cells) <= _MOST_ROWS else [c for c in cells if _tells(c)][:_MOST_ROWS]
    if not shown:
        return summary
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "attempt", "where", "since", ""):
        table.add_column(name, overflow="fold", justify="right" if name == "attempt" else "left")
    now = datetime.datetime.now(datetime.UTC)
    for cell in shown:
        table.add_row(*_row(cell, now))
    left_out = len(cells) - len(shown)
    note = [Text(f"{left_out} more that are done or not begun; --all shows them", style="dim")] if left_out else []
    return Group(summary, table, *note)


def _versions(cells: Sequence[CellStatus]) -> list[Text]:
    """The note of a report where different versions of thawline made the runs."""
    made = [cell.status.version for cell in cells if cell.status.state == "done"]
    if len({*made}) < 2:
        return []
    from thawline.reports.training import version_warnings

    return [Text(f"note: {said}") for said in version_warnings(made)]


def _tells(cell: CellStatus) -> bool:
    return cell.status.state not in ("done", "pending") or cell.status.diverged


def _row(cell: CellStatus, now: datetime.datetime) -> list[Text]:
    status = cell.status
    # Labels and messages come from outside: as Text they are shown as they are and not read as markup.
    return [
        Text(_printable(cell.label)),
        Text("done, diverged", style="red")
        if status.diverged and status.state == "done"
        else Text(status.state, style=_STYLES[status.state]),
        Text(str(status.attempt or "")),
        Text(_printable(f"{status.host}:{status.pid}") if status.host else ""),
        Text(_age(status.since, now)),
        Text(_printable(first_line(status.error)), overflow="ellipsis", no_wrap=True),
    ]


def _print_failures(cells: Sequence[CellStatus]) -> None:
    failed = [cell for cell in cells if cell.status.state == "failed"]
    for cell in failed:
        console.print(Text(_printable(cell.label), style="bold red"))
        console.print(Text(f"  overrides: {_printable(' '.join(cell.overrides))}"), soft_wrap=True)
        for line in cell.status.error.splitlines() or [""]:
            console.print(Text(f"  {_printable(line)}"), soft_wrap=True)
        if cell.status.traceback_file:
            console.print(Text(f"  traceback: {_printable(cell.status.traceback_file)}"), soft_wrap=True)
    console.print(Text(f"{len(failed)} of {len(cells)} runs failed"))


def _plain(manifest: Manifest, cells: Sequence[CellStatus]) -> dict[str, object]:
    return {
        "name": manifest.name,
        "counts": counts(cells),
        "cells": [
            {
                "identity": cell.identity,
                "label": cell.label,
                "overrides": list(cell.overrides),
                "folder": str(cell.folder),
                **{key: value for key, value in asdict(cell.status).items() if key != "record_stamp"},
            }
            for cell in cells
        ],
    }


def _exit_status(cells: Sequence[CellStatus]) -> int:
    return int(any(cell.status.state != "done" for cell in cells))


def _age(since: str, now: datetime.datetime) -> str:
    try:
        return f"{duration((now - datetime.datetime.fromisoformat(since)).total_seconds())} ago"
    except (ValueError, TypeError):
        return ""


def _printable(text: str) -> str:
    """Overrides and errors may hold anything, also what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline status",
        description="Show which runs of a sweep, or of a protocol's stages, are done, running, interrupted, failed or "
        "left. The exit status is 0 when every run is done, else 1.",
    )
    parser.add_argument(
        "sweep",
        metavar="SWEEP",
        nargs="?",
        help="a sweep's folder or its name; without it, a line for each sweep",
    )
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where sweeps lie")
    parser.add_argument("--failed", action="store_true", help="print the overrides and the error of each failure")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--all", action="store_true", help="a row for every run, also in a large sweep")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="keep showing it until every run is done (Ctrl-C ends it), every 2 seconds by default",
    )
    return parser
