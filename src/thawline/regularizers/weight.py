"""How much a regularizer counts: a number, a schedule over the phase, or a ratio to the main loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, final

from pydantic import Field, model_validator

from thawline.specs import Spec


@final
class Weight(Spec):
    """The factor on a regularizer's term. In a config it takes one of three forms.

    ``0.1``: constant.
    ``{schedule: linear, start: 0.0, end: 0.1}``: from `start` at the first step of each phase to `end` at its last one,
    along a line or half a cosine.
    ``{ratio_to_loss: 0.1}``: in every step the factor at which the weighted term is this share of the main loss,
    ``ratio_to_loss * loss / term``; no gradient flows through the factor. A term of 0 is then an error.
    """

    value: float | None = Field(default=None, ge=0.0)
    schedule: Literal["linear", "cosine"] | None = None
    start: float | None = Field(default=None, ge=0.0)
    end: float | None = Field(default=None, ge=0.0)
    ratio_to_loss: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_constant(cls, given: Any) -> Any:
        return given if isinstance(given, Mapping) else {"value": given}

    @model_validator(mode="after")
    def _one_form(self) -> Weight:
        forms = [self.value is not None, self.schedule is not None, self.ratio_to_loss is not None]
        if sum(forms) != 1:
            raise ValueError("give a number, or schedule with start and end, or ratio_to_loss")
        if (self.schedule is None) != (self.start is None) or (self.schedule is None) != (self.end is None):
            raise ValueError("schedule, start and end belong together")
        return self

    def at(self, step: int, steps: int) -> float:
        """The factor at optimizer step `step` (from 0) of the phase's `steps`; not for a ratio."""
        if self.value is not None:
            return self.value
        if self.start is None or self.end is None:
            raise ValueError("a ratio to the loss has no factor of its own")
        progress = min(1.0, step / max(1, steps - 1))
        if self.schedule == "cosine":
            progress = 0.5 - 0.5 * math.cos(math.pi * progress)
        return self.start + (self.end - self.start) * progress
