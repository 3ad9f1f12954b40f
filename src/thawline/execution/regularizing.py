"""The regularizers of a run: what they are attached to in each phase."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from numpy.typing import NDArray
from torch import nn

from thawline.execution.arithmetic import weights_dtype
from thawline.execution.decoding import decoded_images
from thawline.execution.source_scores import source_key
from thawline.execution.weights import backbone_of
from thawline.layer_groups import LayerGroup
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.planning.stored_phases import forward_regularizers
from thawline.regularizers import Context, Teacher
from thawline.regularizers.observation import Observer
from thawline.store.decoded_images import DecodedImages
from thawline.training.penalties import Penalties, Penalty

if TYPE_CHECKING:
    from thawline.backbones import Backbone, BackboneSpec
    from thawline.datasets import Split


class Regularizing:
    """Attaches a run's regularizers to its model, phase by phase.

    Args:
        run: its plan and session.
        model: the run's model, before anything trains.
        backbone: the source network: its normalisation and its classifier.
    """

    def __init__(self, run: RunContext, model: TransferModel, backbone: Backbone) -> None:
        self._run, self._model, self._backbone = run, model, backbone
        needed = any("source" in regularizer.needs for regularizer in run.settings.regularizer.values())
        self._source = self._frozen(copy.deepcopy(model.backbone), backbone) if needed else None

    def attach(self, auxiliary: Mapping[str, torch.Tensor]) -> Penalties:
        """The regularizers of the next phase; the model's trainable set is the phase's already.

        `auxiliary` is what regularizers trained themselves in the phase before; where it is empty, they start anew.
        """
        plan, specs = self._run.plan, self._run.settings.regularizer
        if not specs:
            return Penalties()
        device = self._run.device
        student = Observer(self._model.to(device), _groups_inside(plan))
        source = Observer(self._source.to(device), student.groups) if self._source is not None else None
        others = [source] if source is not None else []
        attached: dict[str, Penalty] = {}
        try:
            for name, spec in specs.items():
                context = self._context(name, student, source, others)
                attached[name] = Penalty(spec.weight, spec.attach(context))
        except BaseException:
            Penalties(attached, student, others).close()
            raise
        watched = bool(forward_regularizers(plan))
        if not watched:
            student.close()
        penalties = Penalties(attached, student if watched else None, others)
        if auxiliary:
            penalties.auxiliary.load_state_dict(auxiliary)
        return penalties

    def _context(self, name: str, student: Observer, source: Observer | None, others: list[Observer]) -> Context:
        run, plan = self._run, self._run.plan
        settings, splits, device = plan.settings, plan.splits, run.device
        decoded = decoded_images(run)
        read = {name: split for name, split in splits.opened.items() if name != "test"}
        digests = tuple(split.sha256 for split in read.values())
        key = (plan.model_key, source_key(plan), digests)

        def build(teacher: Teacher) -> Observer:
            built = backbone_of(run, cast("BackboneSpec", teacher), f"regularizer.{name}.teacher")
            others.append(Observer(self._frozen(built.module, built).to(device), built.groups))
            return others[-1]

        def remember(what: str, make: Callable[[], Any]) -> Any:
            return run.session.once("regularizer", (what, key), make)

        return Context(
            name=name,
            model=self._model,
            network=plan.network,
            classes=len(splits.classes),
            observer=student,
            source=source,
            source_classifier=self._backbone.source_classifier,
            samples=lambda split: _SplitSamples(read[split], decoded, device),
            build=build,
            remember=remember,
            seed=settings.seed,
            data_seed=settings.data_seed,
            device=device,
            dtype=weights_dtype(settings.trainer),
        )

    def _frozen(self, module: nn.Module, backbone: Backbone) -> TransferModel:
        """Images -> features (B, D), in eval mode, in the type that the fit's model will have."""
        model = TransferModel(module, nn.Identity(), backbone.mean, backbone.std)
        model.set_trainable(())
        return model.eval().to(weights_dtype(self._run.settings.trainer))


@dataclass(frozen=True)
class _SplitSamples:
    """A split's images as they are decoded, without augmentation."""

    split: Split
    decoded: DecodedImages
    device: torch.device

    @property
    def labels(self) -> NDArray[Any]:
        """The labels (N,)."""
        labels: NDArray[Any] = self.split.images.targets[self.split.indices]
        return labels

    def images(self, positions: Sequence[int] | NDArray[Any]) -> torch.Tensor:
        """The uint8 images at these positions of the split."""
        return self.decoded.read(self.split.indices[positions]).to(self.device)


def _groups_inside(plan: Plan) -> tuple[LayerGroup, ...]:
    """The layer groups with parameter names as the backbone itself has them."""
    return tuple(
        LayerGroup(group.index, group.name, tuple(name.removeprefix("backbone.") for name in group.parameters))
        for group in plan.network.groups
    )
