"""The handwritten digits that scikit-learn installs: real images without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from thawline.datasets.base import ImageDataset
from thawline.datasets.images import ArrayImages
from thawline.datasets.splits import Collection, Part

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Digits(ImageDataset):
    """1,797 grey 8x8 images of the digits 0 to 9 by 13 writers (UCI "optdigits", its test file).

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. The set is not divided:
    30 % of every class are the test part, the same for every data seed; the rest is cut into train and val by the data
    seed. The digits 0 to 4 and 5 to 9 (`classes`) are the source and the target of a small transfer.
    """

    test_fraction: float = Field(0.3, gt=0, lt=1)

    def check(self) -> None:
        """Nothing to look for: the images come with scikit-learn."""

    def collect(self) -> Collection:
        """The images, their 17 grey levels spread over 0 to 255."""
        table = _table()
        pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        keys = [f"digits/{index:04d}" for index in range(len(pixels))]
        everywhere: Part = "train"
        images = ArrayImages(pixels, table[:, -1].astype(np.int64), keys)
        return Collection(images, tuple("0123456789"), (everywhere,) * len(pixels))


def _table() -> NDArray[np.float64]:
    """A row for each image: its 64 grey levels, row by row, and its digit.

    Read from the file that `sklearn.datasets.load_digits` reads: importing that takes over a second.
    """
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
