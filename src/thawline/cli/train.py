"""``thawline train``: one run, or with ``-m`` a grid of runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from thawline.config_paths import conf_folder, shipped_root
from thawline.errors import UsageError
from thawline.runs.signals import listening

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from thawline.runs.ledger import RunFailed

_failed: list[RunFailed] = []
"""Hydra prints its own text for an error that leaves a job, so a failed run is kept here instead."""


def run(argv: list[str]) -> int:
    """Compose the configuration by Hydra and run it; see ``thawline train --help``."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from thawline.cli.sweeping import SweepIncomplete

    # Hydra would turn an error into a text and exit status 1; with this it passes the exception on.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ["THAWLINE_SHIPPED"] = str(shipped_root())
    main = hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)
    sys.argv = [sys.argv[0], *argv]
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        from thawline.cli.diagnosis import diagnose

        raise UsageError(diagnose(argv, error)) from error
    except SweepIncomplete:
        return 1
    if _failed:
        print(f"error: {_failed.pop()}", file=sys.stderr)
        return 1
    return 0


def job(config: DictConfig) -> str:
    """One run, in this process; Hydra calls this, here or wherever a launcher has sent the job."""
    with listening():
        return _job(config)


def _job(config: DictConfig) -> str:
    from hydra.core.hydra_config import HydraConfig

    from thawline.cli.console import console
    from thawline.cli.reporting import print_run
    from thawline.cli.sweeping import plain
    from thawline.records import read_record
    from thawline.runs.loggers import Mirrored, replay_for_agent
    from thawline.runs.plan import plan_run
    from thawline.sweeps.local import run_all
    from thawline.sweeps.remote import workbench

    bench = workbench()
    overrides = tuple(str(item) for item in HydraConfig.get().overrides.task)
    values: dict[str, Any] = plain(config)
    plan = plan_run(values, overrides, bench)
    group = plan.settings.sweep.name
    record = read_record(plan.folder)
    if record is not None:
        replay_for_agent(
            plan.settings.logger, record, Mirrored(plan.folder, plan.identity, plan.label, group, plan.config)
        )
    failures = run_all([plan], bench, group=group, console=console)
    if failures:
        _failed.append(failures[0].error)
    else:
        print_run(plan)
    return plan.identity
