"""The public data sets that torchvision knows how to fetch and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING, Any, ClassVar
from zipfile import BadZipFile

import numpy as np
from pydantic import Field, field_validator, model_validator

from thawline.datasets.base import Folder, ImageDataset
from thawline.datasets.ignored import HIDDEN, is_system
from thawline.datasets.images import ArrayImages, FileImages
from thawline.datasets.splits import Collection, Part
from thawline.datasets.unpacking import inside_its_folder
from thawline.errors import UsageError, nearest, usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.datasets.splits import InspectableImages

_DIGITS = tuple("0123456789")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@dataclass(frozen=True)
class _Known:
    """How one torchvision class names its parts, and where it keeps what it read.

    Attributes:
        marker: A path below the root that exists once the set has been fetched.
        parts: The constructor's arguments for each part that the authors define.
        pixels: From an instance to uint8 pixels (N, H, W) or (N, H, W, 3); None for sets that are files.
        files: From an instance to its image files; None for sets that are arrays.
        labels: From an instance to its N labels.
        classes: From an instance to the class names.
        options: Further constructor arguments that a user may give.
    """

    marker: str
    parts: Mapping[Part, Mapping[str, Any]]
    pixels: Callable[[Any], NDArray[np.uint8]] | None = None
    files: Callable[[Any], list[Any]] | None = None
    labels: Callable[[Any], Any] = field(default=lambda part: part._labels)
    classes: Callable[[Any], Any] = field(default=lambda part: part.classes)
    options: tuple[str, ...] = ()


_BY_FLAG: Mapping[Part, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_TWO: Mapping[Part, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE: Mapping[Part, Mapping[str, Any]] = {**_TWO, "val": {"split": "val"}}
_PETS: Mapping[Part, Mapping[str, Any]] = {"train": {"split": "trainval"}, "test": {"split": "test"}}
_UNDIVIDED: Mapping[Part, Mapping[str, Any]] = {"train": {}}


def _as_stored(part: Any) -> NDArray[np.uint8]:
    return np.asarray(part.data)


def _channels_last(part: Any) -> NDArray[np.uint8]:
    return np.asarray(part.data).transpose(0, 2, 3, 1)


def _targets(part: Any) -> Any:
    return part.targets


def _image_files(part: Any) -> list[Any]:
    return list(part._image_files)


def _caltech_files(part: Any) -> list[str]:
    folder = Path(part.root) / "101_ObjectCategories"
    pairs = zip(part.y, part.index, strict=True)
    return [str(folder / part.categories[label] / f"image_{number:04d}.jpg") for label, number in pairs]


def _flower_names(part: Any) -> Any:
    # torchvision knows the names since 0.22; before, there are numbers only.
    return getattr(part, "classes", None) or [f"flower {number}" for number in range(1, 103)]


_KNOWN: Mapping[str, _Known] = {
    "CIFAR10": _Known("cifar-10-batches-py", _BY_FLAG, pixels=_as_stored, labels=_targets),
    "CIFAR100": _Known("cifar-100-python", _BY_FLAG, pixels=_as_stored, labels=_targets),
    "MNIST": _Known("MNIST", _BY_FLAG, pixels=_as_stored, labels=_targets, classes=lambda _: _DIGITS),
    "FashionMNIST": _Known("FashionMNIST", _BY_FLAG, pixels=_as_stored, labels=_targets),
    "SVHN": _Known(
        "train_32x32.mat", _TWO, pixels=_channels_last, labels=lambda part: part.labels, classes=lambda _: _DIGITS
    ),
    "STL10": _Known(
        "stl10_binary", _TWO, pixels=_channels_last, labels=lambda part: part.labels, classes=lambda _: _STL10
    ),
    "EuroSAT": _Known("eurosat", _UNDIVIDED, files=lambda part: [path for path, _ in part.samples], labels=_targets),
    "Flowers102": _Known("flowers-102", _THREE, files=_image_files, classes=_flower_names),
    "OxfordIIITPet": _Known("oxford-iiit-pet", _PETS, files=lambda part: list(part._images)),
    "DTD": _Known("dtd", _THREE, files=_image_files, options=("partition",)),
    "FGVCAircraft": _Known("fgvc-aircraft-2013b", _THREE, files=_image_files, options=("annotation_level",)),
    "Food101": _Known("food-101", _TWO, files=_image_files),
    "Caltech101": _Known(
        "caltech101",
        _UNDIVIDED,
        files=_caltech_files,
        labels=lambda part: part.y,
        classes=lambda part: part.categories,
    ),
}


def _renumbered(labels: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes without the classes that are called like a system's folder."""
    kept = [index for index, name in enumerate(classes) if not is_system(name)]
    return np.searchsorted(kept, labels).astype(np.int64), tuple(classes[index] for index in kept)


