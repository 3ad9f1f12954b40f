"""The modules of detection heads: a neck in the backbone's place, and torchvision's models on its maps.

torchvision's detectors resize and normalise images, run a backbone and detect on its maps. Here the maps come from
outside: `BatchOfMaps` goes through the detector where it expects images, and `Neck` stands where it has its backbone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
from torchvision.ops.poolers import LevelMapper

from thawline.heads.pyramid import Maps
from thawline.network import Features

Target = Mapping[str, torch.Tensor]
Targets = Sequence[Target]
Outcome = dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Shape:
    """What a detector asks of one image: its shape (3, H, W)."""

    shape: torch.Size


@dataclass(frozen=True)
class BatchOfMaps:
    """The feature maps of a batch, in the place of its images.

    Attributes:
        maps: (B, C_s, H / s, W / s) for each stride s, ascending.
        size: (H, W) of the images.
    """

    maps: tuple[torch.Tensor, ...]
    size: tuple[int, int]

    @property
    def shape(self) -> torch.Size:
        """(B, 3, H, W), the shape of the images that the maps are of."""
        return torch.Size((len(self.maps[0]), 3, *self.size))

    def __len__(self) -> int:
        return len(self.maps[0])

    def __iter__(self) -> Iterator[Shape]:
        return iter([Shape(self.shape[1:])] * len(self))


class Neck(nn.Module):
    """A feature pyramid network (Lin et al. 2017) on the backbone's maps, in the place of a detector's backbone.

    Args:
        features: what the backbone gives; of a single map a simple pyramid is made first.
        strides: of the maps that are read, ascending.
        width: the channels of every level that it gives.
        extra: what adds coarser levels; None: there are none.

    Attributes:
        strides: of the levels without the extra ones. Those of a simple pyramid are the map's own, doubled or halved.
    """

    def __init__(self, features: Features, strides: Sequence[int], width: int, extra: ExtraFPNBlock | None) -> None:
        super().__init__()
        self.out_channels = width
        self.maps = Maps(features, strides)
        self.strides = _strides(features, strides)
        self.pyramid = FeaturePyramidNetwork(list(self.maps.channels.values()), width, extra)

    def forward(self, images: BatchOfMaps) -> OrderedDict[str, torch.Tensor]:
        """The levels by name, ascending strides: ``"0"``, ``"1"``..., then the extra ones; each (B, width, h, w)."""
        maps = enumerate(self.maps(images.maps))
        levels: OrderedDict[str, torch.Tensor] = self.pyramid(OrderedDict((str(index), one) for index, one in maps))
        return levels


class Sizes(nn.Module):
    """In the place of a detector's transform, which would resize and normalise: only sizes and labels pass.

    Args:
        first_class: the detector's index of the first class: 1 where it keeps 0 for the background.
    """

    def __init__(self, first_class: int) -> None:
        super().__init__()
        self._first_class = first_class

    def forward(
        self, images: BatchOfMaps, targets: Targets | None
    ) -> tuple[ImageList, list[dict[str, torch.Tensor]] | None]:
        """The maps as a detector takes images, and the targets with its own labels."""
        sized = ImageList(images, [images.size] * len(images))
        if targets is None:
            return sized, None
        dtype = _of_boxes(images.maps[0])
        return sized, [
            {**target, "boxes": target["boxes"].to(dtype), "labels": target["labels"] + self._first_class}
            for target in targets
        ]

    def postprocess(
        self, detections: Sequence[Target], image_sizes: Sequence[object], original_sizes: Sequence[object]
    ) -> list[dict[str, torch.Tensor]]:
        """The detections with labels that count from 0; nothing was resized."""
        return [{**found, "labels": found["labels"] - self._first_class} for found in detections]


class Anchors(AnchorGenerator):
    """torchvision's anchors at strides that are known.

    torchvision divides the size of the image by that of a map, rounded down: where a stride does not divide the size,
    the anchors of the last columns would lie beside the cells that speak of them.

    Args:
        sizes: of each level, the sides of its square anchors in pixels.
        ratios: height divided by width, the same for every level.
        strides: of each level.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[float]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self._strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The anchors (A, 4) of all levels, xmin, ymin, xmax, ymax, once for each image."""
        first = feature_maps[0]
        dtype = _of_boxes(first)
        self.set_cell_anchors(dtype, first.device)
        steps = [torch.tensor(stride, device=first.device) for stride in self._strides]
        grids = [list(values.shape[-2:]) for values in feature_maps]
        anchors = torch.cat(self.grid_anchors(grids, [[step, step] for step in steps]))
        return [anchors.to(dtype)] * len(image_list.image_sizes)


class Detector(nn.Module):
    """One of torchvision's detectors as a head on maps.

    Args:
        model: the detector, with a `Neck` for a backbone.
        first_class: its index of the first class.
        size: (H, W) of the images.
    """

    def __init__(self, model: nn.Module, first_class: int, size: tuple[int, int]) -> None:
        super().__init__()
        model.transform = Sizes(first_class)
        self.model = model
        self._size = size

    def forward(self, maps: tuple[torch.Tensor, ...], targets: Targets | None = None) -> Outcome:
        """Losses in training, detections in evaluation.

        Args:
            maps: (B, C_s, H / s, W / s), ascending strides.
            targets: in training, for each image ``boxes`` (n, 4) in input pixels, ``labels`` (n,) from 0, and for
                masks ``masks`` (n, H, W); n may be 0.

        Returns:
            In training the losses by name, scalars. In evaluation for each image ``boxes`` (n, 4) in input pixels,
            ``scores`` (n,) descending, ``labels`` (n,) from 0, and of a head of masks ``masks`` (n, 1, M, M): the
            probabilities inside the box, whatever its size.
        """
        outcome: Outcome = self.model(BatchOfMaps(tuple(maps), self._size), targets if self.training else None)
        return outcome


def _of_boxes(maps: torch.Tensor) -> torch.dtype:
    """Boxes are in float32 or better: in bfloat16 a coordinate beyond 256 pixels is rounded to even ones."""
    return torch.promote_types(maps.dtype, torch.float32)


def _strides(features: Features, strides: Sequence[int]) -> tuple[float, ...]:
    if len(features.channels) > 1:
        return tuple(strides)
    (own,) = features.channels
    return tuple(own / 2 ** round(math.log2(own / wanted)) for wanted in strides) if len(strides) > 1 else (own,)


def region_pooling(strides: Sequence[float], side: int) -> MultiScaleRoIAlign:
    """ROI align (He et al. 2017) from the pyramid's levels, (n, width, side, side), at strides that are known.

    torchvision estimates them from the size of the maps, which fails for images of few pixels. Which level a box is
    taken from is as in the FPN paper: level 4 (stride 16) for 224 pixels, one less for every halving.
    """
    pooling = MultiScaleRoIAlign([str(index) for index in range(len(strides))], side, sampling_ratio=2)
    first = round(math.log2(strides[0]))
    pooling.scales = [1 / stride for stride in strides]
    pooling.map_levels = LevelMapper(first, first + len(strides) - 1)
    return pooling
