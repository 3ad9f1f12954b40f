"""A multirun: the grid's cells are composed and planned, run where the launcher says, and reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thawline.commands.composing import Composer, Grid, Point
from thawline.commands.diagnosis import checked
from thawline.commands.launching import Launching
from thawline.commands.outcome import ended
from thawline.commands.training import refuse_without_protocol
from thawline.sweeps.cells import CellConfig, for_each

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


def sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Run a grid: what has a valid record is skipped, the rest goes to the launcher; then report.

    Raises:
        UsageError: a cell cannot be used; nothing has been written.
        SweepIncomplete: a cell is not done at the end.
    """
    launching = Launching(context, task, config)
    composer = Composer(context, config)
    if "_target_" in (config.protocol or ()):
        from thawline.commands.staging import run_protocol

        ended.append(run_protocol(launching, composer, arguments))
        return
    refuse_without_protocol(arguments)
    grid = Grid(composer, arguments)

    def check(point: Point) -> CellConfig:
        return CellConfig(point.overrides, point.label, checked(point.config, point.overrides))

    # No cell has a wrong field: found before torch is imported.
    cells = for_each(((point.label, point) for point in grid), len(grid), check)
    known = launching.known(cells, grid.axes)
    if known is not None:
        ended.append(known)
        return
    session = launching.new_session(len(cells))
    ended.append(launching.run(launching.plan(cells, grid.axes, session), session))
