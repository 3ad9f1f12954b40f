"""Where a run's curves are shown. Records are the truth; a logger mirrors them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, final, runtime_checkable

from thawline.specs import Spec

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger, WandbLogger


@runtime_checkable
class LoggerSpec(Protocol):
    """Opens a Lightning logger for one run, and closes it."""

    def open(self, folder: Path, identity: str, group: str | None, config: Mapping[str, Any]) -> Logger:
        """The logger of the run `identity` whose files go into `folder`."""
        ...

    def close(self, logger: Logger, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Finish it, with the run's final numbers."""
        ...


@final
class WandB(Spec):
    """Weights & Biases: one run per job, with the job's id, grouped by sweep; ``offline`` by default.

    Online, an unreachable server is given up after `init_timeout_seconds`, and the run goes on offline.
    """

    project: str = "thawline"
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"
    tags: tuple[str, ...] = ()
    init_timeout_seconds: int = 20

    def open(self, folder: Path, identity: str, group: str | None, config: Mapping[str, Any]) -> Logger:
        """A WandbLogger on a fresh W&B run."""
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        if wandb.run is not None:
            wandb.finish()
        keywords: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "group": group,
            "id": identity,
            "name": identity[:8],
            "dir": str(folder),
            "config": dict(config),
            "tags": list(self.tags),
            "resume": "allow",
            "reinit": "finish_previous",
        }
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(silent=True, console="off", init_timeout=self.init_timeout_seconds)
        try:
            run = wandb.init(mode=self.mode, settings=quiet, **keywords)
        except (wandb.Error, OSError):
            run = wandb.init(mode="offline", settings=quiet, **keywords)
        return WandbLogger(experiment=run)

    def close(self, logger: Logger, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Write the summary and end the W&B run, with exit code 1 where the job failed."""
        run: Any = cast("WandbLogger", logger).experiment
        for key, value in summary.items():
            run.summary[key] = value
        run.finish(exit_code=1 if failed else 0)


@final
class CSV(Spec):
    """Curves as ``curves/metrics.csv`` in the run's folder."""

    def open(self, folder: Path, identity: str, group: str | None, config: Mapping[str, Any]) -> Logger:
        """A CSVLogger in the run's folder."""
        from pytorch_lightning.loggers import CSVLogger

        return CSVLogger(folder, name="curves", version="")

    def close(self, logger: Logger, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Flush the file."""
        logger.finalize("failed" if failed else "success")


@final
class TensorBoard(Spec):
    """TensorBoard event files in the run's folder (needs the extra ``tensorboard``)."""

    def open(self, folder: Path, identity: str, group: str | None, config: Mapping[str, Any]) -> Logger:
        """A TensorBoardLogger in the run's folder."""
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="tensorboard", version="")

    def close(self, logger: Logger, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Write the final numbers as hyperparameter metrics and close the files."""
        numbers = {key: value for key, value in summary.items() if isinstance(value, float)}
        logger.log_metrics({f"final/{key}": value for key, value in numbers.items()})
        logger.finalize("failed" if failed else "success")
