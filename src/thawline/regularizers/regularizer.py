"""What a regularizer is: a spec that is attached to the model for one phase and gives one scalar per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from thawline.network import Network, SourceClassifier
from thawline.regularizers.weight import Weight

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from thawline.regularizers.observation import Observer

Need = Literal["source", "forward", "validation"]
"""``source``: an untouched copy of the backbone. ``forward``: what the whole model computes from images; the phase then
cannot run on values stored at the thaw line. ``validation``: the samples of the validation split."""

_Made = TypeVar("_Made")


@runtime_checkable
class Samples(Protocol):
    """One split as it is: images without augmentation."""

    @property
    def labels(self) -> NDArray[Any]:
        """The labels (N,), int64."""
        ...

    def images(self, positions: Sequence[int] | NDArray[Any]) -> torch.Tensor:
        """The uint8 images (len(positions), 3, H, W) at these positions of the split, on the fit's device."""
        ...


@runtime_checkable
class Teacher(Protocol):
    """The spec of another backbone: what ``conf/backbone`` describes."""

    name: str

    def check(self) -> None:
        """Raise `UsageError` where it cannot be built."""
        ...


@dataclass(frozen=True)
class Context:
    """What a regularizer is attached to.

    Attributes:
        name: the regularizer's key in the configuration.
        model: the model in training, with children ``backbone`` and ``head``; its trainable set is the phase's.
        network: the parameters by layer group and kind.
        classes: the number of target classes.
        observer: reads the model in training.
        source: the backbone as the run started, frozen, in eval mode; None unless the regularizer needs it.
        source_classifier: the linear classifier that the source was trained with, if there is one.
        samples: a split by name (``train``, ``val``).
        build: another backbone with its weights, frozen, in eval mode, observed until the phase ends.
        remember: what the function makes, made once for all runs with this key, source, data and transform.
        seed: decides the initial values of what a regularizer trains itself.
        data_seed: decides which samples it looks at.
        device: where the fit runs.
        dtype: that of the model's parameters.
    """

    name: str
    model: nn.Module
    network: Network
    classes: int
    observer: Observer
    source: Observer | None
    source_classifier: SourceClassifier | None
    samples: Callable[[str], Samples]
    build: Callable[[Teacher], Observer]
    remember: Callable[[str, Callable[[], Any]], Any]
    seed: int
    data_seed: int
    device: torch.device
    dtype: torch.dtype

    @property
    def origin(self) -> Observer:
        """The source, for a regularizer that needs it."""
        if self.source is None:
            raise RuntimeError(f"regularizer {self.name} reads the source without saying that it needs it")
        return self.source


@dataclass(frozen=True)
class TrainingStep:
    """One training step, after the forward pass.

    Attributes:
        images: uint8 (B, 3, H, W), as the model saw them; None where the phase runs on stored values.
        labels: (B,) int64.
        batch_size: samples of the whole batch, over all devices.
        whole_batch: rows (B, ...) of this device -> rows of the whole batch, with their gradient.
    """

    images: torch.Tensor | None
    labels: torch.Tensor
    batch_size: int
    whole_batch: Callable[[torch.Tensor], torch.Tensor]

    @property
    def seen(self) -> torch.Tensor:
        """The images, for a regularizer that needs the forward pass."""
        if self.images is None:
            raise RuntimeError("this phase runs on stored values, not on images")
        return self.images


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Term:
    """A regularizer at work in one phase.

    Attributes:
        value: the unweighted scalar of a step, a mean over this device's part of the batch unless its docstring says
            otherwise; None where the regularizer acts in the forward pass and adds nothing to the loss.
        auxiliary: modules that train along with the model (adapters, the kept source head); they are not part of it.
        remove: takes its hooks off the model.
        report: what the record keeps of it.
    """

    value: Callable[[TrainingStep], torch.Tensor] | None = None
    auxiliary: nn.Module | None = None
    remove: Callable[[], None] = _nothing
    report: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Regularizer(Protocol):
    """Pulls on the weights, the features or the outputs while the model trains."""

    @property
    def weight(self) -> Weight | None:
        """How much its term counts; None where it has no term."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """What it needs beside the model's parameters."""
        ...

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """Raise `UsageError` about `field` where it cannot work, before anything is trained.

        Args:
            field: where the configuration has it.
            backbone: the backbone on the meta device.
            network: its parameters by layer group.
            source_classifier: whether the backbone has source weights with a linear classifier.
        """
        ...

    def attach(self, context: Context) -> Term:
        """Begin a phase; the model's trainable set is the phase's already."""
        ...
