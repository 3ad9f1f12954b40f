"""A training command: Hydra composes its configuration, what is missing is run, and what was made is returned."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from thawline.commands.outcome import FinishedRun, FinishedSweep, ended
from thawline.config_paths import conf_folder, options
from thawline.errors import Problem, UsageError, WriteError, usage_error
from thawline.runtime.signals import listening
from thawline.sweeps.cells import CellConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from thawline.sweeps.known import KnownPlan

_FREE = re.compile(r"^(protocol\.space|[a-z][\w.]*\.(arguments|layer_weights))(\.|$)")


def train(argv: Sequence[str]) -> FinishedRun | FinishedSweep | None:
    """Compose the configuration of a command line by Hydra and run it.

    Args:
        argv: overrides and Hydra's flags.

    Returns:
        What is done now; None where a flag such as ``--cfg`` only asked to be shown something.

    Raises:
        UsageError: the input cannot be used; nothing has been run.
        RunFailed: the run failed.
        SweepIncomplete: runs of the sweep are not done.
        WriteError: a file cannot be written.
        Interrupted: a signal asked this process to stop.
    """
    from thawline.commands.quoting import with_ranges

    try:
        return _train(argv)
    except UsageError as error:
        raise with_ranges(error, argv) from error


def _train(argv: Sequence[str]) -> FinishedRun | FinishedSweep | None:
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from thawline.commands.composing_once import composing_once
    from thawline.commands.diagnosis import diagnose, flags_first, is_override, one_line
    from thawline.commands.project import with_output_dir
    from thawline.commands.quoting import as_text

    # Hydra would turn an error into a text and exit status 1; with this it passes the exception on.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    main = hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)
    argv = [opened(as_text(argument)) if is_override(argument) else argument for argument in argv]
    arguments = flags_first(with_output_dir(argv))
    if _asks_for_stages(arguments) and not {"-m", "--multirun"} & set(arguments):
        arguments = ["-m", *arguments]
    sys.argv = ["thawline train", *arguments]
    ended.clear()
    try:
        with composing_once(multirun=bool({"-m", "--multirun"} & set(arguments))):
            main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra has no error of its own for a group whose option is a number.
        if not isinstance(error, (HydraException, OmegaConfBaseException)) and "Config group" not in str(error):
            raise
        raise UsageError(diagnose(arguments, error)) from error
    except yaml.YAMLError as error:
        raise usage_error("", one_line(str(error))) from error
    result = ended.pop() if ended else None
    if isinstance(result, Exception):
        raise result
    return result


def opened(argument: str) -> str:
    """An override of a mapping with free keys, such as ``backbone.arguments.pad_type=same``, as Hydra takes it.

    Hydra lets a known mapping be changed, not extended, unless the override says so (``++``). Which keys may be there
    is checked by who takes the mapping.
    """
    key = argument.partition("=")[0]
    return f"++{argument}" if _FREE.search(key) and "=" in argument else argument


def _asks_for_stages(arguments: Sequence[str]) -> bool:
    """Whether a protocol is chosen: its stages are sweeps."""
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("protocol=")]
    return bool(chosen) and chosen[-1] not in ("none", "null")


def refuse_without_protocol(overrides: Iterable[str]) -> None:
    """Refuse fields of a protocol where none is chosen.

    Raises:
        UsageError: with a problem for each.
    """
    keys = (override.partition("=")[0].lstrip("+") for override in overrides)
    choices = " or ".join(f"protocol={name}" for name in options("protocol") if name != "none")
    problems = [Problem(key, f"no protocol is chosen; add {choices}") for key in keys if key.startswith("protocol.")]
    if problems:
        raise UsageError(problems)


def job(config: DictConfig) -> str:
    """One run, in this process; Hydra calls this, here or wherever a launcher has sent the job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from thawline.ledger.runs import RunFailed

    try:
        # Relative paths are those of the command, also where hydra.job.chdir asks for a folder of its own.
        with listening(), contextlib.chdir(HydraConfig.get().runtime.cwd):
            return _job(config)
    except (UsageError, WriteError, RunFailed) as error:
        if HydraConfig.get().mode != RunMode.RUN:
            raise
        ended.append(error)
        return ""


def _job(config: DictConfig) -> str:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from thawline.commands.diagnosis import checked

    if HydraConfig.get().mode == RunMode.RUN and "_target_" in (config.protocol or ()):
        raise usage_error("protocol", "its stages are sweeps: add -m")
    from thawline.sweeps.remote import STAGE

    # As they were written: an interpolation stays one.
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    written = map(str, task if isinstance(task, list) else ())
    overrides = tuple(line for line in written if not line.startswith(STAGE))
    if "_target_" not in (config.protocol or ()):
        refuse_without_protocol(overrides)
    # A wrong field is found before torch is imported.
    values = checked(config, overrides)
    cell = CellConfig(overrides, " ".join(overrides), values)
    if HydraConfig.get().mode == RunMode.RUN and (known := _known(cell)) is not None:
        ended.append(FinishedRun(known))
        return known.identity
    from thawline.commands.console import console
    from thawline.runtime.steps import Bars, step

    with Bars(console, shown=config.trainer.progress):
        with step("loading libraries"):
            import_module("torch")
            from thawline.commands.data_notes import print_data
            from thawline.commands.precision_notes import print_precision
            from thawline.planning.devices import require_devices
            from thawline.planning.plan import plan_run
            from thawline.planning.reach import require_weights
            from thawline.records import read_record
            from thawline.sweeps.known import remember_plans
            from thawline.sweeps.line_needs import expect_sweep
            from thawline.sweeps.local import run_all
            from thawline.sweeps.remote import process_session
            from thawline.trackers.mirror import Mirrored
            from thawline.trackers.weights_and_biases import replay_for_agent
        session = process_session()
        with step("planning"):
            plan = plan_run(values, overrides, session)
            if HydraConfig.get().mode == RunMode.RUN:
                # Before the run: what it reads may have changed when it ends.
                remember_plans([cell], [plan], session)
    group = plan.settings.sweep.name
    record = read_record(plan.folder)
    if record is None:
        require_devices(plan.settings)
        if HydraConfig.get().mode == RunMode.RUN:
            require_weights(plan, session)
    else:
        replay_for_agent(
            plan.settings.logger, record, Mirrored(plan.folder, plan.identity, plan.label, group, plan.config)
        )
    print_data([plan])
    print_precision([plan], session)
    if group is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
        expect_sweep(plan.settings.output_dir / "sweeps" / group, session)
    failures = run_all([plan], session, group=group, console=console)
    if failures:
        raise failures[0].error
    if HydraConfig.get().mode == RunMode.RUN:
        ended.append(FinishedRun(plan))
    return plan.identity


def _known(cell: CellConfig) -> KnownPlan | None:
    """The run, where it is done and planned as it was; nothing of this imports torch."""
    from thawline.commands.data_notes import print_data
    from thawline.sweeps.known import known_plans
    from thawline.trackers.weights_and_biases import under_agent

    plans = None if under_agent() else known_plans([cell])
    if plans is None:
        return None
    print_data(plans)
    return plans[0]
