"""One run: source model -> judge it -> phases -> select on validation -> test once -> record."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping

from thawline.freeze_policies import Phase
from thawline.metrics import confusion_matrix
from thawline.records import Record, write_record
from thawline.records import Selection as SelectionRecord
from thawline.runs import distributed, judging
from thawline.runs.inputs import PhaseInputs, phase_inputs
from thawline.runs.ledger import run_once
from thawline.runs.outcome import Outcome, make_record, phase_record, write_files
from thawline.runs.plan import Plan
from thawline.runs.weights import source_backbone, with_head
from thawline.runs.workbench import Workbench
from thawline.tasks.classification import Classification, Objective, Predictions
from thawline.tasks.contract import FreezeContract
from thawline.tasks.data import Batches
from thawline.tasks.selection import Selection

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


LAST_FILE = "last.ckpt"
OnEpoch = Callable[[Mapping[str, Any]], None]


def execute(plan: Plan, bench: Workbench, *, group: str | None, on_epoch: OnEpoch) -> Record:
    """Run `plan` from start to record, in its folder.

    Args:
        plan: the run.
        bench: what the runs of this process share.
        group: the sweep that the run belongs to, for loggers.
        on_epoch: told each epoch's row of the history.
    """
    _settle_libraries(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    source_record = None
    if plan.source is not None:
        source_record = run_once(plan.source, lambda source: execute(source, bench, group=group, on_epoch=on_epoch))
    if distributed.wanted(plan):
        return distributed.execute_on_all(plan, group)
    spec = plan.settings.logger if distributed.is_first() else None
    logger = spec.open(plan.folder, plan.identity, group, plan.config) if spec is not None else None
    summary: dict[str, Any] = {}
    failed = True
    try:
        record = _Run(plan, bench, logger, on_epoch).to_record(source_record)
        summary = {
            f"{split}/{name}": value for split, values in record.metrics.items() for name, value in values.items()
        }
        summary |= {"parameters/trainable": record.parameters.trainable, "parameters/total": record.parameters.total}
        failed = False
    finally:
        if spec is not None and logger is not None:
            spec.close(logger, summary, failed=failed)
    return record


def _settle_libraries(plan: Plan) -> None:
    """Lightning's advice is about choices that are made here on purpose; its errors still come through."""
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
    if plan.settings.trainer.threads is not None:
        torch.set_num_threads(plan.settings.trainer.threads)


