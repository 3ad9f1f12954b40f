"""Feature matching: the model's features follow those of a teacher, of its own or of another architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from pydantic import Field, field_validator, model_validator

from thawline.errors import UsageError, nearest, usage_error
from thawline.network import Network
from thawline.randomness import seeded
from thawline.regularizers.delta import check_layers
from thawline.regularizers.regularizer import Context, Need, Teacher, Term, TrainingStep
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thawline.regularizers.observation import Layer, Layout, Observer


@final
class FeatureMatching(Spec):
    """``sum_l w_l 1/2 ‖T_l - r_l(S_l)‖²`` over pairs l of a layer of the teacher and a layer of the model.

    T_l (B, C, h, w) are maps of the teacher, in eval mode and without gradient, S_l those of the model in training
    (the student), on the same images; the norm sums over channels and is averaged over batch and positions, as in the
    authors' code. Romero et al. 2015, "FitNets: Hints for Thin Deep Nets".

    r_l is the identity where both maps have one shape. Elsewhere S_l is resized to T_l's height and width (averaged
    down, or interpolated up) and mapped by a convolution without bias (`kernel_size`, C_S -> C_T channels), a batch
    norm and, unless `relu` is false, a ReLU; these train along. Without ReLU the student can follow maps with negative
    values. Tokens (B, N, D) of a transformer are a map of D channels without its class token, or all of them where both
    sides have one shape.

    `teacher`: another backbone (the options of ``conf/backbone``), or null for the run's own source. It sees the images
    at the student's size, normalised as its own weights want.

    `layers`: ``resolution`` - the last layer groups of each resolution that both have; ``name`` - the layer groups
    with the same name; or pairs ``{student's layer: teacher's layer}``, each a layer group or a module. `layer_weights`
    gives w_l by the student's layer; 1 where it says nothing.
    """

    weight: Weight
    teacher: Teacher | None = None
    layers: Literal["resolution", "name"] | dict[str, str] = "resolution"
    layer_weights: dict[str, float] = Field(default_factory=dict)
    kernel_size: int = Field(default=1, ge=1)
    relu: bool = True

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("must be odd, so that the map keeps its size")
        return size

    @field_validator("layer_weights")
    @classmethod
    def _not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not weight >= 0.0:
                raise ValueError(f"the weight of {name!r} must be 0 or more")
        return weights

    @model_validator(mode="after")
    def _weights_of_pairs(self) -> FeatureMatching:
        if isinstance(self.layers, dict):
            if not self.layers:
                raise ValueError("layers names no pair")
            for name in self.layer_weights:
                if name not in self.layers:
                    raise ValueError(f"layer_weights names {name!r}, which is in no pair{nearest(name, self.layers)}")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The model's maps, and the source's where it is the teacher."""
        return frozenset({"forward", "source"} if self.teacher is None else {"forward"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """The teacher can be built, and named layers exist."""
        if self.teacher is not None:
            _check_teacher(self.teacher, f"{field}.teacher")
        if isinstance(self.layers, dict):
            check_layers(f"{field}.layers", tuple(self.layers), backbone, network)

    def attach(self, context: Context) -> Term:
        """The term of a phase."""
        import torch
        from torch import nn

        field = f"regularizer.{context.name}"
        teacher = context.origin if self.teacher is None else context.build(self.teacher)
        example = context.samples("train").images([0, 0])
        pairs = self._pairs(context.observer, teacher, example, field)
        weights = [self.layer_weights.get(pair.student.name, 1.0) for pair in pairs]
        with seeded("regularizer", context.name, context.seed):
            adapters = nn.ModuleList(pair.adapter(self.kernel_size, relu=self.relu) for pair in pairs)
        adapters.to(context.device)
        for pair in pairs:
            context.observer.watch(pair.student.path)
            teacher.watch(pair.teacher.path)

        def value(step: TrainingStep) -> Tensor:
            teacher.look(step.seen)
            total = torch.zeros((), device=step.seen.device)
            for pair, weight, adapter in zip(pairs, weights, adapters, strict=True):
                ours = context.observer.activations[pair.student.path]
                total = total + weight * pair.distance(ours, teacher.activations[pair.teacher.path], adapter)
            return total

        report = [
            {"student": p.student.name, "teacher": p.teacher.name, "weight": w, "adapter": not p.same_shape}
            for p, w in zip(pairs, weights, strict=True)
        ]
        trains = not all(pair.same_shape for pair in pairs)
        return Term(value, auxiliary=adapters if trains else None, report={"pairs": report})

    def _pairs(self, observer: Observer, teacher: Observer, example: Tensor, field: str) -> list[_Pair]:
        """The layers that are matched, from input to output."""
        from thawline.regularizers.observation import chosen_layers, image_size, layout_of

        size = image_size(example)
        if isinstance(self.layers, dict):
            ours = chosen_layers(observer, tuple(self.layers), example, f"{field}.layers")
            theirs = chosen_layers(teacher, tuple(self.layers.values()), example, f"{field}.layers")
            by_name = {layer.name: layer for layer in theirs}
            matched = [(layer, by_name[self.layers[layer.name]]) for layer in ours]
        else:
            kind: Literal["stages", "groups"] = "stages" if self.layers == "resolution" else "groups"
            matched = _matched(observer, teacher, kind, example)
        if not matched:
            raise usage_error(f"{field}.layers", f"student and teacher have no {self.layers} in common; name the pairs")
        for name in self.layer_weights:
            if name not in (student.name for student, _ in matched):
                names = [student.name for student, _ in matched]
                raise usage_error(f"{field}.layer_weights", f"{name!r} is not matched; matched: {', '.join(names)}")
        return [
            _Pair(student, taught, layout_of(student.shape, size), layout_of(taught.shape, size))
            for student, taught in matched
        ]


def _check_teacher(teacher: Teacher, field: str) -> None:
    """Raise the teacher's own `UsageError` under the field that the configuration has it in."""
    try:
        teacher.check()
    except UsageError as error:
        raise error.of(field, "backbone") from None


def _matched(
    observer: Observer, teacher: Observer, kind: Literal["stages", "groups"], example: Tensor
) -> list[tuple[Layer, Layer]]:
    """Layers of both with the same resolution (`stages`) or the same name (`groups`)."""
    from thawline.regularizers.observation import chosen_layers, image_size, layout_of

    def key(layer: Layer) -> Any:
        return layer.name if kind == "groups" else layout_of(layer.shape, image_size(example)).size

    ours, theirs = (
        {key(layer): layer for layer in chosen_layers(one, kind, example, "")} for one in (observer, teacher)
    )
    return [(ours[common], theirs[common]) for common in ours if common in theirs]


@dataclass(frozen=True)
class _Pair:
    """A layer of the student and the teacher's layer that it follows."""

    student: Layer
    teacher: Layer
    student_layout: Layout
    teacher_layout: Layout

    @property
    def same_shape(self) -> bool:
        return self.student.shape == self.teacher.shape

    def adapter(self, kernel_size: int, *, relu: bool) -> nn.Module:
        """r: the student's map (B, C_S, h, w) -> one of the teacher's shape."""
        from torch import nn

        if self.same_shape:
            return nn.Identity()
        channels = [
            layer.shape[layout.channel_axis - 1]
            for layer, layout in ((self.student, self.student_layout), (self.teacher, self.teacher_layout))
        ]
        convolution = nn.Conv2d(channels[0], channels[1], kernel_size, padding=kernel_size // 2, bias=False)
        layers = [convolution, nn.BatchNorm2d(channels[1]), *([nn.ReLU()] if relu else [])]
        return nn.Sequential(*layers)

    def distance(self, ours: Tensor, theirs: Tensor, adapter: nn.Module) -> Tensor:
        """``1/2 ‖T - r(S)‖²``, averaged over batch and positions."""
        from torch.nn import functional as F

        from thawline.regularizers.observation import as_channels, as_map, wide

        if self.same_shape:
            ours, theirs = as_channels(ours, self.student_layout), as_channels(theirs, self.teacher_layout)
        else:
            ours, theirs = as_map(ours, self.student_layout), as_map(theirs, self.teacher_layout)
            larger = ours.shape[2] >= theirs.shape[2] and ours.shape[3] >= theirs.shape[3]
            if ours.shape[2:] != theirs.shape[2:]:
                size = (theirs.shape[2], theirs.shape[3])
                ours = F.adaptive_avg_pool2d(ours, size) if larger else F.interpolate(ours, size, mode="bilinear")
            ours = adapter(ours)
        return 0.5 * (wide(theirs) - wide(ours)).square().sum(dim=1).mean()
