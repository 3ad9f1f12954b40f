"""What every backbone is: a network without its classifier, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import Field, field_validator

from thawline.backbones.weights import WeightsOrigin, is_path
from thawline.layer_groups import Granularity, LayerGroup
from thawline.network import SourceClassifier
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn

Size = tuple[int, int]
"""Height and width in pixels."""

Triple = tuple[float, float, float]


@dataclass
class Backbone:
    """A source network without its classifier.

    Attributes:
        module: normalised images (B, 3, H, W) -> features (B, feature_dim).
        name: as the library calls it.
        feature_dim: the width of its features, measured.
        input_size: (H, W) in pixels.
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
        interpolation: how the source's images were resized.
        crop_pct: share of the resized side that the source's evaluation kept.
        groups: its layer groups; names of parameters are the module's.
        source_classifier: the linear classifier it was trained with, where the weights have one. In a skeleton its
            tensors have shapes and no values.
        weights: where they come from.
    """

    module: nn.Module
    name: str
    feature_dim: int
    input_size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    groups: tuple[LayerGroup, ...]
    source_classifier: SourceClassifier | None
    weights: WeightsOrigin


@runtime_checkable
class BackboneSpec(Protocol):
    """A backbone in a configuration."""

    weights: str | None

    def check(self) -> None:
        """Raise a `UsageError` where the name or the weights cannot be used; nothing is built."""
        ...

    def local_weights(self) -> Path | None:
        """The file that `weights` names, if it names one."""
        ...

    def skeleton(self) -> Backbone:
        """The backbone on the meta device: shapes and names, no memory, no weights."""
        ...

    def build(self, *, seed: int, weights_file: Path | None = None) -> Backbone:
        """The backbone with its weights; `seed` decides random ones, `weights_file` replaces what `weights` says."""
        ...


class LibraryBackbone(Spec):
    """Fields of the backbones of every library.

    Attributes:
        name: the library's name of the network.
        weights: ``pretrained`` (the library's default), the name of a set of weights, the path of a local file,
            ``run:IDENTITY`` (a model that thawline trained), ``source`` (that of the source stage), or None: random.
        arguments: further keyword arguments of the library's constructor.
        input_size: height and width of the images; None is the network's own.
        mean: of the images' channels, 0..1; None is that of the weights.
        std: of the images' channels, 0..1; None is that of the weights.
        granularity: a layer group is a block, or a whole stage.
    """

    name: str
    weights: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    input_size: int | None = Field(default=None, ge=1)
    mean: Triple | None = None
    std: Triple | None = None
    granularity: Granularity = "block"

    @field_validator("weights")
    @classmethod
    def _none_is_random(cls, weights: str | None) -> str | None:
        return None if weights in ("", "none", "None", "random") else weights

    @field_validator("std")
    @classmethod
    def _divides(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("must be greater than 0")
        return std

    def deciding(self) -> dict[str, Any]:
        """What decides numbers: all but the place of the weights, whose content the run's identity has."""
        return {name: value for name, value in super().deciding().items() if name != "weights"}

    def local_weights(self) -> Path | None:
        """The file that `weights` names, if it names one."""
        return Path(self.weights).expanduser() if self.weights is not None and is_path(self.weights) else None

    @property
    def library_weights(self) -> str | None:
        """The library's set of weights that `weights` names, if it names one."""
        elsewhere = self.weights is None or self.weights == "source" or self.weights.startswith("run:")
        return None if elsewhere or self.local_weights() is not None else self.weights
