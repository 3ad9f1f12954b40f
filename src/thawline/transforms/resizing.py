"""From an image of any size to one of the input's: the four ways that images are scaled, by Pillow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from thawline.preprocessing import Colour, Resize
from thawline.transforms.placement import Size

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
_BLACK = (0, 0, 0)
_MOST_SCALED_PIXELS = 2**24
"""An image that would be larger than this (64 MiB) after scaling and before cropping is scaled inside the crop only."""


def resized(
    image: Image, size: Size, resize: Resize, crop_pct: float, interpolation: Interpolation, fill: Colour | None
) -> Image:
    """The image at `size` (H, W); the arguments are those of `Transform`, and `fill` is black where it is None."""
    from PIL.Image import Resampling

    (height, width), filter_ = size, Resampling[interpolation.upper()]
    match resize:
        case "crop":
            return _cropped(image, height, width, crop_pct, filter_)
        case "squash":
            return _squashed(image, height, width, crop_pct, filter_)
        case "border":
            return _bordered(image, height, width, crop_pct, filter_, fill or _BLACK)
        case "pad":
            return _padded(image, height, width, filter_, fill or _BLACK)


def padded_box(original: Size, size: Size) -> tuple[int, int, int, int]:
    """Where `pad` puts an image of `original` size: top, left, height and width inside `size`, in pixels."""
    (image_height, image_width), (height, width) = original, size
    scale = min(height / image_height, width / image_width)
    inner_height, inner_width = max(round(image_height * scale), 1), max(round(image_width * scale), 1)
    return (height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width


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


def _bordered(image: Image, height: int, width: int, crop_pct: float, filter_: Resampling, fill: Colour) -> Image:
    """Scale to fit into the size / crop_pct, cut what is more than the size, and add a border where it is less."""
    room_height, room_width = _before_the_cut(height, width, crop_pct)
    ratio = max(image.height / room_height, image.width / room_width)
    scaled = (max(round(image.width / ratio), 1), max(round(image.height / ratio), 1))
    return _scaled_centre(image, scaled, height, width, filter_, fill)


def _scaled_centre(image: Image, scaled: Size, height: int, width: int, filter_: Resampling, fill: Colour) -> Image:
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


def _padded(image: Image, height: int, width: int, filter_: Resampling, fill: Colour) -> Image:
    """Scale to fit into the size, and add a border."""
    from PIL import Image as Images

    top, left, inner_height, inner_width = padded_box((image.height, image.width), (height, width))
    canvas = Images.new("RGB", (width, height), fill)
    canvas.paste(image.resize((inner_width, inner_height), filter_), (left, top))
    return canvas
