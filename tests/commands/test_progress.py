"""What the terminal shows of the steps of a command, and of one that is interrupted."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import TINY
from tests.stopping import STOP_AT, STOPPING
from thawline.commands import console as terminal
from thawline.runtime import steps
from thawline.runtime.steps import Bars
from thawline.sweeps.progress import SweepProgress

SHOWN = tuple(override for override in TINY if override != "trainer.progress=false")


@pytest.fixture
def begun(monkeypatch) -> list[tuple[str, int | None, int]]:
    """The steps that were shown, in order: what, of how many parts, and how many of them were done at the end."""
    seen: list[tuple[str, int | None, int]] = []
    begin, end = Bars.begin, Bars.end
    totals: dict[Any, int | None] = {}

    def note_begin(self, what, total):
        task = begin(self, what, total)
        totals[id(self), task] = total
        return task

    def note_end(self, task, what, seconds):
        done = next(item.completed for item in self.progress.tasks if item.id == task)
        seen.append((what, totals[id(self), task], int(done)))
        end(self, task, what, seconds)

    monkeypatch.setattr(Bars, "begin", note_begin)
    monkeypatch.setattr(Bars, "end", note_end)
    return seen


def test_every_long_step_says_what_it_does_and_how_far_it_is(thawline, begun):
    result = thawline("train", *SHOWN, "source=digits_low", "cache.mode=on", "source.trainer.max_epochs=3")
    assert result.status == 0, result.err
    whats = [what for what, _, _ in begun]
    for expected in ("loading libraries", "planning", "tracing the network", "loading weights", "testing"):
        assert expected in whats
    by_name = {what: (total, done) for what, total, done in begun}
    assert by_name["source model: epochs"] == (3, 3)
    decoded = [(total, done) for what, total, done in begun if what.startswith("storing decoded images")]
    features = [(total, done) for what, total, done in begun if what.startswith("storing thaw line before")]
    assert decoded and features
    assert all(total == done > 0 for total, done in [*decoded, *features])


def test_without_a_terminal_a_long_step_is_a_line_and_a_short_one_none(thawline, monkeypatch):
    monkeypatch.setattr(steps, "TOLD_SECONDS", 0.0)
    assert "planning: " in thawline("train", *SHOWN, "trainer.max_epochs=1").out
    monkeypatch.setattr(steps, "TOLD_SECONDS", 1e9)
    assert "planning" not in thawline("train", *SHOWN, "trainer.max_epochs=1", "seed=1").out


@pytest.mark.slow
def test_an_interruption_is_one_line_that_says_what_is_saved(zygote, tmp_path):
    fit = ("trainer.checkpoint_seconds=0", "trainer.max_epochs=4", "dataset.classes=[1,4,7]", "dataset.n_per_class=13")
    stopped = zygote.run(
        "train", "-m", *TINY, *STOPPING, *fit, "seed=0,1,2", "sweep.report=false",
        folder=tmp_path, environment={STOP_AT: "INT:20"},
    )  # fmt: skip
    assert stopped.wait() == 130
    assert stopped.err.splitlines() == [
        "SIGINT: saving at the end of this epoch, then stopping; a second one stops at once",
        (
            "interrupted by SIGINT: 1 of 3 runs is done, the next one is saved up to its last checkpoint; "
            "the same command goes on from here"
        ),
    ]


def test_on_a_terminal_the_progress_says_that_it_stops(thawline, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    monkeypatch.setattr(terminal, "console", console)
    told = SweepProgress.epoch

    def interrupt(progress: SweepProgress, row: dict[str, Any]) -> None:
        told(progress, row)
        os.kill(os.getpid(), signal.SIGINT)
        progress._progress.refresh()

    monkeypatch.setattr(SweepProgress, "epoch", interrupt)
    result = thawline("train", *SHOWN, "trainer.max_epochs=4", "trainer.checkpoint_seconds=0")
    assert result.status == 130
    assert "SIGINT: saving at the end of this epoch, then stopping; a second one stops at once" in screen.getvalue()
    (line,) = result.err.splitlines()
    assert line.startswith("interrupted by SIGINT: 0 of 1 runs are done, the next one ")
    assert list(Path("outputs/runs").iterdir())
