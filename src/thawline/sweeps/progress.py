"""The progress of a sweep or of a run, on a terminal as a bar, elsewhere as plain lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from thawline.runs.plan import Plan


class SweepProgress:
    """Runs done, failed and left with the time left; and the epoch of the current run."""

    def __init__(self, console: Console, total: int, *, shown: bool = True) -> None:
        self._console, self._total = console, total
        self._live = shown and console.is_terminal
        self._done = self._skipped = self._failed = 0
        self._seconds = 0.0
        columns = (
            SpinnerColumn(), TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console, disable=not self._live, transient=True)
        self._runs = self._progress.add_task("runs", total=total, note="")
        self._epochs = self._progress.add_task("epochs", total=1, note="", visible=False)

    def __enter__(self) -> SweepProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, plan: Plan) -> None:
        """A run starts."""
        self._began = time.monotonic()
        epochs = sum(phase.epochs or 0 for phase in plan.phases)
        self._progress.reset(self._epochs, total=epochs, description="epochs", visible=True, note="")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch of the current run is over."""
        shown = [f"{name} {row[key]:.3f}" for name, key in (("loss", "train/loss"), ("val", "val/top1")) if key in row]
        self._progress.update(self._epochs, advance=1, note="  ".join(shown))

    def finish(self, plan: Plan, outcome: str, note: str = "") -> None:
        """A run is over: ``done``, ``failed``, ``skipped`` (it was done before) or ``busy`` (another process has it)."""
        if outcome == "skipped":
            self._skipped += 1
        else:
            self._seconds += time.monotonic() - self._began
            self._done += outcome == "done"
            self._failed += outcome == "failed"
            if not self._live or outcome == "failed":
                seen = self._done + self._failed + self._skipped
                style = "[red]failed[/]" if outcome == "failed" else outcome
                self._console.print(f"[{seen}/{self._total}] {style} {escape(plan.label)}  {escape(note)}", highlight=False, soft_wrap=True)
        self._progress.update(self._runs, advance=1, note=self._note())

    def _note(self) -> str:
        ran = self._done + self._failed
        left = self._total - ran - self._skipped
        parts = [f"{self._failed} failed"] if self._failed else []
        parts += [f"{self._skipped} were there"] if self._skipped else []
        if ran and left:
            parts.append(f"about {duration(left * self._seconds / ran)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A length of time in words, to its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
