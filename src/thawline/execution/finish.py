"""The one end of every run, trained, packed or averaged: evaluate on test, diagnose, write the files and the record."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import save

from thawline.execution import distributed
from thawline.execution.arithmetic import arithmetic_of
from thawline.execution.divergence import divergence
from thawline.execution.evaluate import Metrics, shifted_metrics, shifted_splits, split_record
from thawline.execution.gallery import write_gallery, write_thumbnails
from thawline.files import atomic_write, sha256_of_file
from thawline.invocation import Invocation
from thawline.ledger import provenance
from thawline.network.model import TransferModel
from thawline.optimization.optimizers import States
from thawline.planning.context import RunContext
from thawline.planning.plan import IDENTITY_FORMAT, Plan
from thawline.planning.statements import recipe_of, strategy_of
from thawline.records import (
    ContractRecord,
    Cost,
    FreezeContractRecord,
    GroupRecord,
    OptimizerGroup,
    Parameters,
    PhaseRecord,
    Provenance,
    Record,
    Resumption,
    Selection,
    SourceFileRecord,
    SplitRecord,
    write_record,
)
from thawline.records.names import BEST_FILE, IMAGE_SCORE_ARRAY, PREDICTIONS_FILE
from thawline.runtime.clock import now
from thawline.runtime.memory import peak_memory_bytes
from thawline.tasks import SpatialTask, Task
from thawline.training.evaluation import Predictions

if TYPE_CHECKING:
    from thawline.backbones import Backbone
    from thawline.datasets import Split
    from thawline.execution.fitting import Fit

_KEPT = (
    "started_at", "history", "phases", "updated", "trained", "contract", "selection", "metrics",
    "train_seconds", "samples", "resumed",
)  # fmt: skip
_PARTS: Mapping[str, type[BaseModel]] = {"phases": PhaseRecord, "contract": ContractRecord, "resumed": Resumption}


@dataclass
class RunResults:
    """The results of a run, collected phase by phase.

    `optimizer` is what the last one's remembered, if it is kept; `auxiliary` what its regularizers trained themselves;
    `task_fields` what the record has of its task alone.
    """

    started_at: str = field(default_factory=now)
    began: float = field(default_factory=time.perf_counter)
    cpu_began: float = field(default_factory=time.process_time)
    history: list[dict[str, Any]] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)
    optimizer: States = field(default_factory=dict)
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    updated: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)
    contract: list[ContractRecord] = field(default_factory=list)
    selection: Selection | None = None
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    task_fields: dict[str, Any] = field(default_factory=dict)
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    samples: int = 0
    resumed: list[Resumption] = field(default_factory=list)
    diagnostics: dict[str, Any] = field(default_factory=dict)

    def to_text(self, training_seconds: float) -> str:
        """What is there so far, for a checkpoint in a phase that has trained for `training_seconds`."""
        values = {name: getattr(self, name) for name in _KEPT}
        values["updated"], values["trained"] = sorted(self.updated), sorted(self.trained)
        for name in _PARTS:
            values[name] = [item.model_dump() for item in values[name]]
        values["selection"] = self.selection.model_dump() if self.selection else None
        values["train_seconds"] += training_seconds
        values["seconds"] = time.perf_counter() - self.began
        values["cpu_seconds"] = time.process_time() - self.cpu_began
        return json.dumps(values)

    @classmethod
    def from_text(cls, text: str) -> RunResults:
        """What `to_text` wrote; the seconds go on from there."""
        values = json.loads(text)
        # A field that is missing would have its default.
        missing = [name for name in _KEPT if name not in values]
        if missing:
            raise KeyError(missing[0])
        values["began"] = time.perf_counter() - values.pop("seconds")
        values["cpu_began"] = time.process_time() - values.pop("cpu_seconds")
        values["updated"], values["trained"] = set(values["updated"]), set(values["trained"])
        for name, kind in _PARTS.items():
            values[name] = [kind.model_validate(item) for item in values[name]]
        values["selection"] = Selection(**values["selection"]) if values["selection"] else None
        return cls(**values)

    def absorb(self, plan: Plan, model: TransferModel, fit: Fit) -> None:
        """Add what a phase's fit left."""
        module, best = fit.module, fit.best
        self.history += module.history
        self.optimizer = best.optimizer
        self.auxiliary = best.auxiliary
        self.updated |= module.updated
        self.trained |= fit.phase.trainable
        self.samples += len(plan.splits.train.indices) * len(module.history)
        self.contract.append(fit.contract.of_phase(fit.phase.name))
        self.phases.append(_phase_record(model, fit))
        rule, epoch = plan.settings.rule, fit.first_epoch + max(0, best.epoch)
        if plan.splits.val is None:
            self.selection = Selection.last(rule, phase=fit.index, epoch=epoch)
        else:
            self.selection = Selection.by(rule, value=best.value, phase=fit.index, epoch=epoch)


