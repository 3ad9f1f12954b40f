"""What a folder says of its images, where it is laid out like a data set: the truth to hold predictions against."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.datasets.base import DividedDataset
from thawline.datasets.image_folder import ImageFolder
from thawline.datasets.splits import Collection, Dataset, Part
from thawline.errors import usage_error
from thawline.specs import validate

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OF_ONE_CLASS = "class"
"""The kind of target (`thawline.datasets.Splits.target`) that folders can give by their names."""


@dataclass(frozen=True)
class Truth:
    """The n images of a folder whose truth is known.

    Attributes:
        rows: The real path of each image -> its row.
        targets: (n, ...) as of a data set.
        parts: Of each image by the folder's own division; all are ``train`` where it has none.
        contents: Of each image a digest of its pixels.
        complete: Whether the folder's other files are no images of the set.
    """

    rows: Mapping[str, int]
    targets: NDArray[Any]
    parts: Sequence[Part]
    contents: Sequence[str]
    complete: bool

    def __len__(self) -> int:
        return len(self.parts)


def truth_below(
    folder: Path, dataset: Dataset, kind: str, classes: Sequence[str], cache_dir: Path | None = None
) -> Truth:
    """The truth of the images below `folder`.

    Of images with one class it is the name of their folder, or their row in ``splits.csv``
    (`thawline.datasets.image_folder.ImageFolder`); images of other classes than `classes` have none. Of other targets
    the folder is read as the data set itself is.

    Args:
        folder: The folder.
        dataset: That of the run.
        kind: Of its targets (`thawline.datasets.Splits.target`).
        classes: Of the run.
        cache_dir: A folder that may keep the digests of files.

    Raises:
        UsageError: it is not laid out like that, or what it says is wrong.
    """
    if kind == _OF_ONE_CLASS:
        return _of_one_class(folder, classes, cache_dir)
    if not isinstance(dataset, DividedDataset) or "root" not in type(dataset).model_fields:
        raise usage_error("images", f"{folder}: a data set of kind {type(dataset).__name__} cannot be read from it")
    spec: DividedDataset = validate(type(dataset), _settings(dataset, folder, classes), "dataset")
    spec.check()
    pool = spec.pool(cache_dir)
    if pool.classes != tuple(classes):
        raise usage_error("images", f"{folder}: its classes are not the run's: {', '.join(pool.classes)}")
    places = [_real(folder, key) for key in pool.keys]
    return Truth(
        dict(zip(places, range(len(places)), strict=True)), pool.images.targets, pool.parts, pool.contents, True
    )


def _of_one_class(folder: Path, classes: Sequence[str], cache_dir: Path | None) -> Truth:
    spec = ImageFolder(root=folder)
    spec.check()
    collection: Collection = spec.collect()
    number = {name: index for index, name in enumerate(classes)}
    labels = [number.get(collection.classes[label], -1) for label in collection.images.targets]
    chosen = [index for index, label in enumerate(labels) if label >= 0]
    if not chosen:
        raise usage_error("images", f"{folder}: none of its folders or labels is called like a class of the run")
    looks = collection.images.inspect(chosen, cache_dir)
    usable = [(index, look) for index, look in zip(chosen, looks, strict=True) if look.problem is None]
    return Truth(
        {_real(folder, collection.images.key(index)): row for row, (index, _) in enumerate(usable)},
        np.array([labels[index] for index, _ in usable], dtype=np.int64),
        [collection.parts[index] for index, _ in usable],
        [look.pixels for _, look in usable],
        complete=False,
    )


def _settings(dataset: DividedDataset, folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Those of the run's data set, but for the folder, and without a choice among its images."""
    values = {name: getattr(dataset, name) for name in type(dataset).model_fields}
    values |= {"root": folder, "on_unreadable": "skip", "fraction": None, "n_train_val": None}
    if "n_images" in values:
        values["n_images"] = None
    if "classes" in values and values["classes"] is None:
        values["classes"] = list(classes)
    return values


def _real(folder: Path, key: str) -> str:
    return os.path.realpath(folder / key)