class _Run:
    """A run in progress: the model, and what its phases leave."""

    def __init__(self, plan: Plan, bench: Workbench, logger: Logger | None, on_epoch: OnEpoch) -> None:
        self._plan, self._bench, self._logger, self._on_epoch = plan, bench, logger, on_epoch
        self._outcome = Outcome()
        self._backbone = source_backbone(plan, bench)
        self._model = with_head(plan, self._backbone)

    def to_record(self, source_record: Record | None) -> Record:
        """Judge, train, select, test, and write the record."""
        plan, outcome = self._plan, self._outcome
        if source_record is not None:
            outcome.metrics |= judging.before_tuning(plan, self._model, self._backbone, self._bench, source_record)
        for index, phase in enumerate(plan.phases):
            module, inputs, trainer = self._fit(index, phase)
        predictions = self._test(module, inputs, trainer)
        files = write_files(plan, self._model, predictions, outcome) if distributed.is_first() else {}
        record = make_record(plan, self._model, self._backbone, outcome, files)
        if distributed.is_first():
            write_record(plan.folder, record)
            (plan.folder / LAST_FILE).unlink(missing_ok=True)
        return record

    def _fit(self, index: int, phase: Phase) -> tuple[Classification, PhaseInputs, pl.Trainer]:
        """Train one phase and leave the model at its best epoch by validation."""
        plan, outcome, metrics = self._plan, self._outcome, self._plan.settings.metrics
        self._model.set_trainable(phase.trainable, statistics_frozen=phase.running_statistics == "frozen")
        inputs = phase_inputs(plan, self._model, self._backbone, self._bench, phase)
        first_epoch = len(outcome.history)
        module = Classification(
            self._model,
            inputs.forwards,
            plan.network,
            phase,
            index,
            first_epoch,
            _objective(plan),
            plan.transform.output_size,
        )
        contract = FreezeContract(self._model)
        last = plan.folder / LAST_FILE
        selection = Selection(self._model, metrics, last, plan.settings.trainer.checkpoint_seconds, index)
        trainer = _trainer(plan, phase.epochs or 0, self._logger, [contract, selection, _EpochReport(self._on_epoch)])
        began = time.perf_counter()
        trainer.fit(module, datamodule=_batches(plan, inputs, first_epoch))
        outcome.train_seconds += time.perf_counter() - began
        selection.restore()
        outcome.history += module.history
        outcome.moved |= module.moved
        outcome.trained |= phase.trainable
        outcome.samples += len(plan.splits.train.indices) * len(module.history)
        outcome.diverged |= selection.diverged
        outcome.contract.append({"phase": phase.name, **contract.result})
        outcome.phases.append(phase_record(phase, self._model, trainer, module, inputs.thaw_line))
        outcome.selection = SelectionRecord(
            monitor=f"val/{metrics.monitor}",
            mode=metrics.mode,
            value=selection.best_value,
            phase=index,
            epoch=first_epoch + max(0, selection.best_epoch),
        )
        return module, inputs, trainer

    def _test(self, module: Classification, inputs: PhaseInputs, trainer: pl.Trainer) -> Predictions:
        """The selected epoch's metrics on validation, as they were when it was chosen, and on test, opened now."""
        plan, outcome = self._plan, self._outcome
        chosen = outcome.history[outcome.selection.epoch] if outcome.selection else {}
        outcome.metrics["val"] = {
            name.removeprefix("val/"): value for name, value in chosen.items() if name.startswith("val/")
        }
        began = time.perf_counter()
        trainer.test(module, dataloaders=_batches(plan, inputs, 0).loader("test"), verbose=False)
        outcome.evaluate_seconds = time.perf_counter() - began
        outcome.metrics["test"] = dict(module.evaluated)
        predictions = Predictions.joined(distributed.gathered(module.predictions))
        outcome.confusion = confusion_matrix(predictions.labels, predictions.predicted, len(plan.splits.classes))
        return predictions


class _EpochReport(Callback):
    """Tells the run's observer of every epoch."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self._on_epoch = on_epoch
        self._told = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The previous epoch is whole now."""
        self._tell(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """So is the last one."""
        self._tell(pl_module)

    def _tell(self, pl_module: pl.LightningModule) -> None:
        history = cast("Classification", pl_module).history
        for row in history[self._told :]:
            self._on_epoch(row)
        self._told = len(history)


def _objective(plan: Plan) -> Objective:
    settings = plan.settings
    return Objective(
        optimizer=settings.optimizer,
        scheduler=settings.scheduler,
        classes=len(plan.splits.classes),
        top_k=settings.metrics.top_k,
        seed=settings.seed,
        label_smoothing=settings.loss.label_smoothing,
    )


def _trainer(plan: Plan, epochs: int, logger: Logger | None, callbacks: list[Callback]) -> pl.Trainer:
    settings, metrics = plan.settings.trainer, plan.settings.metrics
    if settings.early_stopping is not None:
        monitor = f"val/{metrics.monitor}"
        stop = EarlyStopping(monitor, patience=settings.early_stopping, mode=metrics.mode, check_finite=False)
        callbacks = [*callbacks, stop]
    return pl.Trainer(
        max_epochs=epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy if settings.devices > 1 else "auto",
        precision=settings.precision,
        gradient_clip_val=settings.gradient_clip,
        logger=logger or False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        default_root_dir=plan.folder,
    )


def _batches(plan: Plan, inputs: PhaseInputs, first_epoch: int) -> Batches:
    trainer = plan.settings.trainer
    return Batches(
        inputs.parts,
        batch_size=trainer.batch_size,
        eval_batch_size=trainer.eval_batch_size,
        data_seed=plan.settings.data_seed,
        workers=trainer.workers,
        shard=distributed.shard(),
        first_epoch=first_epoch,
    )
