"""Image classification as a Lightning module: one instance per phase and fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import functional as F

from thawline.freeze_policies import Phase
from thawline.network import Network
from thawline.network.model import TransferModel
from thawline.optimization.learning_rates import LearningRates, Uniform
from thawline.optimization.optimizers import Optimizer, States
from thawline.optimization.schedulers import Scheduler
from thawline.randomness import counter_seed, seed_generators
from thawline.tasks.classification.metrics import classification_metrics
from thawline.training.batches import Batch
from thawline.training.penalties import COMPANIONS, Penalties
from thawline.training.sharding import FullySharded, share_like, share_out

Forward = Callable[..., torch.Tensor]
_MOST_UNCOUNTED = 2**20
"""Logits of an evaluation that wait for the metrics: 4 MiB."""


@dataclass(frozen=True)
class Forwards:
    """How outputs are computed from a batch's inputs in training and in evaluation: the model, or the thawed side."""

    train: Forward
    evaluate: Forward


@dataclass(frozen=True)
class Objective:
    """What is minimised and how: everything of a classification fit that is not the model or the data."""

    optimizer: Optimizer
    scheduler: Scheduler
    classes: int
    top_k: int
    monitor: str
    seed: int
    label_smoothing: float = 0.0
    learning_rates: LearningRates = field(default_factory=Uniform)


@dataclass(frozen=True)
class Predictions:
    """What the model said of each sample: rows (N,), labels (N,) and probabilities (N, C), on the CPU."""

    rows: torch.Tensor
    labels: torch.Tensor
    probabilities: torch.Tensor

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several batches or processes, in the order of the samples' rows."""
        rows = torch.cat([part.rows for part in parts])
        order = rows.argsort(stable=True)
        labels = torch.cat([part.labels for part in parts])[order]
        return cls(rows[order], labels, torch.cat([part.probabilities for part in parts])[order])

    @property
    def predicted(self) -> torch.Tensor:
        """The most probable class of each sample, (N,)."""
        return self.probabilities.argmax(dim=1)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """``index`` (N,), ``label`` (N,) and ``probabilities`` (N, C) for a file."""
        return {
            "index": self.rows.numpy(),
            "label": self.labels.numpy(),
            "probabilities": self.probabilities.numpy(),
        }


