"""The best epoch on validation, or the last one, whose tensors are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning.callbacks import Checkpoint

from thawline.network.model import TransferModel
from thawline.optimization.optimizers import states_of
from thawline.records.metrics import NEVER, SelectionRule
from thawline.training.sharding import put_whole, whole

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from thawline.training.module import FitModule


class BestEpoch(Checkpoint):
    """Keeps the tensors of the best epoch on validation; the earliest where several are equal by the whole rule.

    Args:
        model: the whole model.
        rule: how epochs are compared; None: there is no validation split, and the last epoch is kept.
        keep_optimizer: keep what the optimizer remembered at the best epoch too, for the phase that goes on with it.

    Attributes:
        tensors: the tensors of the model that training updates, at the best epoch.
        auxiliary: what regularizers train themselves, at the best epoch.
    """

    def __init__(self, model: TransferModel, rule: SelectionRule | None, *, keep_optimizer: bool = False) -> None:
        self._model, self._rule, self._rank = model, rule, NEVER
        self._keep_optimizer = keep_optimizer
        self.tensors: dict[str, torch.Tensor] = {}
        self.auxiliary: dict[str, torch.Tensor] = {}
        self.optimizer: dict[str, dict[str, Any]] = {}
        self.epoch = -1
        self.value = math.nan

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for a resume."""
        return {
            "tensors": self.tensors,
            "auxiliary": self.auxiliary,
            "optimizer": self.optimizer,
            "epoch": self.epoch,
            "value": self.value,
            "rank": list(self._rank),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best epoch of the interrupted fit."""
        self.tensors = state_dict["tensors"]
        self.auxiliary = state_dict["auxiliary"]
        self.optimizer = state_dict["optimizer"]
        self.epoch = state_dict["epoch"]
        self.value = state_dict["value"]
        first, second = state_dict["rank"]
        self._rank = (first, second)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the epoch, after the module has logged it."""
        module = cast("FitModule", pl_module)
        row = module.history[-1]
        if not (math.isfinite(row["train/loss"]) and math.isfinite(row.get("val/loss", 0.0))):
            # Weights that are not numbers stay so.
            trainer.should_stop = True
        if self.consider(row, trainer.current_epoch, module.updated):
            self.auxiliary = {name: t.detach().clone() for name, t in module.auxiliary.state_dict().items()}
            if self._keep_optimizer:
                states = states_of(trainer.optimizers[0], dict(self._model.named_parameters()))
                self.optimizer = {
                    name: {key: whole(value) for key, value in state.items()} for name, state in states.items()
                }

    def consider(self, row: Mapping[str, Any], epoch: int, updated: Iterable[str]) -> bool:
        """Keep the model's `updated` tensors if this row of the history is the best so far; says whether it is."""
        if self._rule is not None:
            rank = self._rule.rank(row, "val/")
            if not rank > self._rank:
                return False
            self._rank, self.value = rank, row[f"val/{self._rule.metric}"]
        state = self._model.state_dict()
        self.tensors = {name: whole(state[name]).detach().clone() for name in sorted(updated)}
        self.epoch = epoch
        return True

    def restore(self) -> None:
        """Put the best epoch's tensors into the model; the last ones stay where no epoch had a finite metric."""
        put_whole(self.tensors, self._model)
