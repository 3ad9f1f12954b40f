"""Hydra finds plugins here and nowhere else; what they do is in ``thawline.sweeps``.

This module is imported by every Hydra program of the environment, so it imports nothing heavy. Hydra executes it
without an entry in ``sys.modules``, so its annotations must not be postponed.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ThawlineLauncher(Launcher):
    """What the launchers share: the settings of their yaml, and the job of the multirun.

    Attributes:
        runs_here: whether the jobs run on this machine, with its devices and its memory.
    """

    runs_here: ClassVar[bool] = False

    def __init__(self, **settings: Any) -> None:
        self._settings = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`."""
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, each given by its overrides, and return how they ended."""
        from thawline.commands.console import console
        from thawline.sweeps.remote import RemoteJob, job_returns

        job = RemoteJob.of(self._context, self._config, self._task_function, len(job_overrides))
        return job_returns(job_overrides, self._run(job, job_overrides, console))

    @abstractmethod
    def _run(self, job: Any, jobs: Sequence[Sequence[str]], console: Any) -> Sequence[Any]:
        """Run the jobs and return their outcomes in the same order."""


class ParallelLauncher(ThawlineLauncher):
    """``hydra/launcher=parallel``: side by side on this machine."""

    runs_here = True

    def _run(self, job: Any, jobs: Sequence[Sequence[str]], console: Any) -> Sequence[Any]:
        from thawline.sweeps.parallel import Places, run_side_by_side

        return run_side_by_side(job, jobs, Places(**self._settings), console)


class SlurmLauncher(ThawlineLauncher):
    """``hydra/launcher=slurm``: as tasks of a SLURM job array."""

    def _run(self, job: Any, jobs: Sequence[Sequence[str]], console: Any) -> Sequence[Any]:
        from thawline.sweeps.slurm import Cluster, run_on_slurm

        return run_on_slurm(job, jobs, Cluster(**self._settings), console)


class RayLauncher(ThawlineLauncher):
    """``hydra/launcher=ray``: as tasks of a Ray cluster."""

    def _run(self, job: Any, jobs: Sequence[Sequence[str]], console: Any) -> Sequence[Any]:
        from thawline.sweeps.ray_cluster import RayCluster, run_on_ray

        return run_on_ray(job, jobs, RayCluster(**self._settings), console)
