"""Linear probes that are solved rather than trained."""

from __future__ import annotations

import math
from typing import ClassVar, final

from pydantic import Field, model_validator

from thawline.specs import Spec


@final
class LBFGSPath(Spec):
    """A linear probe solved to its optimum by L-BFGS for each of many strengths of regularisation.

    For each inverse strength C, from strong to weak and each from the one before, sum CE + ‖W‖² / (2 C) is minimised
    over the head on the features; C is chosen on validation. The solutions are scikit-learn's LogisticRegression's at
    the same C; for two classes, where it has one weight vector instead of two rows, the penalty is ‖W‖² / C.
    """

    TASKS: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    c_min: float = Field(default=1e-6, gt=0.0)
    c_max: float = Field(default=1e5, gt=0.0)
    steps: int = Field(default=45, ge=1)
    max_iterations: int = Field(default=1000, ge=1)
    tolerance: float = Field(default=1e-6, gt=0.0)

    @model_validator(mode="after")
    def _increasing(self) -> LBFGSPath:
        if self.c_max < self.c_min:
            raise ValueError("c_max must not be below c_min")
        return self

    @property
    def strengths(self) -> tuple[float, ...]:
        """The values of C, spaced evenly in their logarithm."""
        low, high = math.log10(self.c_min), math.log10(self.c_max)
        return tuple(10 ** (low + (high - low) * index / max(1, self.steps - 1)) for index in range(self.steps))
