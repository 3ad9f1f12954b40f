"""What a run is carried out with: its plan, and the session that it shares with other runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from thawline.planning.devices import device_of
from thawline.planning.plan import Plan
from thawline.planning.session import Session
from thawline.planning.settings import RunSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunContext:
    """A run on its way to a record.

    Attributes:
        plan: the run.
        session: what the runs of this process share.
    """

    plan: Plan
    session: Session

    @property
    def settings(self) -> RunSettings:
        """The plan's settings."""
        return self.plan.settings

    @property
    def device(self) -> torch.device:
        """Where the run computes; of several devices, this process's."""
        return device_of(self.plan.settings)

    def with_plan(self, plan: Plan) -> RunContext:
        """Another run in the same session."""
        return replace(self, plan=plan)
