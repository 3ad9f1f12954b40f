"""From an image to the uint8 tensor that the model takes: a fixed part for every image, and random augmentation.

The fixed part (`decode`) gives an image its size; its result can be stored. Augmentation (`augment`) works on that
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
from thawline.preprocessing import Colour, Preprocessing, Resize
from thawline.randomness import seeded
from thawline.specs import Component, Spec, import_class, validate

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling
    from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""
_Pixels = Annotated[int, Field(ge=1)]
_BLACK = (0, 0, 0)
_MOST_SCALED_PIXELS = 2**24
"""An image that would be larger than this (64 MiB) after scaling and before cropping is scaled inside the crop only."""
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


class Transform(Spec):
    """How an image becomes the model's input.

    A field that is None is the backbone's own: `fitted` fills it in.

    Attributes:
        size: Height and width of the input, or one number for both.
        resize: The size to scale to is the input's divided by crop_pct; then the centre is cut. crop = scale until that
            size is covered; squash = scale both sides to it, which does not keep proportions; border = scale until the
            image fits into it, and add a border. These are timm's crop modes center, squash and border. pad = scale to
            fit into the input, and add a border.
        crop_pct: Share of the scaled image's side that is kept; above 1, a black border is added. Where it is None and
            `resize` is not, all of the image is kept, except by crop, which takes the backbone's.
        interpolation: How pixels are resampled; always with antialiasing.
        fill: The colour of a border, RGB in 0..255; None is the backbone's mean for border, and black for pad.
        augmentation: Classes of torchvision.transforms.v2 with their arguments, applied in this order to uint8 tensors
            (3, H, W) of the fixed size in training, and to nothing else. A ``size`` that is left out is the input's.
            RandomResizedCrop thus works on the image after its fixed resize.
    """

    size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    resize: Resize | None = None
    crop_pct: float | None = Field(None, gt=0, le=1.25)
    interpolation: Interpolation | None = None
    fill: Colour | None = None
    augmentation: tuple[Component, ...] = ()

    @field_validator("augmentation")
    @classmethod
    def _buildable(cls, steps: tuple[Component, ...]) -> tuple[Component, ...]:
        for step in steps:
            _build(step.target, step.arguments, (32, 32))
        return steps

    @property
    def is_random(self) -> bool:
        """Whether a training image looks different from epoch to epoch."""
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

    @property
    def fixed(self) -> dict[str, Any]:
        """What decides the pixels of a decoded image beside its size, as plain values."""
        return {name: getattr(self, name) for name in ("resize", "crop_pct", "interpolation", "fill")}

    def fitted(self, own: Preprocessing) -> Transform:
        """The same transform with the backbone's `own` values in place of every None; tries the augmentation once.

        Raises:
            UsageError: the augmentation does not give an image of the same size and type.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        resize = self.resize or own.resize or "crop"
        keeps_all = self.resize is not None and self.resize != "crop"
        missing = {
            "size": own.size,
            "resize": resize,
            "crop_pct": 1.0 if keeps_all else own.crop_pct,
            "interpolation": own.interpolation,
            "fill": own.fill if resize == "border" or self.resize is None else None,
        }
        values = {name: missing.get(name) if value is None else value for name, value in given.items()}
        complete: Transform = validate(type(self), values, "transform")
        complete._try_augmentation()
        return complete

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """The backbone's `own`, with what this fitted transform decides."""
        return Preprocessing(size=self.output_size, **self.fixed).over(own)

    def decode(self, image: Image, size: Size | None = None) -> Tensor:
        """The image (RGB) at its fixed size: uint8, (3, H, W). The same bits on every machine.

        `size` (H, W) overrides the transform's own. What is not fitted is bicubic, and a crop that keeps all.
        """
        import numpy as np
        import torch

        height, width = self.output_size if size is None else size
        filter_, crop_pct = _pillow_filter(self.interpolation or "bicubic"), self.crop_pct or 1.0
        match self.resize or "crop":
            case "crop":
                resized = _cropped(image, height, width, crop_pct, filter_)
            case "squash":
                resized = _squashed(image, height, width, crop_pct, filter_)
            case "border":
                resized = _bordered(image, height, width, crop_pct, filter_, self.fill or _BLACK)
            case "pad":
                resized = _padded(image, height, width, filter_, self.fill or _BLACK)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()

    def augment(self, image: Tensor, data_seed: int, epoch: int, index: int) -> Tensor:
        """The view of an image in an epoch: uint8, (3, H, W) as `image`.

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
    """Scale to cover the size / crop_pct, then cut the centre; the bits of timm's evaluation transform."""
    cover_height, cover_width = _before_the_cut(height, width, crop_pct)
    if cover_height != cover_width:
        # timm rounds where the input is not square, and torchvision, which it calls for squares, truncates.
        ratio = min(image.height / cover_height, image.width / cover_width)
        scaled = (round(image.width / ratio), round(image.height / ratio))
    elif image.width <= image.height:
        scaled = (cover_width, int(cover_width * image.height / image.width))
    else:
        scaled = (int(cover_height * image.width / image.height), cover_height)
    return _scaled_centre(image, scaled, height, width, filter_, _BLACK)


def _squashed(image: Image, height: int, width: int, crop_pct: float, filter_: Resampling) -> Image:
    """Scale to the size / crop_pct whatever the proportions, then cut the centre."""
    scaled_height, scaled_width = _before_the_cut(height, width, crop_pct)
    return _scaled_centre(image, (scaled_width, scaled_height), height, width, filter_, _BLACK)


def _bordered(
    image: Image, height: int, width: int, crop_pct: float, filter_: Resampling, fill: tuple[int, int, int]
) -> Image:
    """Scale to fit into the size / crop_pct, cut what is more than the size, and add a border where it is less."""
    room_height, room_width = _before_the_cut(height, width, crop_pct)
    ratio = max(image.height / room_height, image.width / room_width)
    scaled = (max(round(image.width / ratio), 1), max(round(image.height / ratio), 1))
    return _scaled_centre(image, scaled, height, width, filter_, fill)


def _scaled_centre(
    image: Image, scaled: Size, height: int, width: int, filter_: Resampling, fill: tuple[int, int, int]
) -> Image:
    """The centre (height, width) of the image scaled to (width, height) `scaled`; what it lacks is `fill`."""
    from PIL import Image as Images

    inner = _centre_of_scaled(image, scaled, min(height, scaled[1]), min(width, scaled[0]), filter_)
    if inner.size == (width, height):
        return inner
    canvas = Images.new("RGB", (width, height), fill)
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas


def _centre_of_scaled(image: Image, scaled: Size, height: int, width: int, filter_: Resampling) -> Image:
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


def _before_the_cut(height: int, width: int, crop_pct: float) -> Size:
    return math.floor(height / crop_pct), math.floor(width / crop_pct)


def _padded(image: Image, height: int, width: int, filter_: Resampling, fill: tuple[int, int, int]) -> Image:
    from PIL import Image as Images

    scale = min(height / image.height, width / image.width)
    inner = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    canvas = Images.new("RGB", (width, height), fill)
    canvas.paste(image.resize(inner, filter_), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