class Diagnoses(Protocol):
    """What is measured of a model beside its metrics."""

    def of(self, model: TransferModel) -> dict[str, Any]:
        """The diagnostics of the chosen model."""
        ...


@dataclass(frozen=True)
class Finished:
    """What has been trained or averaged, at the epoch or average that validation chose.

    Attributes:
        run: its plan and session.
        model: the whole model, with the chosen weights.
        backbone: the source that it started from.
        results: what led there.
        evaluate: the metrics and predictions of the model on a split, over all devices.
        diagnosis: measures the model against its start.
        notes: what a reader of the record has to know beside the plan's notes.
        facts: further diagnostics.
    """

    run: RunContext
    model: TransferModel
    backbone: Backbone
    results: RunResults
    evaluate: Callable[[Split], tuple[Metrics, Predictions]]
    diagnosis: Diagnoses
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def finish(finished: Finished) -> Record:
    """Evaluate on test if the plan opens it, which nothing else does; then diagnose and write the files and the record.

    Every process of a run on several devices calls it; the first one writes.
    """
    plan, results, predictions = finished.run.plan, finished.results, None
    test = plan.splits.test
    if test is not None:
        began = time.perf_counter()
        results.metrics["test"], predictions = finished.evaluate(test)
        results.task_fields = plan.settings.task.record_fields(predictions.arrays(), plan.outputs)
        results.metrics |= shifted_metrics(finished.run, finished.model)
        results.evaluate_seconds += time.perf_counter() - began
    results.diagnostics = {**finished.diagnosis.of(finished.model), **finished.facts}
    first = distributed.is_first()
    files = _write_files(plan, finished.model, predictions, results) if first else {}
    task = plan.settings.task
    if first and predictions is not None and task.IMAGE_SCORE:
        began, arrays = time.perf_counter(), predictions.arrays()
        if isinstance(task, SpatialTask):
            files |= write_gallery(finished.run, task, finished.model, arrays)
        else:
            files |= write_thumbnails(finished.run, task, arrays)
        results.evaluate_seconds += time.perf_counter() - began
    record = _make_record(finished, files)
    if first:
        write_record(plan.folder, record)
    return record


def _write_files(
    plan: Plan, model: TransferModel, predictions: Predictions | None, results: RunResults
) -> dict[str, str]:
    """The tensors that training updated, and the predictions on test; returns file name -> SHA-256."""
    state = model.state_dict()
    best = {name: state[name].detach().cpu().contiguous() for name in sorted(results.updated)}
    with atomic_write(plan.folder / BEST_FILE) as stream:
        stream.write(save(best))
    if predictions is None:
        return {BEST_FILE: sha256_of_file(plan.folder / BEST_FILE)}
    arrays, task = predictions.arrays(), plan.settings.task
    if task.IMAGE_SCORE and not task.RIGHT_OR_WRONG:
        arrays[IMAGE_SCORE_ARRAY] = task.image_scores(arrays, plan.outputs)
    with atomic_write(plan.folder / PREDICTIONS_FILE) as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    return {name: sha256_of_file(plan.folder / name) for name in (BEST_FILE, PREDICTIONS_FILE)}


