"""The files that predictions are written into, image by image: JSON, CSV, drawings and masks."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from thawline.commands.image_paths import ImagePath
from thawline.files import atomic_write, finite
from thawline.reports.escaping import csv_field

if TYPE_CHECKING:
    from PIL.Image import Image

    from thawline.tasks import Shown

Metrics = Mapping[str, Mapping[str, float | int | None]]
"""By part: ``{"images": n, NAME: VALUE, ...}``."""

_LEAST_SIDE, _MOST_SIDE = 480, 1600
"""Of a drawing, its longer side in pixels: small images are enlarged, so that what is written on them can be read."""


class PredictionFile(Protocol):
    """What is written of each image."""

    def add(self, image: ImagePath, pixels: Image, shown: Shown) -> None:
        """Add an image, RGB, and what was predicted of it."""
        ...

    def add_problem(self, image: ImagePath, problem: str) -> None:
        """Add an image that could not be read."""
        ...

    def add_metrics(self, metrics: Metrics) -> None:
        """Add the metrics of the images, by part."""
        ...


class JsonFile:
    """One JSON object: what is common to all images, and a list ``images``.

    Args:
        stream: an open file.
        about: the common part.
    """

    def __init__(self, stream: IO[bytes], about: Mapping[str, Any]) -> None:
        self._stream, self._separator, self._end = stream, b"\n", b"\n]}\n"
        self._stream.write(f"{_json(about)[:-1]},\n".encode(errors="surrogateescape") + b'"images": [')

    def add(self, image: ImagePath, pixels: Image, shown: Shown) -> None:
        """See `PredictionFile`."""
        self._write({"image": str(image.path), **shown.facts()})

    def add_problem(self, image: ImagePath, problem: str) -> None:
        """The problem is an entry like another."""
        self._write({"image": str(image.path), "problem": problem})

    def add_metrics(self, metrics: Metrics) -> None:
        """They follow the images."""
        self._end = b"\n],\n" + f'"metrics": {_json(metrics)}'.encode() + b"}\n"

    def end(self) -> None:
        """Nothing follows."""
        self._stream.write(self._end)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._stream.write(self._separator + _json(entry).encode(errors="surrogateescape"))
        self._separator = b",\n"


class CsvFile:
    """A heading, and the rows of each image with its path in the first column; texts are safe in a spreadsheet."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._columns = stream, tuple[str, ...]()

    def add(self, image: ImagePath, pixels: Image, shown: Shown) -> None:
        """See `PredictionFile`."""
        if not self._columns:
            self._columns = tuple(shown.columns())
            self._write(["image", *self._columns])
        for row in shown.rows():
            self._write([str(image.path), *(row[name] for name in self._columns)])

    def add_problem(self, image: ImagePath, problem: str) -> None:
        """It has no row."""

    def add_metrics(self, metrics: Metrics) -> None:
        """They are of no single image."""

    def end(self) -> None:
        """Without a single image the heading is short."""
        if not self._columns:
            self._write(["image"])

    def _write(self, values: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([csv_field(value) for value in values])
        self._stream.write(text.getvalue().encode("utf-8", errors="surrogateescape"))


class Drawings:
    """Each image with what was predicted drawn on, as a JPEG file in a folder."""

    ENDING = ".jpg"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, image: ImagePath, pixels: Image, shown: Shown) -> None:
        """See `PredictionFile`."""
        from thawline.tasks.drawing import jpeg

        side = min(max(*pixels.size, _LEAST_SIDE), _MOST_SIDE)
        with atomic_write(output_path(self._folder, image, self.ENDING)) as stream:
            stream.write(jpeg(shown.drawn(pixels, side)))

    def add_problem(self, image: ImagePath, problem: str) -> None:
        """It has no drawing."""

    def add_metrics(self, metrics: Metrics) -> None:
        """They are of no single image."""


class Masks:
    """The mask of each image, of its own size, as a PNG file in a folder."""

    ENDING = ".png"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, image: ImagePath, pixels: Image, shown: Shown) -> None:
        """See `PredictionFile`."""
        mask = shown.mask()
        if mask is not None:
            with atomic_write(output_path(self._folder, image, self.ENDING)) as stream:
                mask.save(stream, "PNG", optimize=True)

    def add_problem(self, image: ImagePath, problem: str) -> None:
        """It has no mask."""

    def add_metrics(self, metrics: Metrics) -> None:
        """They are of no single image."""


def output_path(folder: Path, image: ImagePath, ending: str) -> Path:
    """The file about an image below a folder."""
    return folder / f"{image.output}{ending}"


@contextlib.contextmanager
def json_file(path: Path, about: Mapping[str, Any]) -> Iterator[JsonFile]:
    """A JSON file that is there when the block ends, whole."""
    with atomic_write(path) as stream:
        file = JsonFile(stream, about)
        yield file
        file.end()


@contextlib.contextmanager
def csv_file(path: Path) -> Iterator[CsvFile]:
    """A CSV file that is there when the block ends, whole."""
    with atomic_write(path) as stream:
        file = CsvFile(stream)
        yield file
        file.end()


def _json(value: Any) -> str:
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False)
