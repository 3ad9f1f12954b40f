"""Learning-rate schedules as pure functions of the step: a factor on every group's learning rate."""

from __future__ import annotations

import math
from typing import Protocol, final, runtime_checkable

from pydantic import Field, model_validator

from thawline.specs import Spec


@runtime_checkable
class Scheduler(Protocol):
    """A learning-rate schedule over one phase."""

    def factor(self, step: int, steps: int) -> float:
        """The factor on the learning rate at optimizer step `step` (from 0) of `steps`."""
        ...


class _WithWarmup(Spec):
    """Linear warm-up over the first `warmup` of the phase's steps."""

    warmup: float = Field(default=0.0, ge=0.0, lt=1.0)

    def _warm(self, step: int, steps: int) -> float:
        warm_steps = round(self.warmup * steps)
        return (step + 1) / (warm_steps + 1) if step < warm_steps else 1.0

    def _progress(self, step: int, steps: int) -> float:
        """How much of the phase after the warm-up is done, 0..1."""
        warm_steps = round(self.warmup * steps)
        return min(1.0, max(0.0, (step - warm_steps) / max(1, steps - warm_steps)))


@final
class Constant(_WithWarmup):
    """The same learning rate after the warm-up."""

    def factor(self, step: int, steps: int) -> float:
        """See `Scheduler.factor`."""
        return self._warm(step, steps)


@final
class Cosine(_WithWarmup):
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017, "SGDR", without restarts)."""

    final: float = Field(default=0.0, ge=0.0, le=1.0)

    def factor(self, step: int, steps: int) -> float:
        """See `Scheduler.factor`."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * self._progress(step, steps)))
        return self._warm(step, steps) * (self.final + (1.0 - self.final) * cosine)


@final
class Step(_WithWarmup):
    """The learning rate is multiplied by `gamma` at each milestone, a fraction of the phase's steps."""

    milestones: tuple[float, ...] = (0.6, 0.8)
    gamma: float = Field(default=0.1, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Step:
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError("milestones are increasing fractions of the phase, between 0 and 1")
        return self

    def factor(self, step: int, steps: int) -> float:
        """See `Scheduler.factor`."""
        passed = sum(step >= round(milestone * steps) for milestone in self.milestones)
        return float(self._warm(step, steps) * self.gamma**passed)