def _make_record(finished: Finished, files: dict[str, str]) -> Record:
    """The record of a run that is through."""
    plan, model, results = finished.run.plan, finished.model, finished.results
    task = plan.settings.task
    if results.selection is None:
        raise RuntimeError("a run without a phase has nothing to record")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    diverged = divergence(
        _led_to_model(plan, results.history, results.selection),
        task.constant_loss(plan.outputs),
        model.state_dict(),
    )
    trainable = sum(sizes[name] for name in results.trained)
    return Record(
        identity=plan.identity,
        identity_format=IDENTITY_FORMAT,
        identity_parts=dict(plan.identity_parts),
        diverged=bool(diverged),
        divergence=diverged,
        config=dict(plan.config),
        overrides=list(plan.overrides),
        strategy=strategy_of(plan),
        recipe=recipe_of(plan),
        classes=list(plan.splits.classes),
        task=task.NAME,
        preprocessing=plan.transform.preprocessing(finished.backbone.preprocessing),
        provenance=_provenance(plan, finished.backbone, results),
        splits=_split_records(plan) | shifted_splits(plan),
        layer_groups=[
            GroupRecord(
                index=group.index,
                name=group.name,
                parameters=sum(sizes[name] for name in group.parameters),
                trained=sum(sizes[name] for name in group.parameters if name in results.trained),
            )
            for group in plan.network.groups
        ],
        parameters=Parameters(
            total=sum(sizes.values()),
            trainable=trainable,
            frozen=sum(sizes.values()) - trainable,
            head=sum(sizes[name] for name in plan.network.head),
            adapter=sum(sizes[name] for name in plan.network.adapter),
        ),
        phases=results.phases,
        history=results.history,
        selection=results.selection,
        metrics=results.metrics,
        metric_definitions=task.definitions({name for split in results.metrics.values() for name in split}),
        headline=task.HEADLINE,
        tie_break=task.TIE_BREAK,
        freeze_contract=FreezeContractRecord(phases=results.contract),
        cost=Cost(
            total_seconds=time.perf_counter() - results.began,
            cpu_seconds=time.process_time() - results.cpu_began,
            train_seconds=results.train_seconds,
            evaluate_seconds=results.evaluate_seconds,
            peak_memory_bytes=peak_memory_bytes(finished.run.device),
            train_samples_per_second=results.samples / results.train_seconds if results.train_seconds else None,
        ),
        files=files,
        diagnostics=results.diagnostics,
        warnings=list(plan.warnings),
        left_out=dict(plan.splits.left_out),
        notes=[
            *plan.splits.notes,
            *(note for item in plan.shifted for note in item.notes),
            *distributed.notes(plan, sorted(results.updated - sizes.keys())),
            *([] if diverged else _missing(task, results.metrics)),
            *finished.notes,
        ],
        image_score="" if task.RIGHT_OR_WRONG else task.IMAGE_SCORE,
        **results.task_fields,
    )


def _missing(task: Task, metrics: Mapping[str, Metrics]) -> Iterator[str]:
    """Why metrics have no value, where some have none."""
    for split, values in metrics.items():
        for name, value in values.items():
            if value is None or math.isnan(value):
                yield f"{split} has no {name}: {task.why_missing(name)}"


def _led_to_model(plan: Plan, history: Sequence[dict[str, Any]], selection: Selection) -> Sequence[dict[str, Any]]:
    """The rows of the history that led to the model: all epochs, or of separate candidates the one that was chosen."""
    if plan.settings.probe is not None or plan.settings.average is not None:
        return [history[selection.epoch]]
    return history


def _phase_record(model: TransferModel, fit: Fit) -> PhaseRecord:
    parameters = dict(model.named_parameters())
    groups = [
        OptimizerGroup(
            name=group["name"],
            tensors=len(group["params"]),
            parameters=sum(parameter.numel() for parameter in group["params"]),
            lr=group["initial_lr"],
            weight_decay=group["weight_decay"],
        )
        for optimizer in fit.trainer.optimizers
        for group in optimizer.param_groups
    ]
    return PhaseRecord(
        name=fit.phase.name,
        epochs=len(fit.module.history),
        trainable_parameters=sum(parameters[name].numel() for name in fit.phase.trainable),
        trainable_tensors=len(fit.phase.trainable),
        optimizer_groups=groups,
        thaw_line=fit.inputs.thaw_line,
        regularizers=fit.penalties.report,
        cuda_graphs=fit.module.cuda_graphs,
    )


def _provenance(plan: Plan, backbone: Backbone, results: RunResults) -> Provenance:
    weights = backbone.weights
    return Provenance(
        **provenance.software().model_dump(),
        hardware=provenance.hardware(),
        threads=torch.get_num_threads(),
        arithmetic=arithmetic_of(plan, backbone.module),
        command=Invocation.current().command,
        options=Invocation.current().choosing,
        started_at=results.started_at,
        finished_at=now(),
        resumed=results.resumed,
        data_fingerprint=plan.splits.fingerprint,
        own_code={module: SourceFileRecord(file=code.file, sha256=code.sha256) for module, code in plan.code.items()},
        weights=weights,
        source_run=plan.source.identity if plan.source else None,
        stage=plan.settings.sweep.stage,
    )


def _split_records(plan: Plan) -> dict[str, SplitRecord]:
    task, opened = plan.settings.task, plan.splits.opened
    return {name: split_record(task, split, split.targets, plan.outputs) for name, split in opened.items()}
