"""From a picture to the uint8 tensor that the model takes: a fixed part for every picture, and random augmentation.

The fixed part (`decode`) gives a picture its size; its result can be stored. Augmentation (`augment`) works on that
result and is a function of (data seed, epoch, index) alone, so it is the same bits for any number of workers, batch
size and order. Scaling to floats and normalisation belong to the model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from thawline.errors import usage_error
from thawline.randomness import seeded
from thawline.specs import Component, Spec, import_class, validate

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling
    from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""
_Pixels = Annotated[int, Field(ge=1)]
_MOST_SCALED_PIXELS = 2**24
"""An image that would be larger than this (64 MiB) after scaling and before cropping is scaled inside the crop only."""
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


class Transform(Spec):
    """How a picture becomes the model's input.

    A field that is None is the backbone's own: `fitted` fills it in.

    Attributes:
        size: Height and width of the input, or one number for both.
        resize: crop = scale so that the input's size divided by crop_pct is covered, then cut the centre (what timm
            does at evaluation); squash = scale both sides on their own, which keeps the whole picture and not its
            proportions; pad = scale to fit and fill up with black.
        crop_pct: With resize=crop, the share of the scaled picture's side that is kept.
        interpolation: How pixels are resampled; always with antialiasing.
        augmentation: Classes of torchvision.transforms.v2 with their arguments, applied in this order to uint8 tensors
            (3, H, W) of the fixed size in training, and to nothing else. A ``size`` that is left out is the input's.
            RandomResizedCrop thus works on the picture after its fixed resize.
    """

    size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    resize: Literal["crop", "squash", "pad"] = "crop"
    crop_pct: float | None = Field(None, gt=0, le=1)
    interpolation: Interpolation | None = None
    augmentation: tuple[Component, ...] = ()

    @field_validator("augmentation")
    @classmethod
    def _buildable(cls, steps: tuple[Component, ...]) -> tuple[Component, ...]:
        for step in steps:
            _build(step.target, step.arguments, (32, 32))
        return steps

    @property
    def is_random(self) -> bool:
        """Whether a training picture looks different from epoch to epoch."""
        return bool(self.augmentation)

    @property
    def output_size(self) -> Size:
        """Height and width of what comes out, once the size is known.

        Raises:
            ValueError: the size is still the backbone's to say.
        """
        if self.size is None:
            raise ValueError("the size is not known before `fitted`")
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def fitted(self, input_size: Size, interpolation: str, crop_pct: float) -> Transform:
        """The same transform with the backbone's values in place of every None; tries the augmentation once.

        Raises:
            UsageError: the augmentation does not give an image of the same size and type.
        """
        own = {"size": input_size, "interpolation": interpolation, "crop_pct": crop_pct}
        given = {name: getattr(self, name) for name in type(self).model_fields}
        values = {name: own.get(name) if value is None else value for name, value in given.items()}
        complete: Transform = validate(type(self), values, "transform")
        complete._try_augmentation()
        return complete

    def decode(self, image: Image, size: Size | None = None) -> Tensor:
        """The picture (RGB) at its fixed size: uint8, (3, H, W). The same bits on every machine.

        `size` (H, W) overrides the transform's own. What is not fitted is bicubic and keeps all of a crop.
        """
        import numpy as np
        import torch

        height, width = self.output_size if size is None else size
        filter_ = _pillow_filter(self.interpolation or "bicubic")
        match self.resize:
            case "crop":
                resized = _cropped(image, height, width, self.crop_pct or 1.0, filter_)
            case "squash":
                resized = image.resize((width, height), filter_)
            case "pad":
                resized = _padded(image, height, width, filter_)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()

    def augment(self, image: Tensor, data_seed: int, epoch: int, index: int) -> Tensor:
        """The view of a picture in an epoch: uint8, (3, H, W) as `image`.

        Args:
            image: What `decode` gave: uint8, (3, H, W).
            data_seed: The seed of the data.
            epoch: The epoch, or the number of the stored view.
            index: The sample's index in the full `Images`.
        """
        if not self.augmentation:
            return image
        with seeded("augment", data_seed, epoch, index):
            view: Tensor = image
            for step in self._steps((image.shape[-2], image.shape[-1])):
                view = step(view)
        return view

    @cached_property
    def _built(self) -> dict[Size, list[Callable[[Any], Any]]]:
        return {}

    def _steps(self, size: Size) -> list[Callable[[Any], Any]]:
        if size not in self._built:
            self._built[size] = [_build(step.target, step.arguments, size) for step in self.augmentation]
        return self._built[size]

    def _try_augmentation(self) -> None:
        if not self.augmentation:
            return
        import torch

        blank = torch.zeros((3, *self.output_size), dtype=torch.uint8)
        try:
            view = self.augment(blank, 0, 0, 0)
        except (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError) as error:
            raise usage_error("transform.augmentation", f"does not work on one image: {error}") from None
        got = (view.dtype, tuple(view.shape)) if isinstance(view, torch.Tensor) else type(view).__name__
        if got != (blank.dtype, tuple(blank.shape)):
            expected = f"uint8 {tuple(blank.shape)}"
            raise usage_error("transform.augmentation", f"must keep type and size: {expected} became {got}")


def _build(target: str, arguments: Mapping[str, Any], size: Size) -> Callable[[Any], Any]:
    """An instance of a v2 transform, which may hold others.

    Raises:
        ValueError: the class is not a v2 transform, or it refuses its arguments.
    """
    from torchvision.transforms import v2

    found = import_class(target)
    if not issubclass(found, v2.Transform):
        # The older transforms draw from Python's own generator too, which nothing here seeds.
        raise ValueError(f"{target} is not a transform of torchvision.transforms.v2")
    values = {name: _argument(name, value, size) for name, value in arguments.items()}
    sized = inspect.signature(found).parameters.get("size")
    if sized is not None and sized.default is sized.empty and "size" not in values:
        values["size"] = list(size)
    try:
        transform: Callable[[Any], Any] = found(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{target}: {error}") from None
    return transform


def _argument(name: str, value: Any, size: Size) -> Any:
    from torchvision.transforms import InterpolationMode

    if isinstance(value, Mapping) and "_target_" in value:
        inner = Component.model_validate(dict(value))
        return _build(inner.target, inner.arguments, size)
    if isinstance(value, (list, tuple)):
        return [_argument(name, item, size) for item in value]
    if name == "interpolation" and isinstance(value, str):
        return InterpolationMode(value)
    return value


def _pillow_filter(interpolation: Interpolation) -> Resampling:
    from PIL.Image import Resampling

    return Resampling[interpolation.upper()]


def _cropped(image: Image, height: int, width: int, crop_pct: float, filter_: Resampling) -> Image:
    """Scale to cover the size / crop_pct, then cut the centre; on squares the bits of timm's evaluation transform."""
    cover_height, cover_width = math.floor(height / crop_pct), math.floor(width / crop_pct)
    if image.width * cover_height <= image.height * cover_width:
        scaled = (cover_width, max(int(cover_width * image.height / image.width), height))
    else:
        scaled = (max(int(cover_height * image.width / image.height), width), cover_height)
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    if scaled[0] * scaled[1] <= _MOST_SCALED_PIXELS:
        return image.resize(scaled, filter_).crop((left, top, left + width, top + height))
    # A thin strip or a tiny crop_pct: the same pixels up to rounding, without those that the crop throws away.
    across, down = image.width / scaled[0], image.height / scaled[1]
    box = (
        left * across,
        top * down,
        min((left + width) * across, image.width),
        min((top + height) * down, image.height),
    )
    return image.resize((width, height), filter_, box=box)


def _padded(image: Image, height: int, width: int, filter_: Resampling) -> Image:
    from PIL import Image

    scale = min(height / image.height, width / image.width)
    inner = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(inner, filter_), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
