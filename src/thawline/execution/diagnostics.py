"""What a run did to the network, beside its metrics: drift, similarity to the source, and what the source promised.

Everything is measured on training and validation images; the test split stays closed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thawline.evaluation.similarity import drift, feature_distance, linear_cka
from thawline.execution import distributed
from thawline.execution.activations import Activations, activations
from thawline.execution.decoding import decoded_images
from thawline.execution.source_scores import source_key, source_scores
from thawline.execution.weights import build_model
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.randomness import permutation
from thawline.training.batches import Rows

if TYPE_CHECKING:
    from thawline.backbones import Backbone

_MOST_CHANNELS = 10


class Diagnosis:
    """The diagnostics of one run: begun before training, so that it knows what the source was.

    Args:
        run: its plan and session.
        model: before any tuning.
        backbone: the source, whose classifier the transferability scores read.
    """

    def __init__(self, run: RunContext, model: TransferModel, backbone: Backbone) -> None:
        self._run = run
        self._start = _starting_point(run.plan, model)
        self._found: dict[str, Any] = {}
        if run.settings.diagnostics.transferability and distributed.is_first():
            samples = len(run.plan.splits.train.indices)
            self._found["transferability"] = {
                "split": "train",
                "samples": samples,
                **source_scores(run, backbone),
            }

    def of(self, model: TransferModel) -> dict[str, Any]:
        """What there is to say of `model`, which holds the selected epoch's tensors; nothing but on the first rank."""
        run, plan, wanted = self._run, self._run.plan, self._run.settings.diagnostics
        if not distributed.is_first():
            return {}
        found = dict(self._found)
        if wanted.drift:
            found["drift"] = _drift(plan, model, self._start)
        if wanted.cka or wanted.feature_distance:
            rows = _validation_rows(plan)
            about = {"split": "val", "samples": len(rows)}
            tuned, source = _seen(run, model, rows), _seen_by_source(run, rows)
            if wanted.cka:
                found["cka"] = {**about, "groups": _cka(plan, source, tuned)}
            if wanted.feature_distance:
                found["feature_distance"] = {**about, **_distances(source.features, tuned.features)}
        return found


def _starting_point(plan: Plan, model: TransferModel) -> dict[str, torch.Tensor]:
    """The values of all parameters that any phase trains, on the CPU."""
    if not plan.settings.diagnostics.drift or not distributed.is_first():
        return {}
    trained = frozenset[str]().union(*(phase.trainable for phase in plan.phases))
    parameters = model.named_parameters()
    return {name: value.detach().to("cpu", copy=True) for name, value in parameters if name in trained}


def _drift(plan: Plan, model: TransferModel, start: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Of each layer group, of the whole backbone and of the head. What no phase trains is where it was.

    The contract of every fit holds the frozen parameters to their bits, so those that start does not know count with
    their present values.
    """
    tuned = {name: value.detach() for name, value in model.named_parameters()}
    source = {**tuned, **start}

    def measured(names: Iterable[str]) -> dict[str, float | None]:
        found = dataclasses.asdict(drift(source, tuned, names))
        return {name: value if np.isfinite(value) else None for name, value in found.items()}

    return {
        "groups": [
            {"index": group.index, "name": group.name, **measured(group.parameters)} for group in plan.network.groups
        ],
        "backbone": measured(plan.network.backbone),
        "head": measured(plan.network.head),
    }


def _cka(plan: Plan, source: Activations, tuned: Activations) -> list[dict[str, Any]]:
    """Linear CKA of each layer group's output, pooled over positions; None where the group's output is no tensor."""
    values = [
        None if one is None or other is None else linear_cka(one, other)
        for one, other in zip(source.groups, tuned.groups, strict=True)
    ]
    groups = zip(plan.network.groups, values, strict=True)
    return [
        {"index": group.index, "name": group.name, "cka": None if value is None or value != value else value}
        for group, value in groups
    ]


def _distances(source: torch.Tensor, tuned: torch.Tensor) -> dict[str, Any]:
    """How far the channels of the pooled features went: a summary, and the channels that went farthest."""
    distance = feature_distance(source, tuned)
    scale = float(source.double().square().mean(dim=0).sum().sqrt())
    values, channels = distance.topk(min(_MOST_CHANNELS, len(distance)))
    total = float(distance.square().sum().sqrt())
    return {
        "channels": len(distance),
        "total": total,
        "relative": total / scale if scale else None,
        "mean": float(distance.mean()),
        "median": float(distance.median()),
        "max": float(distance.max()),
        "top": [
            {"channel": channel, "distance": value}
            for channel, value in zip(channels.tolist(), values.tolist(), strict=True)
        ],
    }


def _validation_rows(plan: Plan) -> Rows:
    """At most `samples` rows of the validation split, the same ones for every strategy."""
    if plan.splits.val is None:
        raise TypeError("the plan has no validation split")
    settings, rows = plan.settings, plan.splits.val.indices
    return np.sort(rows[permutation(len(rows), "diagnostics", settings.data_seed)[: settings.diagnostics.samples]])


def _seen(run: RunContext, model: TransferModel, rows: Rows) -> Activations:
    groups = run.plan.network.groups if run.settings.diagnostics.cka else ()
    return activations(model, groups, decoded_images(run), rows, run.settings.trainer.eval_batch_size, run.device)


def _seen_by_source(run: RunContext, rows: Rows) -> Activations:
    """The activations of the model before any tuning; runs that start alike share them.

    An adapter may change the network from the start, as visual prompts do, and by the seed.
    """
    plan, settings = run.plan, run.settings
    adapter = None if settings.adapter is None else (repr(settings.adapter), settings.seed)
    key = (source_key(plan), adapter, repr(settings.diagnostics), repr(plan.network.groups), rows.tobytes())
    return run.session.once("source activations", key, lambda: _seen(run, build_model(run), rows))
