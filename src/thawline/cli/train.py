"""``thawline train``: one run, or with ``-m`` a grid of runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from thawline.config_paths import conf_folder, shipped_root
from thawline.errors import Problem, UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(argv: list[str]) -> int:
    """Compose the configuration by Hydra and run it; see ``thawline train --help``."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from thawline.cli.sweeping import SweepIncomplete
    from thawline.runs.ledger import RunFailed

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
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def job(config: DictConfig) -> str:
    """One run, in this process; Hydra calls this, here or wherever a launcher has sent the job."""
    from hydra.core.hydra_config import HydraConfig

    from thawline.cli.console import console
    from thawline.cli.reporting import print_run
    from thawline.cli.sweeping import plain
    from thawline.runs.plan import plan_run
    from thawline.runs.workbench import Workbench
    from thawline.sweeps.local import run_all

    bench = Workbench()
    overrides = tuple(str(item) for item in HydraConfig.get().overrides.task)
    values: dict[str, Any] = plain(config)
    plan = plan_run(values, overrides, bench)
    group = plan.settings.sweep.name
    failures = run_all([plan], bench, group=group, console=console)
    if failures:
        raise failures[0].error
    print_run(plan)
    return plan.identity


def problems_of(error: Exception) -> list[Problem]:
    """The problems that an error stands for."""
    return list(error.problems) if isinstance(error, UsageError) else [Problem("", str(error))]
