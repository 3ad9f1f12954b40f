"""Hydra finds plugins here and nowhere else; what they do is in ``thawline``.

This module is imported by every Hydra program of the environment, so it imports nothing heavy. Hydra executes it
without an entry in ``sys.modules``, so its annotations must not be postponed.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class ThawlineSweeperConf:
    """``hydra/sweeper=thawline``: `params` holds the grid of an experiment, key -> sweep expression."""

    _target_: str = "hydra_plugins.thawline_sweeper.sweeper.ThawlineSweeper"
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="thawline", node=ThawlineSweeperConf, provider="thawline")


class ThawlineSweeper(Sweeper):
    """Plans every cell before the first one starts, runs what is missing by the chosen launcher, and reports."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid of `arguments` laid over the experiment's own."""
        from thawline.commands.sweeping import sweep

        grid = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        return sweep(self.hydra_context, self.task_function, self.config, grid)
