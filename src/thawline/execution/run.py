"""One run: source model -> evaluate it -> phases -> select on validation -> test once -> record."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from typing import Any

import torch

from thawline.datasets import Split
from thawline.execution import distributed
from thawline.execution.averaging import average
from thawline.execution.before_tuning import before_tuning
from thawline.execution.checkpoint import AtEpochs, Checkpoint, Saved, UnusableCheckpoint, reason
from thawline.execution.diagnostics import Diagnosis
from thawline.execution.evaluate import Metrics
from thawline.execution.finish import Finished, RunResults, finish
from thawline.execution.fitting import Fit, OnEpoch, prepare_fit
from thawline.execution.inputs import phase_inputs
from thawline.execution.out_of_memory import is_of_memory, naming_what_does_not_fit
from thawline.execution.packing import Pack
from thawline.execution.probing import solve_path
from thawline.execution.regularizing import Regularizing
from thawline.execution.threads import on_threads
from thawline.execution.weights import ensure_model, source_backbone, with_head
from thawline.freeze_policies import Phase
from thawline.ledger.runs import run_once
from thawline.planning.context import RunContext
from thawline.planning.devices import device_of
from thawline.planning.settings import RunSettings
from thawline.records import Record, Resumption
from thawline.records.metrics import Direction
from thawline.runtime.clock import now
from thawline.runtime.memory import begin_peak, freeing, keep_freed_memory
from thawline.runtime.steps import step
from thawline.tasks import Task
from thawline.trackers import Mirrored, mirroring
from thawline.training.evaluation import Predictions


def execute(run: RunContext, *, group: str | None, on_epoch: OnEpoch, packs: dict[str, Pack] | None = None) -> Record:
    """Carry a run out from start to record, in its folder.

    Args:
        run: its plan and session.
        group: the sweep that the run belongs to, for loggers.
        on_epoch: gets each epoch's row of the history.
        packs: linear probes that are trained together, by the identity of each run; a pack is dropped after its last
            run so that its model can be freed.
    """
    plan, session = run.plan, run.session
    _settle_libraries(plan.settings)
    source_record = None
    if plan.source is not None:
        source_record = run_once(
            plan.source,
            lambda source: _source_stage(run.with_plan(source), group),
            began=session.began,
            retries=plan.settings.sweep.retries,
        )
    if distributed.wanted(plan) and plan.settings.average is None:
        return distributed.execute_on_all(plan, group, on_epoch)
    spec = plan.settings.logger if distributed.is_first() else None
    about = Mirrored(
        plan.folder,
        plan.identity,
        plan.label or plan.identity,
        group,
        plan.config,
        directions_of(plan.settings.task),
        functools.partial(ensure_model, run),
    )
    begin_peak()
    with naming_what_does_not_fit(run), freeing(), on_threads(run), mirroring(spec, about, on_epoch) as mirror:
        pack = (packs or {}).pop(plan.identity, None)
        if plan.settings.average is not None:
            record = average(run, mirror.epoch)
        elif pack is not None:
            record = pack.record(plan, mirror.epoch)
        else:
            record = _trained(run, mirror.epoch, source_record)
        mirror.record = record
    return record


def directions_of(task: Task) -> dict[str, Direction]:
    """Of the metrics in a row of the history that may choose the epoch, whether less or more is better."""
    definitions = task.definitions(task.MONITORS)
    return {"train/loss": "min", **{f"val/{name}": of.direction for name, of in definitions.items()}}


def _source_stage(source: RunContext, group: str | None) -> Record:
    with step("source model: epochs", sum(phase.epochs or 0 for phase in source.plan.phases)) as advance:
        return execute(source, group=group, on_epoch=lambda row: advance(1))


def _trained(run: RunContext, on_epoch: OnEpoch, source_record: Record | None) -> Record:
    """The record of a run that trains; from its start where its checkpoint turns out to be of no use."""
    try:
        return _Run(run, on_epoch).to_record(source_record)
    except UnusableCheckpoint as error:
        Checkpoint(run.plan).refuse(f"is damaged ({error})")
    return _Run(run, on_epoch).to_record(source_record)


def _settle_libraries(settings: RunSettings) -> None:
    """Lightning's advice is about choices that are made here on purpose; its errors still come through."""
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
    if device_of(settings).type == "cpu":
        keep_freed_memory()


