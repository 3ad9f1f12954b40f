"""What every backbone is: a network without its classifier, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import Field

from thawline.layer_groups import LayerGroup
from thawline.network import SourceClassifier
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn

Size = tuple[int, int]


@dataclass(frozen=True)
class WeightsOrigin:
    """Where the weights come from: in words, and the SHA-256 of the file or of the state dict (None: random)."""

    description: str
    sha256: str | None


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
        source_classifier: the linear classifier it was trained with, where the weights have one.
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
        mean, std: of the images' channels; None is that of the weights.
        granularity: a layer group is a block, or a whole stage.
    """

    name: str
    weights: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    input_size: int | None = Field(default=None, ge=1)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    granularity: Literal["block", "stage"] = "block"

    def deciding(self) -> dict[str, Any]:
        """What decides numbers: all but the place of the weights, whose content the run's identity has."""
        return {name: value for name, value in super().deciding().items() if name != "weights"}

    def local_weights(self) -> Path | None:
        """The file that `weights` names, if it names one."""
        from thawline.backbones.weights import is_path

        return Path(self.weights).expanduser() if self.weights is not None and is_path(self.weights) else None


def chosen(own: tuple[float, ...] | None, default: Any) -> tuple[float, ...]:
    """The configured value, or the default."""
    return tuple(own) if own is not None else tuple(float(value) for value in default)


def defaults_of(config: Mapping[str, Any]) -> tuple[Any, Any, str, float]:
    """Mean, standard deviation, interpolation and crop share of a timm ``pretrained_cfg``."""
    mean, std = config.get("mean") or (0.485, 0.456, 0.406), config.get("std") or (0.229, 0.224, 0.225)
    return mean, std, config.get("interpolation") or "bilinear", float(config.get("crop_pct") or 0.875)
