"""Runs that are packed: linear probes of classes that differ in rates and seeds alone, trained as one batched problem.

Every cell keeps its own identity, state and record; its numbers are those of running it alone up to rounding.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from thawline.datasets import Split
from thawline.execution.diagnostics import Diagnosis
from thawline.execution.evaluate import Metrics
from thawline.execution.finish import Finished, RunResults, finish
from thawline.execution.inputs import phase_inputs
from thawline.execution.probing import features
from thawline.execution.weights import new_head, source_backbone, with_head
from thawline.optimization.learning_rates import Uniform
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.planning.session import Session
from thawline.records import FeaturePass, OptimizerGroup, PhaseRecord, Record, Selection
from thawline.records.metrics import NEVER
from thawline.tasks.classification import Classification
from thawline.training.batches import Shard, ShuffledBatches
from thawline.training.contract import FreezeContract
from thawline.training.evaluation import Predictions
from thawline.training.probes import ManyProbes, ProbeRates

_KINDS = {"torch.optim.SGD": "sgd", "torch.optim.AdamW": "adamw"}
_ARGUMENTS = {"sgd": {"momentum", "nesterov", "dampening"}, "adamw": {"betas", "eps"}}
_MOST_FLOATS = 2**26
"""Of all probes' weights, with the optimizer's state: 256 MiB."""


def packs(plans: Sequence[Plan], session: Session) -> dict[str, Pack]:
    """The packs of a sweep's cells: identity -> the pack that trains it; cells that cannot be packed are left out."""
    alike: dict[Hashable, list[Plan]] = {}
    for plan in plans:
        if _can_be_packed(plan):
            alike.setdefault(_alike(plan), []).append(plan)
    found: dict[str, Pack] = {}
    for group in alike.values():
        if len(group) > 1:
            pack = Pack(group, session)
            found.update({plan.identity: pack for plan in group})
    return found


def _can_be_packed(plan: Plan) -> bool:
    """Whether the run trains one linear layer on fixed features by a rule that `ManyProbes` knows."""
    settings, trainer = plan.settings, plan.settings.trainer
    kind = _KINDS.get(settings.optimizer.target)
    return (
        kind is not None
        and type(settings.task) is Classification
        and plan.splits.val is not None
        and set(settings.optimizer.arguments) <= _ARGUMENTS[kind]
        and len(plan.phases) == 1
        and plan.network.has_linear_head
        and plan.phases[0].trainable == {"head.weight", "head.bias"} == set(plan.network.head)
        and plan.phases[0].patience is None
        and plan.phases[0].lr_multiplier == 1.0
        and settings.source is None
        and settings.probe is None
        and settings.adapter is None
        and not settings.regularizer
        and not settings.shift
        and not plan.transform.is_random
        and type(settings.learning_rates) is Uniform
        and trainer.devices == 1
        and trainer.precision == "32-true"
        and trainer.gradient_clip is None
        and trainer.early_stopping is None
    )


def _alike(plan: Plan) -> Hashable:
    """Equal for runs that differ in rates and seed alone."""
    deciding = plan.settings.deciding()
    for name in ("optimizer", "scheduler", "loss", "seed", "head"):
        deciding.pop(name, None)
    deciding["task"].pop("label_smoothing", None)
    deciding["kind"] = plan.settings.optimizer.target
    deciding["data"], deciding["transform"] = plan.splits.fingerprint, plan.transform.deciding()
    return (json.dumps(deciding, sort_keys=True, default=str), plan.start)


@dataclass
class _Best:
    """The best epoch of one probe so far."""

    epoch: int = -1
    rank: tuple[float, float] = NEVER
    weight: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    bias: torch.Tensor = field(default_factory=lambda: torch.empty(0))