class Classification(pl.LightningModule):
    """Cross-entropy over one phase's trainable parameters.

    Args:
        model: the whole model; its trainable set is the phase's.
        forwards: how outputs come from inputs.
        network: the parameters by layer group, for the optimizer's groups.
        phase: the phase, and its index in the run.
        first_epoch: how many epochs of the run came before this phase.
        objective: optimizer, schedule, loss and metrics.
        input_size: (H, W) of the images.
        states: what the optimizer of the phase before remembered, for the parameters that go on with it.
        penalties: the regularizers of the phase.
    """

    def __init__(
        self,
        model: TransferModel,
        forwards: Forwards,
        network: Network,
        phase: Phase,
        phase_index: int,
        first_epoch: int,
        objective: Objective,
        input_size: tuple[int, int],
        states: States | None = None,
        penalties: Penalties | None = None,
    ) -> None:
        super().__init__()
        # Checkpoints hold what training moves; the rest comes from the source weights.
        self.strict_loading = False
        self.model = model
        self.input_size = input_size
        self._forwards, self._network, self._phase, self._phase_index = forwards, network, phase, phase_index
        self._objective, self._first_epoch, self._states = objective, first_epoch, states
        self._penalties = Penalties() if penalties is None else penalties
        self.companions = self._penalties.companions
        self._steps = 1
        self._train_sums = torch.zeros(0)
        self._metrics = classification_metrics(objective.classes, objective.top_k)
        self._uncounted: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._tested: list[Predictions] = []
        self.evaluated: dict[str, float] = {}
        self.moved: set[str] = model.changing_names()
        self.history: list[dict[str, Any]] = []
        self.measured: dict[str, Any] = {}
        self._validated: dict[str, float] = {}
        self._epoch_start = 0.0

    def configure_model(self) -> None:
        """Share the weights out among the devices, where the strategy is to."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded):
            share_out(self.model, strategy.mesh)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what differs from the source: a frozen tensor is not written again in every epoch."""
        state = checkpoint["state_dict"]
        kept = {f"model.{name}" for name in self.moved}
        kept |= {f"companions.{name}" for name in self.companions.state_dict()}
        checkpoint["state_dict"] = {name: tensor for name, tensor in state.items() if name in kept}
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the interrupted fit's history."""
        self.history = list(checkpoint["history"])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch; what is there already need not be looked through, tensor by tensor."""
        if batch.labels.device == device:
            return batch
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums."""
        self._epoch_start = time.perf_counter()
        self._train_sums = torch.zeros(3 + len(self._penalties.columns), dtype=torch.float64, device=self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the step's randomness (dropout, drop path) a function of seed, phase, step and rank."""
        place = (self._objective.seed, self._phase_index, self.trainer.global_step, self.global_rank)
        seed_generators(counter_seed("step", *place), self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy of the batch and its penalties; the shares of several devices add up to the mean."""
        with self._penalties.watching():
            logits = self._forwards.train(*batch.inputs)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self._objective.label_smoothing)
        objective, penalties = self._penalties.objective(loss, batch, self.trainer.global_step, self._steps)
        with torch.no_grad():
            correct = (logits.argmax(dim=1) == batch.labels).sum().double()
            n = correct.new_tensor(len(batch.labels))
            self._train_sums += torch.cat([torch.stack([loss.detach().double() * n, correct, n]), penalties * n])
        return objective * batch.share

    def on_train_epoch_end(self) -> None:
        """Add the epoch to the history, with its training loss and accuracy over all devices."""
        sums = self.trainer.strategy.reduce(self._train_sums, reduce_op="sum")
        loss, correct, n, *penalties = sums.tolist()
        trained = {"train/loss": loss / n, "train/top1": correct / n}
        trained |= {name: total / n for name, total in zip(self._penalties.columns, penalties, strict=True)}
        self.history.append(
            {
                "phase": self._phase.name,
                "epoch": self._first_epoch + self.current_epoch,
                "lr": [g["lr"] for g in self.trainer.optimizers[0].param_groups if g["name"] != COMPANIONS][-1],
                **self.measured,
                **trained,
                **self._validated,
                "seconds": time.perf_counter() - self._epoch_start,
            }
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Keep the validation metrics, and give Lightning the one that can stop the fit."""
        self._validated = {f"val/{name}": value for name, value in self._finish().items()}
        monitor = f"val/{self._objective.monitor}"
        self.log(monitor, self._validated[monitor])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics and keep its predictions."""
        logits = self._evaluate(batch)
        probabilities = logits.float().softmax(dim=1)
        self._tested.append(Predictions(batch.rows.cpu(), batch.labels.cpu(), probabilities.cpu()))

    @property
    def predictions(self) -> Predictions:
        """The predictions of the last test, of this process's share."""
        return Predictions.joined(self._tested)

    def on_test_epoch_end(self) -> None:
        """Keep the metrics under `evaluated`."""
        self._finish()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer over the phase's trainable parameters, and the schedule per step."""
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        objective = self._objective
        states = {
            name: {key: share_like(value, trainable[name]) for key, value in state.items()}
            for name, state in (self._states or {}).items()
            if name in trainable
        }
        optimizer = objective.optimizer.build(
            trainable,
            self._network,
            lr_multiplier=self._phase.lr_multiplier,
            by_depth=objective.learning_rates.by_depth(len(self._network.groups)),
            head=objective.learning_rates.head,
            states=states,
        )
        companions = [parameter for parameter in self.companions.parameters() if parameter.requires_grad]
        if companions:
            lr = objective.optimizer.lr * self._phase.lr_multiplier
            optimizer.add_param_group({"name": COMPANIONS, "place": COMPANIONS, "params": companions, "lr": lr})
        self._steps = steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: objective.scheduler.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def outputs(self, batch: Batch) -> torch.Tensor:
        """The logits (B, classes) of a batch, as in evaluation."""
        return self._forwards.evaluate(*batch.inputs)

    def _evaluate(self, batch: Batch) -> torch.Tensor:
        logits = self.outputs(batch)
        self._uncounted.append((logits.float(), batch.labels))
        if sum(len(labels) for _, labels in self._uncounted) * self._objective.classes >= _MOST_UNCOUNTED:
            self._count()
        return logits

    def _count(self) -> None:
        """Give the metrics what waits for them: a call costs as much as a small network's batch."""
        if self._uncounted:
            logits, labels = zip(*self._uncounted, strict=True)
            self._metrics.update(torch.cat(logits), torch.cat(labels))
            self._uncounted.clear()

    def _finish(self) -> dict[str, float]:
        self._count()
        self.evaluated = {name: float(value) for name, value in self._metrics.compute().items()}
        self._metrics.reset()
        return self.evaluated
