"""The weights that a run starts from, and the whole model that it ends with."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from thawline.adapters import attach
from thawline.errors import usage_error
from thawline.execution.arithmetic import channels_last
from thawline.files import atomic_write
from thawline.heads import strides_of
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan, plan_of_run, teachers, weights_file, weights_identity
from thawline.planning.session import Session
from thawline.planning.settings import RunSettings
from thawline.preprocessing import Preprocessing
from thawline.records import require_record
from thawline.records.names import BEST_FILE, MODEL_FILE
from thawline.tensor_files import is_whole, metadata_of, to_bytes

if TYPE_CHECKING:
    from thawline.backbones import Backbone, BackboneSpec


def ensure_model(run: RunContext) -> Path:
    """The path of ``model.safetensors`` of a finished run, written now where it is not there yet.

    A run keeps only what training updated (`BEST_FILE`): in a sweep over depths, most of the network is the same source
    in every run. The whole model has the names of the plain one, ``backbone.*`` and ``head.*``: an adapter is folded
    into its weights. A model file that is damaged, or does not say what its head is, is written again.

    Raises:
        UsageError: what the run kept is damaged, or its adapter cannot be folded into the weights.
    """
    plan = run.plan
    path, about = plan.folder / MODEL_FILE, about_model(plan)
    if not is_whole(path) or metadata_of(path).get("head") != about.get("head"):
        model = tuned_model(run)
        adapter = plan.settings.adapter
        if adapter is not None and not adapter.merge(model.backbone):
            name = type(adapter).__name__
            raise usage_error("", f"{plan.folder}: this run's adapter ({name}) cannot be folded into plain weights")
        with atomic_write(path) as stream:
            stream.write(to_bytes(model.state_dict(), about))
    return path


def recorded_file(folder: Path, name: str, session: Session) -> Path:
    """A file of a finished run, held against the hash in its record.

    Raises:
        UsageError: there is no valid record, or the file is missing or is not the one that the run wrote.
    """
    path, digest = folder / name, require_record(folder).files.get(name)
    if not path.is_file():
        raise usage_error("", f"{path}: missing, but the record names it")
    if digest != session.hashes.of(path):
        raise usage_error("", f"{path}: damaged: its SHA-256 is not the record's; run it again (remove {folder} first)")
    return path


def about_model(plan: Plan) -> dict[str, str]:
    """What a reader of the model's file has to know: it is enough to go on from the file alone."""
    images, head = require_record(plan.folder).preprocessing or Preprocessing(), plan.settings.head
    # Tensors as few as those of one linear layer would be taken for one.
    is_other = len(plan.network.head) <= len(("weight", "bias")) and not plan.network.has_linear_head
    return {
        **({"head": f"{type(head).__module__}.{type(head).__qualname__}"} if is_other else {}),
        "run": plan.identity,
        "task": plan.settings.task.NAME,
        "backbone": json.dumps(plan.config["backbone"]),
        "classes": json.dumps(plan.splits.classes),
        "preprocessing": images.model_dump_json(),
        "input_size": json.dumps(images.size),
        "mean": json.dumps(images.mean),
        "std": json.dumps(images.std),
    }


def tuned_model(run: RunContext) -> TransferModel:
    """A finished run's model with its weights, an adapter in its place.

    Raises:
        UsageError: what the run kept is damaged.
    """
    model = build_model(run)
    restore(model, recorded_file(run.plan.folder, BEST_FILE, run.session))
    return model


def build_model(run: RunContext) -> TransferModel:
    """The run's model before any tuning."""
    return with_head(run.plan, source_backbone(run))


def source_backbone(run: RunContext) -> Backbone:
    """A fresh copy of the network that the run starts from."""
    settings, source, networks = run.settings, run.plan.source, run.session.networks
    if source is not None:
        file, known = ensure_model(run.with_plan(source)), networks.known_of_weights(settings.backbone, settings)
        strides = strides_of(settings.head)
        return _laid_out(networks.backbone(settings.backbone, settings.seed, file, known, strides), settings)
    return backbone_of(run, settings.backbone, strides=strides_of(settings.head))


def backbone_of(run: RunContext, spec: BackboneSpec, field: str = "backbone", strides: Sequence[int] = ()) -> Backbone:
    """A fresh copy of a backbone with its weights; the whole model of a finished run is put together here.

    With `strides`, it gives its maps at these.
    """
    settings, networks = run.settings, run.session.networks
    file = weights_file(spec, settings, field)
    if file is not None and str(spec.weights).startswith("run:"):
        file = ensure_model(run.with_plan(plan_of_run(file.parent, run.session)))
    known, planned = networks.known_of_weights(spec, settings), _planned_weights(run.plan, spec)

    def check() -> None:
        if planned is not None and weights_identity(spec, settings, run.session, field) != planned:
            raise usage_error(f"{field}.weights", f"{spec.weights}: the file has changed since the run was planned")

    return _laid_out(networks.backbone(spec, settings.seed, file, known, strides, check, str(planned)), settings)


def _planned_weights(plan: Plan, spec: BackboneSpec) -> str | None:
    """What the weights of the run's backbone, or of a regularizer's teacher, were when the run was planned."""
    parts = plan.identity_parts
    found: str | None = parts["weights"]
    if spec is not plan.settings.backbone:
        found = next((parts["teachers"][name][0] for name, of in teachers(plan.settings).items() if of is spec), None)
    return found


def _laid_out(backbone: Backbone, settings: RunSettings) -> Backbone:
    """The same network with its tensors in memory as the run has them."""
    if channels_last(settings, backbone.module):
        backbone.module.to(memory_format=torch.channels_last)
    return backbone


def with_head(plan: Plan, backbone: Backbone) -> TransferModel:
    """The target model: the source network with a new head, nothing trainable yet.

    An adapter is put into a copy of the source network, which itself stays what it was.
    """
    settings, module = plan.settings, backbone.module
    if settings.adapter is not None:
        module = copy.deepcopy(module)
        attach(settings.adapter, module, backbone.groups, backbone.input_size, settings.seed)
    model = TransferModel(module, new_head(plan, backbone), backbone.mean, backbone.std)
    model.set_trainable(())
    return model


def new_head(plan: Plan, backbone: Backbone) -> nn.Module:
    """The run's head as it is initialised."""
    settings = plan.settings
    features = backbone.features(plan.transform.output_size)
    return settings.head.build(features, plan.outputs, backbone.source_classifier, settings.seed)


def restore(model: TransferModel, best_file: Path) -> None:
    """Lay the tensors of `best_file` over the model's."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in load_file(best_file).items():
            state[name].copy_(tensor)
