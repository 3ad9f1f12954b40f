"""A schedule that stops its own process at chosen places: ``tests.stopping.StopAt``, and what to compare afterwards."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import torch

from thawline.records import load_record
from thawline.specs import Spec

STOP_AT = "THAWLINE_TEST_STOP_AT"
"""``KILL:7`` sends SIGKILL after the seventh optimizer step of the process, ``RAISE:7`` raises an error, ``SAVE:2``
kills half-way through the second checkpoint. Several are separated by commas."""
STOP_ONCE = "THAWLINE_TEST_STOP_ONCE"
"""A file that does not exist yet: of all processes that come to a place to stop, only that stops which creates it."""
STOPPING = (
    "--allow",
    "tests",
    "++scheduler={_target_: tests.stopping.StopAt}",
    "~scheduler.warmup",
    "~scheduler.final",
)
"""Overrides that put `StopAt` in the place of the schedule."""
# `reason` and `decision` say how long storing would take and for how many runs of the process, `passes` who stored.
_VARYING = (
    "seconds",
    "cost",
    "provenance",
    "overrides",
    "config",
    "seal",
    "reason",
    "decision",
    "passes",
    "cuda_graphs",
)


class StopAt(Spec):
    """A learning rate that falls with the step, so that a step done twice or left out changes the weights."""

    done: ClassVar[int] = 0
    asked: ClassVar[int] = 0

    def factor(self, step: int, steps: int) -> float:
        """See `thawline.optimization.schedulers.Scheduler`."""
        # Every parameter group asks; and all ask for step 0, before the first step.
        new = step not in (0, StopAt.asked)
        StopAt.done, StopAt.asked = StopAt.done + new, step
        if new:
            for how, number in _orders():
                if number == StopAt.done:
                    _stop(how)
        return 1.0 - 0.9 * step / steps


def numbers(folder: Path) -> dict[str, Any]:
    """All that a run's record says, hashes of its files included, but how long it took and where it ran."""
    return _without_varying(load_record(folder).model_dump())


def _orders() -> list[tuple[str, int]]:
    orders = [order.partition(":") for order in os.environ.get(STOP_AT, "").split(",") if order]
    return [(how, int(number)) for how, _, number in orders]


def _stop(how: str) -> None:
    if STOP_ONCE in os.environ:
        try:
            Path(os.environ[STOP_ONCE]).touch(exist_ok=False)
        except FileExistsError:
            return
    if how == "RAISE":
        raise RuntimeError("told to fail")
    if how != "SAVE":
        os.kill(os.getpid(), signal.Signals[f"SIG{how}"])


def _without_varying(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_varying(item) for key, item in value.items() if key not in _VARYING}
    return [_without_varying(item) for item in value] if isinstance(value, list) else value


def _die_in_save(number: int) -> None:
    save, saved = torch.save, 0

    def half(values: Any, stream: Any) -> None:
        nonlocal saved
        saved += 1
        if saved < number:
            save(values, stream)
            return
        whole = io.BytesIO()
        save(values, whole)
        stream.write(whole.getvalue()[: whole.tell() // 2])
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half


for _how, _number in _orders():
    if _how == "SAVE":
        _die_in_save(_number)
