"""Heads of semantic segmentation: feature maps -> logits (B, C, H, W) at the input's size.

They read maps of one stride or of several. A backbone with a single map, such as a plain vision transformer, serves all
of them: see `thawline.heads.pyramid.Maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import AfterValidator, Field

from thawline.errors import usage_error
from thawline.network import Features, SourceClassifier
from thawline.randomness import seeded
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn

_TASKS = frozenset({"semantic_segmentation"})


def _ascending(strides: tuple[int, ...]) -> tuple[int, ...]:
    if not strides or list(strides) != sorted(set(strides)) or strides[0] < 1:
        raise ValueError("strides are whole numbers above 0, in ascending order, each once")
    return strides


Strides = Annotated[tuple[int, ...], AfterValidator(_ascending)]


@final
class SegmentationLinear(Spec):
    """A 1x1 convolution on one map: what the features alone can tell.

    Attributes:
        strides: The stride of the map that is read; of several the deepest.
        normalization: Before the convolution: batch, as in the linear evaluation of Oquab et al. 2024, or none.
    """

    TASKS: ClassVar[frozenset[str] | None] = _TASKS

    strides: Strides = (32,)
    normalization: Literal["none", "batch"] = "none"

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Maps -> logits (B, len(classes), H, W)."""
        from torch import nn

        def decoder(channels: int) -> nn.Module:
            convolution = nn.Conv2d(channels, len(classes), kernel_size=1)
            return (
                nn.Sequential(nn.BatchNorm2d(channels), convolution) if self.normalization == "batch" else convolution
            )

        return _on_deepest(features, self.strides, seed, decoder)


@final
class FCN(Spec):
    """A 3x3 convolution, then a 1x1 (Long et al. 2015), as torchvision's `FCNHead`: with batch norm and dropout of 0.1.

    Attributes:
        strides: The stride of the map that is read; of several the deepest.
    """

    TASKS: ClassVar[frozenset[str] | None] = _TASKS

    strides: Strides = (32,)

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Maps -> logits (B, len(classes), H, W)."""
        from torchvision.models.segmentation.fcn import FCNHead

        return _on_deepest(features, self.strides, seed, lambda channels: FCNHead(channels, len(classes)))


@final
class DeepLab(Spec):
    """Atrous spatial pyramid pooling (Chen et al. 2017), as torchvision's `DeepLabHead`: batch norm, dropout of 0.5.

    Its pooling branch has batch norm over one value an image, so a batch of a single image cannot be trained.

    Attributes:
        strides: The stride of the map that is read; of several the deepest.
        rates: The dilations of its 3x3 convolutions; smaller ones fit the small maps of small images.
    """

    TASKS: ClassVar[frozenset[str] | None] = _TASKS

    strides: Strides = (32,)
    rates: tuple[int, ...] = (12, 24, 36)

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Maps -> logits (B, len(classes), H, W)."""
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        return _on_deepest(
            features, self.strides, seed, lambda channels: DeepLabHead(channels, len(classes), self.rates)
        )


@final
class FPN(Spec):
    """A feature pyramid whose levels are summed at the finest map (Lin et al. 2017; Kirillov et al. 2019).

    Attributes:
        strides: Of the maps that are read; logits are computed at the first one's.
        width: Channels of every level.
        normalization: After each 3x3 convolution. group counts every image by itself, batch depends on how large the
            batches of each device are.
        dropout: On whole channels before the last convolution, 0..1.
    """

    TASKS: ClassVar[frozenset[str] | None] = _TASKS

    strides: Strides = (4, 8, 16, 32)
    width: int = Field(default=64, ge=8, multiple_of=8)
    normalization: Literal["none", "batch", "group"] = "group"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Maps -> logits (B, len(classes), H, W)."""
        from thawline.heads.pyramid import Maps
        from thawline.heads.segmentation_modules import Decoded, FeaturePyramid

        with seeded("head", seed):
            maps = Maps(features, self.strides)
            decoder = FeaturePyramid(
                list(maps.channels.values()),
                len(classes),
                width=self.width,
                normalization=self.normalization,
                dropout=self.dropout,
            )
        return Decoded(maps, decoder, features.size)


@final
class SmpDecoder(Spec):
    """A decoder of segmentation_models_pytorch, on the maps of any backbone; it needs ``thawline[segmentation]``.

    Attributes:
        decoder: unet (Ronneberger et al. 2015), upernet (Xiao et al. 2018) or segformer (Xie et al. 2021).
        strides: Of the maps that are read; these decoders read 4, 8, 16 and 32.
        width: Channels of upernet and segformer; unet halves it at every step up, from twice as many.
    """

    TASKS: ClassVar[frozenset[str] | None] = _TASKS

    decoder: Literal["unet", "upernet", "segformer"] = "unet"
    strides: tuple[Literal[4], Literal[8], Literal[16], Literal[32]] = (4, 8, 16, 32)
    width: int = Field(default=128, ge=16, multiple_of=16)

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Maps -> logits (B, len(classes), H, W)."""
        from thawline.heads.pyramid import Maps
        from thawline.heads.segmentation_modules import Decoded, OfPyramidDecoder

        with seeded("head", seed):
            maps = Maps(features, self.strides)
            module, width = self._decoder([3, 0, *maps.channels.values()])
            decoder = OfPyramidDecoder(module, width, len(classes), features.size)
        return Decoded(maps, decoder, features.size)

    def _decoder(self, channels: Sequence[int]) -> tuple[nn.Module, int]:
        """The decoder, and how many channels it gives; `channels` are those at strides 1, 2, 4, 8, 16 and 32."""
        try:
            from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
            from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
            from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
        except ImportError as error:
            raise usage_error(
                "head", f"smp_decoder needs more: pip install 'thawline[segmentation]' ({error})"
            ) from error
        if self.decoder == "upernet":
            return UPerNetDecoder(channels, decoder_channels=self.width), self.width
        if self.decoder == "segformer":
            return SegformerDecoder(channels, segmentation_channels=self.width), self.width
        widths = [2 * self.width // 2**step for step in range(5)]
        return UnetDecoder(channels, widths), widths[-1]


def _on_deepest(
    features: Features, strides: Sequence[int], seed: int, decoder: Callable[[int], nn.Module]
) -> nn.Module:
    """A head that reads one map, from what makes its module of the map's channels."""
    from thawline.heads.pyramid import Maps
    from thawline.heads.segmentation_modules import Decoded, OnDeepest

    with seeded("head", seed):
        maps = Maps(features, strides[-1:])
        module = OnDeepest(decoder(maps.channels[max(maps.channels)]))
    return Decoded(maps, module, features.size)
