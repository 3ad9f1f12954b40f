"""A multirun: the grid's cells are composed and planned, run where the launcher says, and reported."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf, open_dict

from thawline.errors import usage_error

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from thawline.sweeps.sweep import Cell, Sweep

log = logging.getLogger("thawline")
_LOCAL = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class SweepIncomplete(Exception):  # noqa: N818 - a state, not a fault of the program
    """Some cells of the sweep are not done; the process ends with exit status 1."""


def sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Run a grid: what has a valid record is skipped, the rest goes to the launcher; then report.

    Raises:
        UsageError: a cell cannot be used; nothing has been written.
        SweepIncomplete: a cell is not done at the end.
    """
    from thawline.cli.console import console
    from thawline.cli.reporting import report_sweep
    from thawline.runs import provenance
    from thawline.runs.workbench import Workbench
    from thawline.sweeps.sweep import plan_sweep

    axes, grid = expand(context, arguments)
    cells = [_cell(context, config, overrides, axes) for overrides in grid]
    choices = config.hydra.runtime.choices
    bench = Workbench()
    label = f"{choices['dataset']}-{choices['backbone']}".replace("/", "-")
    planned = plan_sweep(cells, axes, label, provenance.command(), bench)
    console.print(f"sweep [bold]{planned.name}[/]: {len(planned.plans)} runs", highlight=False)
    if config.hydra.launcher._target_ == _LOCAL:
        from thawline.sweeps.local import run_all

        run_all(planned.plans, bench, group=planned.name, console=console, fail_fast=bool(config.sweep.fail_fast))
    else:
        _launch(context, task, config, planned)
    unfinished = report_sweep(planned)
    if unfinished:
        raise SweepIncomplete(f"{unfinished} of {len(planned.plans)} runs are not done")


def expand(context: HydraContext, arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[tuple[str, ...]]]:
    """The swept keys with their values, and the overrides of every cell (the full product, last key fastest)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=context.config_loader)
    values: dict[str, list[str]] = {}
    swept: set[str] = set()
    for override in parser.parse_overrides(list(arguments)):
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise usage_error(key, "an interval cannot be swept as a grid; name the values or use range()")
            values[key] = list(override.sweep_string_iterator())
            swept.add(key)
        else:
            values[key] = [override.get_value_element_as_str()]
            swept.discard(key)
    axes = {key: values[key] for key in values if key in swept}
    grid = [
        tuple(f"{key}={value}" if not key.startswith("~") else key for key, value in zip(values, chosen, strict=True))
        for chosen in itertools.product(*values.values())
    ]
    return axes, grid


def _cell(context: HydraContext, config: DictConfig, overrides: Sequence[str], axes: Mapping[str, Any]) -> Cell:
    from thawline.sweeps.sweep import Cell

    composed = context.config_loader.load_sweep_config(config, list(overrides))
    swept = [override for override in overrides if override.partition("=")[0] in axes]
    return Cell(tuple(overrides), " ".join(swept or overrides), plain(composed))


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration without Hydra's own node, as plain containers."""
    copied = config.copy()
    with open_dict(copied):
        copied.pop("hydra", None)
    values = OmegaConf.to_container(copied, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _launch(context: HydraContext, task: TaskFunction, config: DictConfig, planned: Sweep) -> None:
    """Hand the cells that are not done to a Hydra launcher; what became of them is read from their records."""
    from hydra.core.plugins import Plugins

    from thawline.records import read_record

    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    pending = [
        [*plan.overrides, f"sweep.name={planned.name}"] for plan in planned.plans if read_record(plan.folder) is None
    ]
    if pending:
        launcher.launch(pending, initial_job_idx=0)
