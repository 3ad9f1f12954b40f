"""What every backbone is: a network without its classifier, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from pydantic import Field, field_validator

from thawline.backbones.weights import is_path
from thawline.layer_groups import Granularity, LayerGroup
from thawline.network import Features, SourceClassifier
from thawline.preprocessing import Preprocessing, Triple
from thawline.records import WeightsRecord
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn

Size = tuple[int, int]
"""Height and width in pixels."""

UNKNOWN = Preprocessing()
"""Nothing is known but what the library says."""


@dataclass
class Backbone:
    """A source network without its classifier.

    Attributes:
        module: normalised images (B, 3, H, W) -> features (B, feature_dim), or a tuple of maps, one for each of
            `channels`.
        name: as the library calls it.
        feature_dim: the width of its features, measured; of maps, the channels of the deepest.
        input_size: (H, W) in pixels that the network is built for.
        preprocessing: how the source's images became its input; every field is known.
        groups: its layer groups; names of parameters are the module's.
        source_classifier: the linear classifier it was trained with, where the weights have one. In a skeleton its
            tensors have shapes and no values.
        weights: where they come from.
        channels: of maps, stride -> channels, ascending; empty where it gives one vector.
    """

    module: nn.Module
    name: str
    feature_dim: int
    input_size: Size
    preprocessing: Preprocessing
    groups: tuple[LayerGroup, ...]
    source_classifier: SourceClassifier | None
    weights: WeightsRecord
    channels: Mapping[int, int] = field(default_factory=dict)

    def features(self, size: Size) -> Features:
        """What a head gets of images of this size."""
        return Features(self.feature_dim, self.channels, size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in 0..1."""
        return self.preprocessing.mean or (0.0, 0.0, 0.0)

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, in 0..1."""
        return self.preprocessing.std or (1.0, 1.0, 1.0)


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

    def skeleton(self, known: Preprocessing = UNKNOWN) -> Backbone:
        """The backbone on the meta device: shapes and names, no memory, no weights.

        `known` is what is known of the images of weights that another run makes or made.
        """
        ...

    def build(self, *, seed: int, weights_file: Path | None = None, known: Preprocessing = UNKNOWN) -> Backbone:
        """The backbone with its weights; `seed` decides random ones, `weights_file` replaces what `weights` says."""
        ...


@runtime_checkable
class FetchesWeights(Protocol):
    """A backbone whose weights may have to be fetched when it is built."""

    def require_weights(self) -> None:
        """Raise a `UsageError` where they are neither on this machine nor within reach; nothing is fetched."""
        ...


class LibraryBackbone(Spec):
    """Fields of the backbones of every library.

    Attributes:
        name: the library's name of the network.
        weights: ``pretrained`` (the library's default), the name of a set of weights, the path of a local file,
            ``run:IDENTITY`` (a model that thawline trained), ``source`` (that of the source stage), or None: random.
        prefix: what stands before the network's names in a weights file, e.g. ``student.encoder.``; None finds the
            usual ones.
        arguments: further keyword arguments of the library's constructor.
        input_size: height and width of the images; None is the network's own.
        mean: of the images' channels, 0..1; None is that of the weights.
        std: of the images' channels, 0..1; None is that of the weights.
        granularity: a layer group is a block, or a whole stage.
    """

    name: str
    weights: str | None = None
    prefix: str | None = None
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

    @field_validator("prefix")
    @classmethod
    def _ends_with_a_dot(cls, prefix: str | None) -> str | None:
        return f"{prefix}." if prefix and not prefix.endswith(".") else prefix

    def deciding(self) -> dict[str, Any]:
        """What decides numbers: all but the place of the weights, whose content the run's identity has."""
        return {name: value for name, value in super().deciding().items() if name != "weights"}

    def local_weights(self) -> Path | None:
        """The file that `weights` names, if it names one."""
        return Path(self.weights).expanduser() if self.weights is not None and is_path(self.weights) else None

    def for_images(self, known: Preprocessing) -> Self:
        """The same backbone for images of which this is known, where the configuration itself does not say."""
        values: dict[str, Any] = {"mean": self.mean or known.mean, "std": self.std or known.std}
        size = known.network_size
        if size is not None and size[0] == size[1] and not self.arguments.keys() & {"img_size", "image_size"}:
            values["input_size"] = self.input_size or size[0]
        return self.model_copy(update=values)

    def preprocessing(self, known: Preprocessing, library: Preprocessing) -> Preprocessing:
        """The configuration's, else that of the weights, else the library's for this network."""
        size = None if self.input_size is None else (self.input_size, self.input_size)
        found = Preprocessing(size=size, mean=self.mean, std=self.std, network_size=size).over(known.over(library))
        if found.fill is None and found.mean is not None:
            red, green, blue = (round(255 * value) for value in found.mean)
            found = found.model_copy(update={"fill": (red, green, blue)})
        return found

    @property
    def library_weights(self) -> str | None:
        """The library's set of weights that `weights` names, if it names one."""
        elsewhere = self.weights is None or self.weights == "source" or self.weights.startswith("run:")
        return None if elsewhere or self.local_weights() is not None else self.weights
