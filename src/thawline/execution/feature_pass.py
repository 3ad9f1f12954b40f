"""One pass over the images: on its way to the values at one thaw line it stores those at lines that it comes by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from thawline.execution.arithmetic import computing_dtype, mixed_precision
from thawline.planning.context import RunContext
from thawline.records import FeaturePass as FeaturePassRecord
from thawline.records import PassedLine
from thawline.store.store import Entry, EntrySpec, Store, StoreRefusedError
from thawline.store.writing import Draft
from thawline.thaw_line.cost import machine_rates, shares
from thawline.thaw_line.partition import ThawLine
from thawline.training.batches import Rows


@dataclass(frozen=True)
class Start:
    """What a pass begins with: the images (`place` is empty), or the stored values of a line."""

    read: Callable[[Rows], tuple[Tensor, ...]]
    bytes_per_sample: int
    flops_before: float = 0.0
    place: str = ""


@dataclass(frozen=True)
class Stage:
    """A line of a pass.

    Attributes:
        line: the line.
        spec: the entry of its values.
        onward: from the values of the stage before, or from the start, to those at this line.
    """

    line: ThawLine
    spec: EntrySpec
    onward: nn.Module


class FeaturePass:
    """Computes the values at the last line of some stages; within its block it stores those of the others, too.

    An entry of another line is written where it is not there, no other process writes it and the store takes it. It is
    published at the end of the block if all of its rows have been passed, otherwise nothing is left of it.

    Args:
        run: decides the device and the precision.
        store: where the values go.
        start: what the pass begins with.
        stages: the lines in their order; the last one's values are returned.
    """

    def __init__(self, run: RunContext, store: Store, start: Start, stages: Sequence[Stage]) -> None:
        self._run, self._store, self._start, self._stages = run, store, start, tuple(stages)
        self._drafts: dict[str, Draft] | None = None
        self._is_storing = False
        self._began = (0.0, 0.0)
        self.published: dict[str, Entry] = {}
        self.record: FeaturePassRecord | None = None

    def __enter__(self) -> Self:
        self._is_storing = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_storing = False
        if self._drafts is None:
            return
        for identity, draft in self._drafts.items():
            if kind is None and draft.is_whole:
                with contextlib.suppress(StoreRefusedError):
                    self.published[identity] = draft.publish()
            draft.discard()
        if kind is None:
            self.record = self._recorded()

    def __call__(self, rows: Rows) -> tuple[Tensor, ...]:
        """The values of these rows at the last line, as they are stored: on the CPU, in the types of its values."""
        if self._is_storing and self._drafts is None:
            # Not before the entry of the last line has its room, which goes first.
            self._began = (time.perf_counter(), time.process_time())
            drafts = {stage.spec.identity: self._store.draft(stage.spec) for stage in self._stages[:-1]}
            self._drafts = {identity: draft for identity, draft in drafts.items() if draft is not None}
        device = self._run.device
        values = tuple(value.to(device) for value in self._start.read(rows))
        for stage in self._stages:
            with torch.no_grad(), mixed_precision(self._run.settings):
                values = stage.onward(*values)
            if self._is_storing:
                self._store_passed(stage, rows, values)
        return _as_kept(self._stages[-1], values)

    def _store_passed(self, stage: Stage, rows: Rows, values: tuple[Tensor, ...]) -> None:
        drafts = self._drafts or {}
        draft = drafts.get(stage.spec.identity)
        if draft is None:
            return
        try:
            draft.append(rows, _as_kept(stage, values))
        except StoreRefusedError:
            # The run that needs these values will say why they are not stored.
            drafts.pop(stage.spec.identity).discard()

    def _recorded(self) -> FeaturePassRecord:
        stored = [stage for stage in self._stages[:-1] if stage.spec.identity in self.published] + [self._stages[-1]]
        passed, before = [], self._start.flops_before
        for stage in stored:
            passed.append((stage.line.prefix_flops_per_sample - before, stage.spec.bytes_per_sample))
            before = stage.line.prefix_flops_per_sample
        rates = machine_rates(self._run.device.type, computing_dtype(self._run.settings.trainer))
        parts = shares(passed, self._start.bytes_per_sample, rates)
        lines = [
            PassedLine(entry=stage.spec.identity, line=stage.line.reason, bytes=stage.spec.total_bytes, share=share)
            for stage, share in zip(stored, parts, strict=True)
        ]
        began, cpu_began = self._began
        return FeaturePassRecord(
            samples=self._stages[-1].spec.samples,
            start=self._start.place,
            lines=lines,
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu_began,
        )


def _as_kept(stage: Stage, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    kinds = (value.dtype for value in stage.line.values)
    return tuple(value.to(device="cpu", dtype=kind) for value, kind in zip(values, kinds, strict=True))
