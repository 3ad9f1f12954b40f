"""Averages of finished runs: a run whose weights come from others instead of from training.

The weights are chosen on validation; the test split is opened once, for what was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from thawline.errors import usage_error
from thawline.execution.decoding import decoded_images
from thawline.execution.diagnostics import Diagnosis
from thawline.execution.evaluate import Metrics, evaluated
from thawline.execution.finish import Finished, RunResults, finish
from thawline.execution.inputs import image_inputs
from thawline.execution.weights import recorded_file, source_backbone, with_head
from thawline.freeze_policies import Phase
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan, plan_of_run, plan_run
from thawline.planning.session import Session
from thawline.planning.settings import AverageSettings
from thawline.records import Record, Selection, run_folder
from thawline.records.metrics import NEVER
from thawline.records.names import BEST_FILE
from thawline.training.batches import Rows
from thawline.training.evaluation import Predictions

Tensors = Mapping[str, torch.Tensor]
OnCandidate = Callable[[Mapping[str, Any]], None]
_METHODS = {
    "wise_ft": "WiSE-FT: (1 - a) w0 + a w1",
    "uniform": "uniform soup: the mean of all",
    "greedy": "greedy soup: the mean of those that do not harm it on validation",
}


# The arithmetic -------------------------------------------------------------------------------------------------------


def interpolated(start: Tensors, end: Tensors, alpha: float) -> dict[str, torch.Tensor]:
    """``(1 - alpha) start + alpha end`` (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").

    The ends are exact: alpha 0 gives `start`, 1 gives `end`, bit for bit. What is no floating-point tensor (the batches
    that a norm has counted) is `end`'s at every alpha.
    """
    mixed = {}
    for name, tensor in end.items():
        if alpha == 1.0 or not tensor.is_floating_point():
            mixed[name] = tensor.clone()
        elif alpha == 0.0:
            mixed[name] = start[name].clone()
        else:
            mixed[name] = ((1.0 - alpha) * start[name].double() + alpha * tensor.double()).to(tensor.dtype)
    return mixed


def mean_of(ingredients: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """The mean of each floating-point tensor over networks; what is none is the first one's. Same names in all."""
    first = ingredients[0]
    return {
        name: torch.stack([one[name].double() for one in ingredients]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in first.items()
    }


def reestimate_statistics(model: nn.Module, norms: Collection[str], batches: Iterator[torch.Tensor]) -> None:
    """Replace the running statistics of batch norms by the mean over `batches` of the statistics that they see.

    The mean of several networks' statistics is not the statistics of their mean network. How many batches a norm has
    counted stays what it was.

    Args:
        model: everything but the norms is in eval mode.
        norms: module paths of the batch norms.
        batches: uint8 images (B, 3, H, W) on the model's device.
    """
    modules = [module for path, module in batch_norms(model).items() if path in norms]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in modules]
    model.eval()
    for norm in modules:
        norm.num_batches_tracked = torch.tensor(0, device=next(norm.buffers()).device)
        norm.momentum = None  # torch's word for a mean over all batches alike, whatever was there before
        norm.training = True
    with torch.no_grad():
        for images in batches:
            model(images)
    for norm, (momentum, counted) in zip(modules, kept, strict=True):
        norm.training, norm.momentum = False, momentum
        norm.num_batches_tracked = counted


def batch_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch norms that keep running statistics, by module path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.num_batches_tracked is not None
    }


# The run --------------------------------------------------------------------------------------------------------------


def average(run: RunContext, on_candidate: OnCandidate) -> Record:
    """Average the runs that the settings name, choose on validation, test once, and write the record.

    Args:
        run: one with `average` settings.
        on_candidate: called with the row of the history of each average that was evaluated.
    """
    settings = run.settings.average
    if settings is None:
        raise TypeError("the plan says nothing of averages")
    plans = [plan_of(run, identity) for identity in settings.ingredients]
    trained = frozenset[str]().union(*(phase.trainable for one in plans for phase in one.phases))
    plan = dataclasses.replace(run.plan, phases=(Phase("average", trained, epochs=0),))
    work = _Average(run.with_plan(plan), settings, on_candidate)
    {"wise_ft": work.wise_ft, "uniform": work.uniform, "greedy": work.greedy}[settings.method]()
    return work.to_record(trained)


