"""The Lightning module of a fit, whatever the task: one instance per phase."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig

from thawline.freeze_policies import Phase
from thawline.network import Network
from thawline.network.model import TransferModel
from thawline.optimization.learning_rates import LearningRates, Uniform
from thawline.optimization.optimizers import Optimizer, States
from thawline.optimization.schedulers import Scheduler
from thawline.randomness import counter_seed, seed_generators
from thawline.tasks import Task
from thawline.training.batches import Batch
from thawline.training.cuda_graphs import Forward, GraphedForward
from thawline.training.evaluation import MetricBatches, Predictions
from thawline.training.penalties import AUXILIARY, Penalties
from thawline.training.sharding import FullySharded, shard_like, shard_weights

_MAX_BUFFERED_OUTPUTS = 2**20
"""Numbers of an evaluation's outputs that are kept until the metrics get them in one call: 4 MiB."""


@dataclass(frozen=True)
class Forwards:
    """How outputs are computed from a batch's inputs in training and in evaluation: the model, or the thawed side.

    `train` is also given ``targets=`` where the task's head takes them.
    """

    train: Forward
    evaluate: Forward


@dataclass(frozen=True)
class Objective:
    """What is minimised and how: everything of a fit that is not the model or the data.

    `outputs` are the names of the head's outputs; `monitor` is the validation metric that can stop the fit.
    """

    optimizer: Optimizer
    scheduler: Scheduler
    task: Task
    outputs: tuple[str, ...]
    monitor: str
    seed: int
    learning_rates: LearningRates = field(default_factory=Uniform)