class Pack:
    """Packed probes: linear probes on the same features and the same batches, trained as one batched problem.

    Args:
        plans: runs that differ in rates and seeds alone.
        session: what the runs of this process share.
    """

    def __init__(self, plans: Sequence[Plan], session: Session) -> None:
        first = plans[0]
        width = session.networks.skeleton(first.settings).feature_dim * len(first.outputs)
        self._most = max(1, _MOST_FLOATS // (4 * width))
        self._plans, self._session = list(plans), session
        self._trained: dict[str, tuple[list[dict[str, Any]], _Best]] = {}
        self._seconds = self._wall_seconds = self._cpu_seconds = 0.0

    def record(self, plan: Plan, on_epoch: Callable[[Mapping[str, Any]], None]) -> Record:
        """The record of one of the runs; the first call trains all that fit beside it."""
        began, cpu_began = time.perf_counter(), time.process_time()
        if not self._trained:
            self._prepare()
        if plan.identity not in self._trained:
            position = next(index for index, other in enumerate(self._plans) if other.identity == plan.identity)
            first = position - position % self._most
            together = self._plans[first : first + self._most]
            self._train(together)
            self._wall_seconds = (time.perf_counter() - began) / len(together)
            self._cpu_seconds = (time.process_time() - cpu_began) / len(together)
        history, best = self._trained[plan.identity]
        for row in history:
            on_epoch(row)
        return self._record(plan, history, best)

    def _prepare(self) -> None:
        """The features of every split, from the store where it pays."""
        run = RunContext(self._plans[0], self._session)
        plan = run.plan
        self._backbone = source_backbone(run)
        self._model = with_head(plan, self._backbone)
        self._model.to(run.device)
        self._model.set_trainable(plan.phases[0].trainable)
        self._model.train()
        self._contract = FreezeContract(self._model)
        self._contract.remember()
        inputs = phase_inputs(run, self._model, plan.phases[0])
        self._thaw_line, self._inputs = inputs.thaw_line, inputs
        self._features = {part: features(plan.settings, inputs, self._model, part) for part in ("train", "val")}
        self._metrics = plan.settings.task.metrics(plan.outputs)

    def _train(self, plans: Sequence[Plan]) -> None:
        began = time.perf_counter()
        first = plans[0]
        heads = [self._head(plan) for plan in plans]
        many = ManyProbes(
            torch.stack([head.weight.detach() for head in heads]),
            torch.stack([head.bias.detach() for head in heads]),
            [_rates(plan) for plan in plans],
        )
        rows = first.splits.train.indices
        order = ShuffledBatches(rows, first.settings.trainer.batch_size, first.settings.data_seed, Shard(), 0)
        steps, epochs = len(order) * (first.phases[0].epochs or 0), first.phases[0].epochs or 0
        histories: list[list[dict[str, Any]]] = [[] for _ in plans]
        bests = [_Best() for _ in plans]
        for epoch in range(epochs):
            order.set_epoch(epoch)
            sums = self._epoch(many, plans, order, epoch * len(order), steps)
            logits = many.logits(self._features["val"][0])
            factors = _factors(plans, (epoch + 1) * len(order), steps)
            for index, plan in enumerate(plans):
                row = {
                    "phase": plan.phases[0].name,
                    "epoch": epoch,
                    "lr": plan.settings.optimizer.lr * float(factors[index]),
                    "train/loss": float(sums[0][index]) / len(rows),
                    "train/top1": float(sums[1][index]) / len(rows),
                    **{f"val/{name}": value for name, value in self._scores(logits[index], "val").items()},
                    "seconds": (time.perf_counter() - began) / len(plans),
                }
                histories[index].append(row)
                _consider(bests[index], row, epoch, plan, many.weight[index], many.bias[index])
            began = time.perf_counter()
        for plan, history, best in zip(plans, histories, bests, strict=True):
            self._trained[plan.identity] = (history, best)
        self._seconds = sum(row["seconds"] for row in histories[0])

    def _head(self, plan: Plan) -> nn.Linear:
        built = new_head(plan, self._backbone)
        if not isinstance(built, nn.Linear):
            raise TypeError("a packed probe is one linear layer")
        return built

    def _epoch(
        self, many: ManyProbes, plans: Sequence[Plan], order: ShuffledBatches, first_step: int, steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the epoch's samples of loss and of correct predictions, each (P,)."""
        inputs, labels = self._features["train"]
        rows = plans[0].splits.train.indices
        by_row = np.argsort(rows, kind="stable")
        losses = torch.zeros(len(plans), dtype=torch.float64)
        correct = torch.zeros(len(plans), dtype=torch.int64)
        for step, (_, batch, _) in enumerate(order):
            chosen = torch.from_numpy(by_row[np.searchsorted(rows[by_row], batch)])
            loss, right = many.step(inputs[chosen], labels[chosen], _factors(plans, first_step + step, steps))
            losses += loss.double() * len(batch)
            correct += right
        return losses, correct

    def _scores(self, logits: torch.Tensor, part: str) -> dict[str, float]:
        self._metrics.update(logits, self._features[part][1])
        values = {name: float(value) for name, value in self._metrics.compute().items()}
        self._metrics.reset()
        return values

    def _record(self, plan: Plan, history: list[dict[str, Any]], best: _Best) -> Record:
        """Finish the run with its chosen epoch."""
        run, results = RunContext(plan, self._session), RunResults()
        head = self._model.head
        if not isinstance(head, nn.Linear):
            raise TypeError("a packed probe is one linear layer")
        # The model has the head of the probe recorded before: drift counts from this one's own start.
        head.load_state_dict(self._head(plan).state_dict())
        diagnosis = Diagnosis(run, self._model, self._backbone)
        with torch.no_grad():
            head.weight.copy_(best.weight)
            head.bias.copy_(best.bias)
        self._contract.check("at the end of the packed probes")
        chosen = history[max(0, best.epoch)]
        results.metrics["val"] = {name[4:]: value for name, value in chosen.items() if name.startswith("val/")}
        results.history = history
        results.updated = results.trained = set(plan.network.head)
        results.contract.append(self._contract.of_phase(plan.phases[0].name))
        results.phases.append(self._phase(plan, history))
        results.train_seconds = self._seconds
        results.samples = len(plan.splits.train.indices) * len(history)
        rule = plan.settings.rule
        value = chosen[f"val/{rule.metric}"] if best.epoch >= 0 else None
        results.selection = Selection.by(rule, value=value, phase=0, epoch=max(0, best.epoch))
        results.began -= self._wall_seconds
        results.cpu_began -= self._cpu_seconds
        evaluate = functools.partial(self._evaluated, plan, best)
        return finish(Finished(run, self._model, self._backbone, results, evaluate, diagnosis))

    def _evaluated(self, plan: Plan, best: _Best, split: Split) -> tuple[Metrics, Predictions]:
        """The metrics and predictions of a probe on the test split, whose features all probes of the pack share."""
        if "test" not in self._features:
            self._features["test"] = features(plan.settings, self._inputs, self._model, "test")
        inputs, targets = self._features["test"]
        logits = inputs @ best.weight.t() + best.bias
        predictions = Predictions.of(plan.settings.task, logits, targets, torch.from_numpy(split.indices))
        return dict(self._scores(logits, "test")), Predictions.joined([predictions])

    def _phase(self, plan: Plan, history: Sequence[Mapping[str, Any]]) -> PhaseRecord:
        sizes = {"weight": self._backbone.feature_dim * len(plan.outputs), "bias": len(plan.outputs)}
        rates = _rates(plan)
        groups = [
            OptimizerGroup(name=f"head.{name}", tensors=1, parameters=size, lr=rates.lr, weight_decay=decay)
            for (name, size), decay in zip(sizes.items(), (rates.weight_decay, rates.bias_decay), strict=True)
        ]
        return PhaseRecord(
            name=plan.phases[0].name,
            epochs=len(history),
            trainable_parameters=sum(sizes.values()),
            trainable_tensors=2,
            optimizer_groups=groups,
            thaw_line=self._thaw_line.model_copy(
                update={"packed": len(self._plans), "passes": list(self._passes(plan))}
            ),
        )

    def _passes(self, plan: Plan) -> Iterator[FeaturePass]:
        """Of the passes over the images, which came before the first training, this run's part."""
        first = self._plans[: self._most]
        if any(plan.identity == other.identity for other in first):
            for each in self._thaw_line.passes:
                seconds, cpu_seconds = each.seconds / len(first), each.cpu_seconds / len(first)
                yield each.model_copy(update={"seconds": seconds, "cpu_seconds": cpu_seconds})


def _classification(plan: Plan) -> Classification:
    task = plan.settings.task
    if not isinstance(task, Classification):
        raise TypeError("a packed probe is one of classification")
    return task


def _rates(plan: Plan) -> ProbeRates:
    optimizer, factor = plan.settings.optimizer, plan.settings.learning_rates.head
    decays = optimizer.weight_decay if optimizer.weight_decay_on_norm_and_bias else 0.0
    arguments: dict[str, Any] = dict(optimizer.arguments)
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    return ProbeRates(
        kind="sgd" if optimizer.target == "torch.optim.SGD" else "adamw",
        lr=optimizer.lr * factor,
        weight_decay=optimizer.weight_decay,
        bias_decay=decays,
        label_smoothing=_classification(plan).label_smoothing,
        **arguments,
    )


def _factors(plans: Sequence[Plan], step: int, steps: int) -> torch.Tensor:
    return torch.tensor([plan.settings.scheduler.factor(step, steps) for plan in plans])


def _consider(
    best: _Best, row: Mapping[str, Any], epoch: int, plan: Plan, weight: torch.Tensor, bias: torch.Tensor
) -> None:
    rank = plan.settings.rule.rank(row, "val/")
    if rank > best.rank:
        best.epoch, best.rank = epoch, rank
    elif best.epoch >= 0:
        return
    best.weight, best.bias = weight.clone(), bias.clone()