def plan_of(run: RunContext, identity: str) -> Plan:
    """The plan of a finished run whose folder is beside that of `run`.

    Raises:
        UsageError: there is no such run, its record is damaged, or what it was made from has changed.
    """
    return plan_of_run(run_folder(run.settings.output_dir, identity), run.session)


class _Average:
    """An average in progress: the model, and what each candidate was worth on validation."""

    def __init__(self, run: RunContext, settings: AverageSettings, on_candidate: OnCandidate) -> None:
        self._run, self._settings, self._on_candidate = run, settings, on_candidate
        self._results = RunResults()
        self._backbone = source_backbone(run)
        self._model = with_head(run.plan, self._backbone).to(run.device)
        self._diagnosis = Diagnosis(run, self._model, self._backbone)
        self._updated = {identity: self._tensors(identity) for identity in settings.ingredients}
        start = {} if settings.start is None else self._tensors(settings.start)
        self._names = sorted({name for tensors in (*self._updated.values(), start) for name in tensors})
        state = self._model.state_dict()
        source = {name: state[name].detach().cpu().clone() for name in self._names}
        self._start: Tensors = {**source, **start}
        self._all = {identity: {**source, **tensors} for identity, tensors in self._updated.items()}
        self._best: dict[str, torch.Tensor] = {}
        self._best_row: dict[str, Any] = {}

    def wise_ft(self) -> None:
        """Evaluate every step from the start to the tuned weights; the best on validation is kept."""
        (end,) = self._all.values()
        for alpha in self._settings.alphas:
            self._lay(interpolated(self._start, end, alpha))
            self._consider({"alpha": alpha})

    def uniform(self) -> None:
        """Evaluate the mean of all ingredients."""
        self._lay_mean(self._settings.ingredients)
        self._consider({"ingredients": list(self._settings.ingredients)})

    def greedy(self) -> None:
        """Add the ingredients one by one, the best on validation first; each stays if the mean is not worse with it.

        Wortsman et al. 2022, "Model soups".
        """
        alone = []
        for identity in self._settings.ingredients:
            self._lay_mean([identity])
            alone.append((self._consider({"ingredients": [identity]}), identity))
        # Identities decide between runs that are equal in everything, so that the soup does not depend on their order.
        by_identity = sorted(alone, key=lambda pair: pair[1])
        best_first = sorted(by_identity, key=lambda pair: pair[0], reverse=True)
        best, soup = best_first[0][0], [best_first[0][1]]
        for _, identity in best_first[1:]:
            self._lay_mean([*soup, identity])
            tried = self._consider({"ingredients": [*soup, identity]}, ties=True)
            if tried >= best and tried != NEVER:
                best, soup = tried, [*soup, identity]

    def to_record(self, trained: frozenset[str]) -> Record:
        """Finish with what was chosen."""
        run, results = self._run, self._results
        self._lay(self._best)
        results.updated, results.trained = set(self._names), set(trained)
        results.metrics["val"] = _of_split(self._best_row)
        rule = run.settings.rule
        value = self._best_row[f"val/{rule.metric}"]
        results.selection = Selection.by(rule, value=value, phase=0, epoch=self._best_row["epoch"])
        finished = Finished(
            run,
            self._model,
            self._backbone,
            results,
            lambda split: self._evaluated(split.indices),
            self._diagnosis,
            notes=(self._note(),),
            facts={"average": self._report()},
        )
        return finish(finished)

    def _tensors(self, identity: str) -> dict[str, torch.Tensor]:
        folder = run_folder(self._run.settings.output_dir, identity)
        return load_file(recorded_file(folder, BEST_FILE, self._run.session))

    def _lay(self, tensors: Tensors) -> None:
        state = self._model.state_dict()
        with torch.no_grad():
            for name, tensor in tensors.items():
                state[name].copy_(tensor)

    def _lay_mean(self, identities: Sequence[str]) -> None:
        """Give the model the mean of these ingredients, with statistics of its own where theirs were updated."""
        self._lay(mean_of([self._all[identity] for identity in identities]))
        updated = {name for identity in identities for name in self._updated[identity]}
        norms = {path for path in batch_norms(self._model) if f"{path}.running_mean" in updated}
        if len(identities) > 1 and norms:
            reestimate_statistics(self._model, norms, self._training_batches())

    def _training_batches(self) -> Iterator[torch.Tensor]:
        """The training images once, augmented as in the first epoch, in batches of nearly equal size."""
        plan, decoded = self._run.plan, decoded_images(self._run)
        inputs = image_inputs(plan, decoded)["train"]
        rows = plan.splits.train.indices
        for batch in np.array_split(rows, -(-len(rows) // plan.settings.trainer.batch_size)):
            (images,) = inputs.read(0, batch)
            yield images.to(self._model.pixel_mean.device)

    def _consider(self, about: dict[str, Any], *, ties: bool = False) -> tuple[float, float]:
        """Evaluate the model as it is on validation; keep its tensors if it is the best so far (with `ties`, or equal).

        Returns its rank by the run's `SelectionRule`.
        """
        val = self._run.plan.splits.val
        if val is None:
            raise TypeError("the plan has no validation split")
        values, _ = self._evaluated(val.indices)
        row = {"phase": "average", "epoch": len(self._results.history), **about}
        row |= {f"val/{name}": value for name, value in values.items()}
        self._results.history.append(row)
        self._on_candidate(row)
        rule = self._run.settings.rule
        rank, best = rule.rank(row, "val/"), rule.rank(self._best_row, "val/")
        if not self._best or rank > best or (ties and rank == best):
            state = self._model.state_dict()
            self._best, self._best_row = {name: state[name].detach().cpu().clone() for name in self._names}, row
        return rank

    def _evaluated(self, rows: Rows) -> tuple[Metrics, Predictions]:
        """The metrics of the model as it is on these samples, and what it says of each."""
        plan = self._run.plan
        targets = plan.settings.task.evaluation_targets(plan.splits.images.targets, plan.transform)
        return evaluated(plan, self._model, decoded_images(self._run), targets, np.sort(rows))

    def _report(self) -> dict[str, Any]:
        chosen = {key: value for key, value in self._best_row.items() if key in ("alpha", "ingredients")}
        settings = self._settings
        return {
            "method": settings.method,
            "ingredients": list(settings.ingredients),
            "start": settings.start,
            "chosen": chosen,
            "candidates": len(self._results.history),
        }

    def _note(self) -> str:
        settings, row = self._settings, self._best_row
        evaluated = f"{len(self._results.history)} evaluated on validation"
        if settings.method == "wise_ft":
            start = f"run {settings.start}" if settings.start else "the source"
            way = f"from {start} to run {settings.ingredients[0]}, a = {row['alpha']:g}"
        else:
            way = f"{len(row['ingredients'])} of {len(settings.ingredients)} runs ({', '.join(row['ingredients'])})"
        return f"no training: {_METHODS[settings.method]}; {way}; {evaluated}"


def _of_split(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {key.removeprefix("val/"): value for key, value in row.items() if key.startswith("val/")}


# Which runs -----------------------------------------------------------------------------------------------------------


def wise_ft_plan(run: RunContext, alphas: Sequence[float], start: str | None, overrides: Sequence[str]) -> Plan:
    """The plan of a WiSE-FT average of a finished run with its source, or with the run `start`.

    `overrides` say how the average is called in tables.

    Raises:
        UsageError: `start` is not a run of the same network on the same data.
    """
    plan = run.plan
    if start is not None and alike(plan_of(run, start)) != alike(plan):
        raise usage_error("--start", f"run {start} has another network, head, source or data than run {plan.identity}")
    settings = {"method": "wise_ft", "ingredients": [plan.identity], "alphas": list(alphas), "start": start}
    return _averaged(run, settings, overrides)


def soup_plan(plans: Sequence[Plan], method: str, overrides: Sequence[str], session: Session) -> Plan:
    """The plan of a soup of finished runs that are `alike`; its configuration is otherwise that of the first."""
    ordered = sorted(plans, key=lambda plan: plan.identity)
    settings = {"method": method, "ingredients": [plan.identity for plan in ordered]}
    return _averaged(RunContext(ordered[0], session), settings, overrides)


def alike(plan: Plan) -> Hashable:
    """Equal for runs whose weights can be averaged: one network, head and source, one validation and test split."""
    splits, transform = plan.splits, plan.transform
    evaluated = tuple(split.sha256 for name, split in splits.opened.items() if name != "train")
    data = (splits.fingerprint, evaluated)
    return (dataclasses.replace(plan.model_key, drawn=None), data, str(transform.fixed))


def _averaged(run: RunContext, settings: Mapping[str, Any], overrides: Sequence[str]) -> Plan:
    config = {**run.plan.config, "output_dir": str(run.settings.output_dir), "average": dict(settings)}
    return plan_run(config, overrides, run.session)
