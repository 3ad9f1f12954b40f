"""Corrupted images as further test sets: noise, blur, contrast, brightness, JPEG and pixels at five strengths.

The strengths are those of ImageNet-C (D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, ICLR 2019, read in the authors' make_imagenet_c.py and make_cifar_c.py). The widths of
blurs are in pixels: the authors' for 32 and for 224 pixels of the shorter side, linear in between, and beyond 224 in
proportion to the side.
The noise of an image is a function of (corruption, strength, index) alone: every run meets the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage
    from torch import Tensor

    Pixels = NDArray[np.float64]
    Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]

_SMALL, _LARGE = 32, 224


def set_name(name: str, strength: int) -> str:
    """What the test set of a corruption and strength is called."""
    return f"{name}-{strength}"


def corruption_of(set_name: str) -> tuple[str, int] | None:
    """Corruption and strength of a test set by its name; None where it is no corrupted one."""
    name, _, strength = set_name.rpartition("-")
    known = name in CORRUPTIONS and strength in map(str, STRENGTHS)
    return (name, int(strength)) if known else None


def corrupt(image: Tensor, name: str, strength: int, index: int) -> Tensor:
    """A corrupted copy of an image: uint8 (3, H, W), as `image`.

    Args:
        image: decoded, uint8 (3, H, W).
        name: one of `CORRUPTIONS`.
        strength: 1 to 5.
        index: the sample's index in its data set; with name and strength it decides the noise.
    """
    import torch

    pixels = image.permute(1, 2, 0).numpy().astype(np.float64) / 255.0
    changed = CORRUPTIONS[name](pixels, strength - 1, generator("corrupt", name, strength, index))
    rounded = np.rint(np.clip(changed, 0.0, 1.0) * 255.0).astype(np.uint8)
    return torch.from_numpy(rounded.transpose(2, 0, 1).copy())


# Each takes pixels (H, W, 3) from 0 to 1, the strength from 0 to 4 and the image's own randomness.


def _gaussian_noise(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    return pixels + random.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[strength], size=pixels.shape)


def _shot_noise(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    photons = (60, 25, 12, 5, 3)[strength]
    counted: Pixels = random.poisson(pixels * photons) / photons
    return counted


def _impulse_noise(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    hit = random.random(pixels.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[strength]
    salt = random.random(pixels.shape) < 0.5
    spoilt: Pixels = np.where(hit, salt.astype(np.float64), pixels)
    return spoilt


def _gaussian_blur(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    from scipy.ndimage import gaussian_filter

    width = _width(pixels, (0.4, 0.6, 0.7, 0.8, 1.0)[strength], (1, 2, 3, 4, 6)[strength])
    blurred: Pixels = gaussian_filter(pixels, sigma=(width, width, 0), mode="nearest")
    return blurred


def _defocus_blur(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    from scipy.signal import fftconvolve

    # The authors' discs for 32 pixels are of one to nine pixels, blurred once more: these have the same variance.
    radius = _width(pixels, (0.6, 0.8, 1.0, 1.1, 1.6)[strength], (3, 4, 6, 8, 10)[strength])
    reach = int(np.ceil(radius))
    offsets = np.arange(-reach, reach + 1)
    # A pixel on the rim counts by how much of it lies inside: the disc grows smoothly with its radius.
    disc = np.clip(radius + 0.5 - np.hypot(offsets[:, None], offsets[None, :]), 0.0, 1.0)
    border = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(pixels, border, mode="reflect")
    blurred: Pixels = fftconvolve(padded, (disc / disc.sum())[:, :, None], mode="valid", axes=(0, 1))
    return blurred


def _contrast(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    flat: Pixels = (pixels - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[strength] + mean
    return flat


def _brightness(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    # In HSV, V is the largest of R, G and B; hue and saturation stay where all three are scaled alike.
    value = pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[strength], 1.0)
    bright: Pixels = np.where(value > 0, pixels * brighter / np.where(value > 0, value, 1.0), brighter)
    return bright


def _jpeg(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    from PIL import Image

    stream = io.BytesIO()
    _pil_image(pixels).save(stream, "JPEG", quality=(25, 18, 15, 10, 7)[strength])
    return np.asarray(Image.open(stream), np.float64) / 255.0


def _pixelate(pixels: Pixels, strength: int, random: np.random.Generator) -> Pixels:
    from PIL.Image import Resampling

    share = (0.6, 0.5, 0.4, 0.3, 0.25)[strength]
    height, width, _ = pixels.shape
    small = _pil_image(pixels).resize((max(1, int(width * share)), max(1, int(height * share))), Resampling.BOX)
    return np.asarray(small.resize((width, height), Resampling.BOX), np.float64) / 255.0


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
"""What can be done to an image, by name."""

STRENGTHS = (1, 2, 3, 4, 5)


def _width(pixels: Pixels, at_small: float, at_large: float) -> float:
    side = min(pixels.shape[:2])
    return float(np.interp(side, (_SMALL, _LARGE), (at_small, at_large)) * max(1.0, side / _LARGE))


def _pil_image(pixels: Pixels) -> PILImage:
    from PIL import Image

    return Image.fromarray(np.rint(pixels * 255.0).astype(np.uint8))