class FitModule(pl.LightningModule):
    """Minimises the task's loss over one phase's trainable parameters.

    Args:
        model: the whole model; its trainable set is the phase's.
        forwards: how outputs come from inputs.
        network: the parameters by layer group, for the optimizer's groups.
        phase: the phase, and its index in the run.
        first_epoch: how many epochs of the run came before this phase.
        objective: task, optimizer and schedule.
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
        # Checkpoints hold what training updates; the rest comes from the source weights.
        self.strict_loading = False
        self.model = model
        self.input_size = input_size
        self._forwards, self._network, self._phase, self._phase_index = forwards, network, phase, phase_index
        self._objective, self._first_epoch, self._states = objective, first_epoch, states
        self._penalties = Penalties() if penalties is None else penalties
        self.auxiliary = self._penalties.auxiliary
        self._steps = 1
        self._train_sums = torch.zeros(0)
        self._task = objective.task
        self._metrics = self._task.metrics(objective.outputs)
        self._evaluation = MetricBatches(self._metrics, _MAX_BUFFERED_OUTPUTS)
        self._tested: list[Predictions] = []
        self.evaluated: dict[str, float] = {}
        self.updated: set[str] = model.changing_names()
        self.history: list[dict[str, Any]] = []
        self.measured: dict[str, Any] = {}
        self._validated: dict[str, float] = {}
        self._epoch_start = 0.0

    def configure_model(self) -> None:
        """Shard the weights over the devices where the strategy asks for it."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded):
            shard_weights(self.model, strategy.mesh)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what differs from the source: a frozen tensor is not written again in every epoch."""
        state = checkpoint["state_dict"]
        kept = {f"model.{name}" for name in self.updated}
        kept |= {f"auxiliary.{name}" for name in self.auxiliary.state_dict()}
        checkpoint["state_dict"] = {name: tensor for name, tensor in state.items() if name in kept}
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the interrupted fit's history."""
        self.history = list(checkpoint["history"])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch; no-op if it is on `device` already."""
        return batch if batch.rows.device == device else batch.to(device)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums."""
        self._check_graphs()
        self._epoch_start = time.perf_counter()
        columns = 2 + len(self._task.TRAINING_SCORES) + len(self._penalties.columns)
        self._train_sums = torch.zeros(columns, dtype=torch.float64, device=self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the step's randomness (dropout, drop path) a function of seed, phase, step and rank."""
        position = (self._objective.seed, self._phase_index, self.trainer.global_step, self.global_rank)
        seed_generators(counter_seed("step", *position), self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The mean loss of the batch and its penalties; the shares of several devices add up to the mean."""
        with self._penalties.watching():
            outputs = self._forwards.train(*batch.inputs, **self.head_targets(batch))
        loss = self.loss(outputs, batch)
        objective, penalties = self._penalties.objective(loss, batch, self.trainer.global_step, self._steps)
        with torch.no_grad():
            # Made on the device: for a number from the host, the host waits in every step.
            n = loss.new_full((), len(batch.rows), dtype=torch.float64)
            scores = [score.double() for score in self._task.training_scores(outputs, batch.targets)]
            self._train_sums += torch.cat([torch.stack([loss.detach().double() * n, *scores, n]), penalties * n])
        return objective * batch.share

    def head_targets(self, batch: Batch) -> dict[str, Any]:
        """What the head is given beside its features in training."""
        return {"targets": batch.targets} if self._task.HEAD_TAKES_TARGETS else {}

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The task's loss of a batch, a scalar: the sum of its terms' means.

        Where a term is a mean over something else than images, such as pixels, the devices' terms count by how many
        of those each has.
        """
        terms = list(self._task.losses(outputs, batch.targets).values())
        means = [term.mean for term in terms]
        if not self._task.COUNTS_IMAGES and self.trainer.world_size > 1:
            counts = torch.tensor([term.count for term in terms], dtype=torch.float64, device=means[0].device)
            total = self.trainer.strategy.reduce(counts.clone(), reduce_op="sum").clamp(min=1.0)
            shares = (self.trainer.world_size * counts / total / batch.share).tolist()
            means = [mean * share for mean, share in zip(means, shares, strict=True)]
        return means[0] if len(means) == 1 else torch.stack(means).sum()

    def on_train_epoch_end(self) -> None:
        """Add the epoch to the history, with its training loss and scores over all devices."""
        sums = self.trainer.strategy.reduce(self._train_sums, reduce_op="sum")
        names = self._task.TRAINING_SCORES
        loss, scores, n = float(sums[0]), sums[1 : 1 + len(names)].tolist(), float(sums[1 + len(names)])
        penalties = sums[2 + len(names) :].tolist()
        trained = {"train/loss": loss / n}
        trained |= {f"train/{name}": score / n for name, score in zip(names, scores, strict=True)}
        trained |= {name: total / n for name, total in zip(self._penalties.columns, penalties, strict=True)}
        self.history.append(
            {
                "phase": self._phase.name,
                "epoch": self._first_epoch + self.current_epoch,
                "lr": [g["lr"] for g in self.trainer.optimizers[0].param_groups if g["name"] != AUXILIARY][-1],
                **self.measured,
                **trained,
                **self._validated,
                "seconds": time.perf_counter() - self._epoch_start,
            }
        )

    def on_validation_epoch_start(self) -> None:
        """Recorded passes must be of the network as it is."""
        self._check_graphs()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Keep the validation metrics, and give Lightning the one that can stop the fit."""
        self._validated = {f"val/{name}": value for name, value in self._finish().items()}
        monitor = f"val/{self._objective.monitor}"
        self.log(monitor, self._validated[monitor])

    def on_test_epoch_start(self) -> None:
        """The network's tensors have those of the best epoch now."""
        self._check_graphs()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics and keep its predictions."""
        outputs = self._evaluate(batch)
        self._tested.append(Predictions.of(self._task, outputs, batch.targets, batch.rows))

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
            name: {key: shard_like(value, trainable[name]) for key, value in state.items()}
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
            may_fuse=self._may_fuse(),
        )
        auxiliary = [parameter for parameter in self.auxiliary.parameters() if parameter.requires_grad]
        if auxiliary:
            lr = objective.optimizer.lr * self._phase.lr_multiplier
            optimizer.add_param_group({"name": AUXILIARY, "part": AUXILIARY, "params": auxiliary, "lr": lr})
        self._steps = steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: objective.scheduler.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _may_fuse(self) -> bool:
        """Whether one kernel may take the optimizer's step.

        The scaler of 16-mixed leaves out a first step whose gradients overflow, as they often do; torch's fused SGD
        then goes on with a momentum that was never written. And in mixed precision Lightning clips no gradients of a
        fused optimizer, which could scale them itself.
        """
        clips = bool(self.trainer.gradient_clip_val)
        return self.trainer.precision != "16-mixed" and not (clips and self.trainer.precision == "bf16-mixed")

    def outputs(self, batch: Batch) -> Any:
        """The outputs of a batch, as in evaluation."""
        return self._forwards.evaluate(*batch.inputs)

    @property
    def cuda_graphs(self) -> dict[str, str]:
        """Which passes were recorded as CUDA graphs, or why not; empty without a GPU."""
        return {name: forward.report for name, forward in self._graphed().items()}

    def _check_graphs(self) -> None:
        for forward in self._graphed().values():
            forward.check()

    def _graphed(self) -> dict[str, GraphedForward]:
        passes = {"training": self._forwards.train, "evaluation": self._forwards.evaluate}
        return {name: forward for name, forward in passes.items() if isinstance(forward, GraphedForward)}

    def _evaluate(self, batch: Batch) -> Any:
        outputs = self.outputs(batch)
        self._evaluation.add(outputs, batch.targets)
        return outputs

    def _finish(self) -> dict[str, float]:
        self.evaluated = self._evaluation.compute()
        return self.evaluated
