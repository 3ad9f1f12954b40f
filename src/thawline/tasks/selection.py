"""Selection on validation: the best epoch's tensors are kept, and the fit's last state is written for a resume."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from pytorch_lightning.callbacks import Checkpoint

from thawline.files import atomic_write
from thawline.tasks.model import TransferModel

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from thawline.tasks.classification import Classification


class MonitoredMetric(Protocol):
    """Which validation metric decides (its name without ``val/``), and whether less or more is better."""

    @property
    def monitor(self) -> str:
        """The metric's name."""
        ...

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less or more is better."""
        ...


class Selection(Checkpoint):
    """Keeps the tensors of the epoch with the best validation metric; the earliest where several are equal.

    Args:
        model: the whole model.
        metrics: the validation metric that decides.
        last: where the fit's state is written at the end of an epoch, at most every `seconds`, for a resume.
        phase: the phase's index in the run, kept with the state.
    """

    def __init__(self, model: TransferModel, metrics: MonitoredMetric, last: Path, seconds: float, phase: int) -> None:
        self._model, self._monitor, self._mode = model, metrics.monitor, metrics.mode
        self._last, self._seconds, self._phase = last, seconds, phase
        self._written = time.monotonic()
        self.best: dict[str, torch.Tensor] = {}
        self.best_epoch = -1
        self.best_value = math.nan
        self.diverged = False

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for a resume."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "diverged": self.diverged,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best epoch of the interrupted fit."""
        self.best = state_dict["best"]
        self.best_epoch = state_dict["best_epoch"]
        self.best_value = state_dict["best_value"]
        self.diverged = state_dict["diverged"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what the run needs beside the fit: the phase that it was in."""
        checkpoint["phase"] = self._phase

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the epoch, after the module has logged it, and write the state when it is time."""
        module = cast("Classification", pl_module)
        row = module.history[-1]
        value = row.get(f"val/{self._monitor}", math.nan)
        if not math.isfinite(row["train/loss"]):
            self.diverged = True
            trainer.should_stop = True
        if self._better(value):
            state = self._model.state_dict()
            self.best = {name: state[name].detach().clone() for name in module.moved}
            self.best_epoch, self.best_value = trainer.current_epoch, value
        if time.monotonic() - self._written >= self._seconds:
            save_checkpoint(trainer, self._last)
            self._written = time.monotonic()

    def restore(self) -> None:
        """Put the best epoch's tensors into the model; the last ones stay where no epoch had a finite metric."""
        state = self._model.state_dict()
        with torch.no_grad():
            for name, tensor in self.best.items():
                state[name].copy_(tensor)

    def _better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if not math.isfinite(self.best_value):
            return True
        return value < self.best_value if self._mode == "min" else value > self.best_value


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write the fit's whole state to `path` in one step: a process that dies here leaves the previous file."""
    state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    if trainer.is_global_zero:
        with atomic_write(path) as stream:
            torch.save(state, stream)
    trainer.strategy.barrier()
