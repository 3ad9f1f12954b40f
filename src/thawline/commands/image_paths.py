"""The images that a command is given: files, and folders of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from thawline.datasets.ignored import has_ending, is_output, is_system, walked_once
from thawline.datasets.image_files import EXTENSIONS
from thawline.errors import Problem, UsageError, usage_error


@dataclass(frozen=True)
class ImagePath:
    """An image file.

    Attributes:
        path: as it was given, or as it lies below a folder that was given.
        output: the path without an ending that files about it get below a folder; no two images share one.
    """

    path: Path
    output: PurePath


def image_paths(given: Sequence[str]) -> list[ImagePath]:
    """The images at the paths `given`, in their order; those of a folder by name, with all folders below it.

    Raises:
        UsageError: there is no such file or folder, or no image in a folder; all of these are named.
    """
    found: list[tuple[Path, PurePath]] = []
    problems = []
    for name in given:
        path = Path(name)
        below = _images_below(path) if path.is_dir() else []
        if path.is_dir() and not below:
            problems.append(Problem("images", f"{path}: no image lies in this folder"))
        elif not path.is_dir() and not path.is_file():
            problems.append(Problem("images", f"{path}: no such file or folder"))
        found += [(file, file.relative_to(path)) for file in below] or [(path, PurePath(path.name))]
    if problems:
        raise UsageError(problems)
    return list(_with_outputs(found))


def keep_images(images: Iterable[ImagePath], targets: Iterable[tuple[str, Path]]) -> None:
    """Refuse to write over an image: `targets` are the option that asks for a file, and the file.

    Raises:
        UsageError: a target is one of the images.
    """
    known = {os.path.realpath(image.path) for image in images}
    for option, target in targets:
        if os.path.realpath(target) in known:
            raise usage_error(option, f"{target} is one of the images, and would be written over; give another folder")


def _images_below(folder: Path) -> list[Path]:
    """The images at any depth that a data set would find: no thumbnails of systems, and nothing of thawline's own."""
    found = []
    for place, folders, files in walked_once(folder):
        if place != os.fspath(folder) and is_output(place, folders):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not is_system(name))
        found += [Path(place, name) for name in files if has_ending(name, EXTENSIONS)]
    return sorted(path for path in found if path.is_file())


def _with_outputs(found: Sequence[tuple[Path, PurePath]]) -> Iterator[ImagePath]:
    taken: set[PurePath] = set()
    for path, inside in found:
        named = [inside.with_suffix(""), inside]
        output = next((name for name in named if name not in taken), None)
        number = 2
        while output is None or output in taken:
            output = inside.with_name(f"{inside.name}-{number}")
            number += 1
        taken.add(output)
        yield ImagePath(path, output)