class _Run:
    """A run in progress: the model, and what its phases leave."""

    def __init__(self, run: RunContext, on_epoch: OnEpoch) -> None:
        self._run, self._on_epoch = run, on_epoch
        plan = run.plan
        self._results = RunResults()
        self._backbone = source_backbone(run)
        self._model = run.session.lines.reuse_model(plan.model_key, with_head(plan, self._backbone))
        self._device = run.device
        self._model.to(self._device)
        self._diagnosis = Diagnosis(run, self._model, self._backbone)
        self._checkpoint = Checkpoint(plan)
        self._regularizing = Regularizing(run, self._model, self._backbone)

    def to_record(self, source_record: Record | None) -> Record:
        """Evaluate before tuning, train, select, and finish."""
        run, results = self._run, self._results
        saved = self._checkpoint.read()
        if saved is not None:
            results = self._go_on(saved)
        elif source_record is not None:
            results.metrics |= before_tuning(run, self._model, self._backbone, source_record)
        for index, phase in enumerate(run.plan.phases):
            if saved is None or index >= saved.phase:
                fit = self._fit(index, phase, saved.fit if saved is not None and index == saved.phase else None)
        if run.plan.splits.val is not None:
            results.metrics["val"] = self._validated()
        evaluate = functools.partial(self._evaluated, fit)
        record = finish(Finished(run, self._model, self._backbone, results, evaluate, self._diagnosis))
        if distributed.is_first():
            self._checkpoint.remove()
        return record

    def _go_on(self, saved: Saved) -> RunResults:
        """Let the model and the results be what they were when the phase of the checkpoint began."""
        state = self._model.state_dict()
        try:
            with torch.no_grad():
                for name, tensor in saved.tensors.items():
                    state[name].copy_(tensor)
            self._results = RunResults.from_text(saved.run)
            phase = self._run.plan.phases[saved.phase].name
            self._results.resumed.append(Resumption(phase=phase, epoch=saved.fit["epoch"], at=now()))
        except Exception as error:
            if is_of_memory(error):
                raise
            raise UnusableCheckpoint(reason(error)) from error
        # A mirror numbers its rows by epoch: what it has already it leaves out, and what it lost it has again.
        for row in self._results.history:
            self._on_epoch(row)
        return self._results

    def _fit(self, index: int, phase: Phase, state: dict[str, Any] | None) -> Fit:
        """Train one phase, from `state` on if it was broken, and leave the model at its best epoch by validation.

        Where there is no validation split, at its last one.
        """
        run, plan, results = self._run, self._run.plan, self._results
        self._model.set_trainable(phase.trainable, statistics_frozen=phase.running_statistics == "frozen")
        self._model.train()
        if plan.settings.trainer.shards_weights:
            self._model.cpu()
        inputs = phase_inputs(run, self._model, phase, updated=results.updated)
        began = time.perf_counter()
        values = self._model.state_dict()
        before = {name: values[name].clone() for name in results.updated}
        at_epochs = AtEpochs(
            self._checkpoint,
            index,
            state,
            lambda fitted: Saved(index, results.to_text(time.perf_counter() - began), before, fitted),
        )
        first_epoch, states = len(results.history), results.optimizer
        penalties = self._regularizing.attach(results.auxiliary)
        fit = prepare_fit(plan, self._model, inputs, index, first_epoch, self._on_epoch, at_epochs, states, penalties)
        if plan.settings.probe is not None:
            solve_path(plan, self._model, fit, self._on_epoch)
        else:
            fit.train()
        results.train_seconds += time.perf_counter() - began
        fit.settle(self._model)
        self._model.to(self._device)
        results.absorb(plan, self._model, fit)
        return fit

    def _validated(self) -> Metrics:
        """The selected epoch's metrics on validation, as they were when it was chosen."""
        results = self._results
        chosen = results.history[results.selection.epoch] if results.selection else {}
        return {name.removeprefix("val/"): value for name, value in chosen.items() if name.startswith("val/")}

    def _evaluated(self, fit: Fit, split: Split) -> tuple[Metrics, Predictions]:
        """The metrics and predictions of the selected epoch on the test split, by all devices."""
        with step("testing"):
            fit.trainer.test(fit.module, dataloaders=fit.batches.loader("test"), verbose=False)
        return dict(fit.module.evaluated), Predictions.joined(distributed.gathered(fit.module.predictions))