class TorchvisionDataset(ImageDataset):
    """A data set of torchvision with its authors' own parts.

    CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN, STL10, OxfordIIITPet and Food101 have train and test (val is cut);
    Flowers102, DTD and FGVCAircraft have all three; EuroSAT and Caltech101 are not divided (test and val are cut).

    Attributes:
        name: The torchvision class.
        root: The folder that holds the set, or receives it.
        download: Download the data if it is missing.
        arguments: DTD: ``partition`` 1 to 10; FGVCAircraft: ``annotation_level`` variant, family or manufacturer.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root", "download"})

    name: str
    root: Folder = Path("data")
    download: bool = False
    arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        if name not in _KNOWN:
            raise ValueError(f"unknown data set{nearest(name, _KNOWN)}; known: {', '.join(_KNOWN)}")
        return name

    @model_validator(mode="after")
    def _known_arguments(self) -> TorchvisionDataset:
        options = _KNOWN[self.name].options
        for argument in self.arguments:
            if argument not in options:
                raise ValueError(f"{self.name} takes no argument {argument!r}; it takes {', '.join(options) or 'none'}")
        return self

    def check(self) -> None:
        """Whether the set has been fetched, or may be."""
        if not self.download and not (self.root / _KNOWN[self.name].marker).exists():
            raise absent(f"{self.root} does not hold {self.name}")

    def collect(self) -> Collection:
        """The images of all parts."""
        known = _KNOWN[self.name]
        arguments = {part: {**given, **self.arguments} for part, given in known.parts.items()}
        instances = fetched(self.name, self.root, self.download, arguments)
        parts = [part for part, instance in instances.items() for _ in range(len(instance))]
        labels = np.concatenate([np.asarray(known.labels(item), dtype=np.int64) for item in instances.values()])
        classes = tuple(str(name) for name in known.classes(next(iter(instances.values()))))
        images: InspectableImages
        left_out: dict[str, int] = {}
        if known.pixels:
            pixels = np.concatenate([known.pixels(instance) for instance in instances.values()])
            keys = [f"{part}/{index:06d}" for part, item in instances.items() for index in range(len(item))]
            images = ArrayImages(pixels, labels, keys)
        else:
            files = [file for instance in instances.values() for file in (known.files or _image_files)(instance)]
            paths = [Path(file).relative_to(self.root) for file in files]
            # torchvision takes every folder for a class, and every name with the right ending for an image.
            kept = [index for index, path in enumerate(paths) if not any(map(is_system, path.parts))]
            parts = [parts[index] for index in kept]
            labels, classes = _renumbered(labels[kept], classes)
            images = FileImages(self.root, [paths[index].as_posix() for index in kept], labels)
            if len(kept) < len(paths):
                left_out[HIDDEN] = len(paths) - len(kept)
        return Collection(images, classes, tuple(parts), left_out=left_out)


def fetched(name: str, root: Path, download: bool, parts: Mapping[Part, Mapping[str, Any]]) -> dict[Part, Any]:
    """An instance of a class of torchvision for each part, from its arguments; fetched where that is wanted.

    Raises:
        UsageError: it cannot be fetched, or cannot be read.
    """
    from filelock import FileLock
    from torchvision import datasets

    found = getattr(datasets, name)
    if not download:
        return _read(found, name, root, download, parts)
    root.mkdir(parents=True, exist_ok=True)
    # Two runs that start at once must not unpack into the same folder.
    with FileLock(root / f".{name}.lock"), inside_its_folder():
        return _read(found, name, root, download, parts)


def absent(what: str) -> UsageError:
    """That a set is not there, with the remedy."""
    return usage_error(
        "dataset.root",
        f"{what}; give its folder by dataset.root=FOLDER or let torchvision fetch it by dataset.download=true",
    )


def _read(
    found: Callable[..., Any], name: str, root: Path, download: bool, parts: Mapping[Part, Mapping[str, Any]]
) -> dict[Part, Any]:
    try:
        return {part: found(root=str(root), download=download, **given) for part, given in parts.items()}
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, TarError, BadZipFile) as error:
        reason = " ".join(str(error).split())
        if download:
            message = f"{name} could not be fetched into {root}: {reason}"
            raise usage_error("dataset.download", message) from None
        raise absent(f"{name} in {root} cannot be read ({reason})") from None
