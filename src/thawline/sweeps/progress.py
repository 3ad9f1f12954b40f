"""The progress of a sweep or of a run, on a terminal as a bar, elsewhere as plain lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from thawline.errors import first_line
from thawline.records.names import LAST_FILE
from thawline.runtime import signals
from thawline.runtime.steps import Bars

if TYPE_CHECKING:
    from thawline.planning.plan import Plan
    from thawline.records import Record


class SweepProgress:
    """Runs done, failed and left with the time left; and the epoch of the current run."""

    def __init__(self, console: Console, total: int, *, shown: bool = True) -> None:
        self._console, self._total = console, total
        self._bars = Bars(console, shown=shown)
        self._live, self._progress = self._bars.live, self._bars.progress
        self._over = self._ran = self._skipped = self._failed = 0
        self._seconds = 0.0
        self._began: float | None = None
        self._headline = ""
        self._plan: Plan | None = None
        self._waiting = False
        self._runs = self._progress.add_task("runs", total=total, note="")
        self._epochs = self._progress.add_task("epochs", total=1, note="", visible=False)

    def __enter__(self) -> SweepProgress:
        self._bars.__enter__()
        if self._live:
            signals.on_request(self._stopping)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signals.on_request(None)
        self._bars.__exit__(kind, error, trace)
        if isinstance(error, signals.Interrupted):
            error.saved = self._saved()

    def start(self, plan: Plan) -> None:
        """A run starts."""
        self._began, self._plan = time.monotonic(), plan
        self._headline = plan.settings.task.HEADLINE
        epochs = sum(phase.epochs or 0 for phase in plan.phases)
        self._progress.reset(self._epochs, total=epochs, description="epochs", visible=True, note="")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch of the current run is over."""
        keys = (("loss", "train/loss"), (f"val {self._headline}", f"val/{self._headline}"))
        shown = [f"{name} {row[key]:.3f}" for name, key in keys if row.get(key) is not None]
        self._progress.update(self._epochs, advance=1, note="  ".join(shown))

    def finish(self, plan: Plan, outcome: str, note: str = "") -> None:
        """A run is over: ``done``, ``failed``, ``skipped`` (done before) or ``shared`` (done by another process)."""
        if self._began is not None:
            self._seconds += time.monotonic() - self._began
            self._ran += 1
            self._began = None
        self._over += 1
        self._skipped += outcome == "skipped"
        self._failed += outcome == "failed"
        if outcome == "failed" or not (self._live or outcome == "skipped"):
            style = {"failed": "[red]failed[/]", "shared": "done elsewhere"}.get(outcome, outcome)
            line = f"[{self._over}/{self._total}] {style} {escape(plan.label)}  {escape(first_line(note))}"
            self._console.print(line, highlight=False, soft_wrap=True)
        self._progress.update(self._runs, advance=1, note=self._note())

    def wait(self, places: Sequence[str]) -> None:
        """All that is left is with other processes, at these places."""
        from thawline.ledger.leases import STALE_SECONDS

        runs = f"{len(places)} run{'s' if len(places) > 1 else ''}"
        said = (
            f"waiting for {runs} of {', '.join(dict.fromkeys(places))}, until done or silent for {STALE_SECONDS:.0f} s"
        )
        if not self._waiting and not self._live:
            self._console.print(escape(said), highlight=False, soft_wrap=True)
        self._waiting = True
        self._progress.update(self._runs, note=escape(said))

    def _stopping(self, asked: str) -> None:
        self._progress.update(self._runs, note=f"[yellow]{asked}[/]")

    def _saved(self) -> str:
        """What there is to go on from, for the message of an interruption."""
        done = self._over - self._failed
        said = f"{done} of {self._total} runs {'is' if done == 1 else 'are'} done"
        if self._began is None or self._plan is None:
            return said
        if (self._plan.folder / LAST_FILE).exists():
            return f"{said}, the next one is saved up to its last checkpoint"
        return f"{said}, the next one starts over"

    def _note(self) -> str:
        left = self._total - self._over
        parts = [f"{self._failed} failed"] if self._failed else []
        parts += [f"{self._skipped} were there"] if self._skipped else []
        if self._ran and left:
            parts.append(f"about {duration(left * self._seconds / self._ran)} left")
        return ", ".join(parts)


def result_in_words(record: Record) -> str:
    """The headline metric of a finished run: on test, or on validation where the run does not open test."""
    shown = [
        (split, record.metrics[split].get(record.headline)) for split in ("test", "val") if split in record.metrics
    ]
    told = [f"{split} {record.headline} {value:.3f}" for split, value in shown if value is not None][:1]
    return ", ".join([*told, *(["diverged"] if record.diverged else [])])


def duration(seconds: float) -> str:
    """A length of time in words, to its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
