"""The images of a bootstrap: how often each one is in each resample."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000


@functools.lru_cache(maxsize=4)
def image_weights(images: int, resamples: int = RESAMPLES) -> NDArray[np.float32]:
    """How often each of `images` images is in each resample, (resamples, images), rows summing to `images`.

    They depend on the two numbers alone: all models that are tested on the same images see the same resamples, so
    their metrics are paired.
    """
    drawn = generator("images", images, resamples).integers(0, images, size=(resamples, images))
    places = drawn + np.arange(resamples)[:, None] * images
    counts = np.bincount(places.ravel(), minlength=resamples * images).reshape(resamples, images)
    return counts.astype(np.float32)
