"""Images as Python code has them: paths, PIL images, arrays, tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.commands.image_paths import image_paths
from thawline.datasets import image_files
from thawline.errors import usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True)
class GivenImages:
    """Images without targets; `named` says whether all of them are files."""

    items: Sequence[Any]

    @property
    def named(self) -> bool:
        """Whether every image has a path."""
        return all(isinstance(item, (str, os.PathLike)) for item in self.items)

    @property
    def targets(self) -> NDArray[Any]:
        """None are known: (N, 0)."""
        return np.empty((len(self.items), 0))

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        """The image's path, or its place."""
        item = self.items[index]
        return os.fspath(item) if isinstance(item, (str, os.PathLike)) else str(index)

    def read(self, index: int) -> Image:
        """The image, in RGB and upright.

        Raises:
            UsageError: it cannot be read or is no image.
        """
        item = self.items[index]
        if isinstance(item, (str, os.PathLike)):
            return image_files.read(Path(item), "images")
        try:
            return _image(item)
        except image_files.UnreadableImageError as error:
            raise usage_error("images", f"image {index}: {error}") from None


def given_images(images: Any) -> GivenImages:
    """The images that a caller gave: one, several, or a batch.

    Raises:
        UsageError: there is no image in them, or in a folder.
    """
    if isinstance(images, (str, os.PathLike)) or _is_pillow(images):
        items: list[Any] = [images]
    elif hasattr(images, "permute"):
        items = _of_tensor(images)
    elif isinstance(images, np.ndarray):
        items = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, Iterable):
        items = [item for given in images for item in (_of_tensor(given) if hasattr(given, "permute") else [given])]
    else:
        raise usage_error("images", f"a value of type {type(images).__name__} is no image")
    items = [found for item in items for found in _below(item)]
    if not items:
        raise usage_error("images", "there is none")
    return GivenImages(items)


def _below(item: Any) -> list[Any]:
    """The images in a folder, at any depth; anything else is an image by itself."""
    if isinstance(item, (str, os.PathLike)) and Path(item).is_dir():
        return [image.path for image in image_paths([os.fspath(item)])]
    return [item]


def _of_tensor(tensor: Any) -> list[NDArray[Any]]:
    """The images of a tensor (3, H, W) or (N, 3, H, W), each (H, W, 3)."""
    if tensor.dim() not in (3, 4) or tensor.shape[-3] != 3:
        raise usage_error("images", f"a tensor is (N, 3, H, W) or (3, H, W) (got {tuple(tensor.shape)})")
    batch = tensor if tensor.dim() == 4 else tensor[None]
    return list(batch.detach().cpu().permute(0, 2, 3, 1).numpy())


def _image(item: Any) -> Image:
    from PIL import Image

    if _is_pillow(item):
        return image_files.converted(item)
    array = np.asarray(item)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        shape = "uint8, (H, W) or (H, W, 3)"
        raise image_files.UnreadableImageError(f"an array is {shape} (got {array.dtype}, {array.shape})")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _is_pillow(value: Any) -> bool:
    from PIL.Image import Image

    return isinstance(value, Image)
