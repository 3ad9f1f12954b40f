"""The fit of one phase: its Lightning module, trainer, data, freeze contract and best epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping

from thawline.execution import distributed
from thawline.execution.checkpoint import AtEpochs
from thawline.execution.inputs import PhaseInputs
from thawline.freeze_policies import Phase
from thawline.network.model import TransferModel
from thawline.optimization.learning_rates import MeasuredRates
from thawline.optimization.optimizers import States
from thawline.own_code import own_code
from thawline.planning.devices import device_of
from thawline.planning.plan import Plan
from thawline.planning.settings import TrainerSettings
from thawline.runtime import signals
from thawline.specs import classes_in
from thawline.training.batches import Batches
from thawline.training.best_epoch import BestEpoch
from thawline.training.contract import FreezeContract
from thawline.training.cuda_graphs import FEWEST_PASSES, Forward, GraphedForward
from thawline.training.measured_rates import RenewedRates
from thawline.training.module import FitModule, Forwards, Objective
from thawline.training.penalties import Penalties
from thawline.training.sharding import FullySharded, copy_to_shard, put_whole, whole

OnEpoch = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Fit:
    """A phase that is about to be trained, or has been."""

    phase: Phase
    index: int
    first_epoch: int
    inputs: PhaseInputs
    module: FitModule
    contract: FreezeContract
    best: BestEpoch
    trainer: pl.Trainer
    batches: Batches
    penalties: Penalties

    def train(self) -> None:
        """Train the phase's epochs; a signal to stop waits for the end of one."""
        try:
            with signals.deferring():
                self.trainer.fit(self.module, datamodule=self.batches)
        finally:
            self.penalties.close()

    def settle(self, model: TransferModel) -> None:
        """Leave the best epoch's tensors in what was trained, and in `model` where that is another: the whole one."""
        self.best.restore()
        trained = self.module.model
        if trained is not model:
            state = trained.state_dict()
            put_whole({name: whole(state[name]) for name in sorted(self.module.updated)}, model)


def prepare_fit(
    plan: Plan,
    model: TransferModel,
    inputs: PhaseInputs,
    index: int,
    first_epoch: int,
    on_epoch: OnEpoch,
    at_epochs: AtEpochs,
    states: States | None = None,
    penalties: Penalties | None = None,
) -> Fit:
    """The fit of phase `index` of the plan; the model's trainable set is the phase's already.

    `at_epochs` writes the run's checkpoint; `states` is what the optimizer of the phase before remembered at the epoch
    that this one starts from; `penalties` are the phase's regularizers, which the fit takes off the model at its end.
    """
    penalties = Penalties() if penalties is None else penalties
    settings, phase = plan.settings, plan.phases[index]
    trained, forwards = model, inputs.forwards
    if settings.trainer.shards_weights:
        trained = copy_to_shard(model)
        forwards = Forwards(trained, trained)
    module = FitModule(
        trained,
        _graphed(plan, phase, forwards),
        plan.network,
        phase,
        index,
        first_epoch,
        _objective(plan),
        plan.transform.output_size,
        states if phase.optimizer_state == "keep" else None,
        penalties,
    )
    contract = FreezeContract(trained, whole=model)
    handed_on = index + 1 < len(plan.phases) and plan.phases[index + 1].optimizer_state == "keep"
    rule = None if plan.splits.val is None else settings.rule
    best = BestEpoch(trained, rule, keep_optimizer=handed_on)
    batches = Batches(
        inputs.parts,
        batch_size=settings.trainer.batch_size,
        eval_batch_size=settings.trainer.eval_batch_size,
        data_seed=settings.data_seed,
        workers=settings.trainer.workers,
        shard=distributed.shard(),
        first_epoch=first_epoch,
    )
    callbacks: list[Callback] = [at_epochs, contract, best, _EpochReport(on_epoch)]
    if settings.trainer.shards_weights:
        callbacks.append(_SameStatistics())
    if isinstance(settings.learning_rates, MeasuredRates):
        callbacks.append(RenewedRates(settings.learning_rates, batches))
    trainer = _trainer(plan, phase, callbacks)
    return Fit(phase, index, first_epoch, inputs, module, contract, best, trainer, batches, penalties)


def _graphed(plan: Plan, phase: Phase, forwards: Forwards) -> Forwards:
    """The passes of the fit, on a GPU as CUDA graphs where that pays."""
    settings, trainer = plan.settings, plan.settings.trainer
    if device_of(settings).type != "cuda":
        return forwards
    reason = ""
    if trainer.cuda_graphs is False:
        reason = "trainer.cuda_graphs=false"
    elif trainer.devices > 1:
        reason = "several devices share each step"
    elif trainer.cuda_graphs == "auto" and own_code(classes_in([settings.backbone, settings.adapter, settings.head])):
        reason = "own code may decide by what a graph does not record (trainer.cuda_graphs=true records it)"

    def of(forward: Forward, part: str, batch_size: int, *, trains: bool) -> GraphedForward:
        split = plan.splits.opened.get(part)
        passes = (phase.epochs or 0) * (0 if split is None else len(split.indices) // batch_size)
        few = f"only {passes} full batches" if trainer.cuda_graphs == "auto" and passes < FEWEST_PASSES else ""
        return GraphedForward(forward, trains=trains, reason=reason or few)

    return Forwards(
        of(forwards.train, "train", trainer.batch_size, trains=True),
        of(forwards.evaluate, "val", trainer.eval_batch_size, trains=False),
    )


class _SameStatistics(Callback):
    """Before an evaluation, gives every device the first one's running statistics: evaluated is what is kept."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The statistics of the last training step differ, as the devices' shares of it did; DDP does so by itself."""
        for buffer in cast("FitModule", pl_module).model.buffers():
            torch.distributed.broadcast(buffer, src=0)


class _EpochReport(Callback):
    """Tells the run's observer of every epoch."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self._on_epoch = on_epoch
        self._reported = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The previous epoch is whole now."""
        self._tell(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """So is the last one."""
        self._tell(pl_module)

    def _tell(self, pl_module: pl.LightningModule) -> None:
        history = cast("FitModule", pl_module).history
        for row in history[self._reported :]:
            self._on_epoch(row)
        self._reported = len(history)


def _objective(plan: Plan) -> Objective:
    settings = plan.settings
    return Objective(
        optimizer=settings.optimizer,
        scheduler=settings.scheduler,
        task=settings.task,
        outputs=plan.outputs,
        monitor=settings.rule.metric,
        seed=settings.seed,
        learning_rates=settings.learning_rates,
    )


def _trainer(plan: Plan, phase: Phase, callbacks: list[Callback]) -> pl.Trainer:
    settings, rule = plan.settings.trainer, plan.settings.rule
    patience = phase.patience or settings.early_stopping
    if patience is not None:
        stop = EarlyStopping(f"val/{rule.metric}", patience=patience, mode=rule.direction, check_finite=False)
        callbacks = [*callbacks, stop]
    return pl.Trainer(
        max_epochs=phase.epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=_strategy(settings),
        precision=settings.precision,
        gradient_clip_val=settings.gradient_clip,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if plan.splits.val is not None else 0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        default_root_dir=plan.folder,
    )


def _strategy(settings: TrainerSettings) -> str | FullySharded:
    if settings.shards_weights:
        return FullySharded(settings.devices)
    # A parameter that trains and that no output depends on (the freeze contract lists it) must not stop the others.
    return "ddp_find_unused_parameters_true" if settings.devices > 1 else "auto"
