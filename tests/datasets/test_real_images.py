"""Real images, by table and in folders."""

from __future__ import annotations

import csv
import os
import tarfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, per_class
from tests.datasets.image_folders import assert_apart
from thawline.datasets import ImageFolder, image_files

SHARED = Path(os.environ.get("THAWLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))


def unpacked(name, tmp_path):
    archive = SHARED / f"{name}.tar"
    if not archive.is_file():
        pytest.skip(f"the real images of {name} are not on this machine")
    with tarfile.open(archive) as stream:
        stream.extractall(tmp_path, filter="data")
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "sizes", "each"),
    [
        ("flowers5", [450, 150, 300], [90, 30, 60]),
        pytest.param("sign_digits", [1442, 308, 309], None, marks=pytest.mark.slow),
    ],
)
def test_real_pictures_with_a_table(tmp_path, name, sizes, each):
    root = unpacked(name, tmp_path)
    splits = ImageFolder(root=root).load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == sizes
    if each:
        counts = [per_class(split, 5) for split in (splits.train, splits.val, splits.test)]
        assert counts == [[n] * 5 for n in each]
    assert_apart(splits)
    with (root / "splits.csv").open(newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    for part in ("train", "val", "test"):
        split = getattr(splits, part)
        for key, label in zip(split.keys, split.targets, strict=True):
            assert (rows[key]["split"], rows[key]["label"]) == (part, splits.classes[label])
    assert ImageFolder(root=root).load(9).train.sha256 == splits.train.sha256


@pytest.mark.slow
def test_real_pictures_in_folders(tmp_path):
    root = unpacked("cifar10_jpg_subset", tmp_path)
    by_table = ImageFolder(root=root).load(0)
    (root / "splits.csv").unlink()
    splits = ImageFolder(root=root).load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [3200, 800, 2000]
    assert [per_class(splits.val, 10), per_class(splits.test, 10)] == [[80] * 10, [200] * 10]
    assert splits.train.sha256 == by_table.train.sha256
    assert splits.fingerprint == by_table.fingerprint
    few = ImageFolder(root=root, n_per_class=20).load(0)
    assert per_class(few.train, 10) == [20] * 10
    assert set(few.train.keys) < set(splits.train.keys)


def test_real_photographs_of_several_formats(tmp_path):
    root = unpacked("sanity_photos", tmp_path)
    files = [path for path in root.iterdir() if path.suffix.lower() in image_files.EXTENSIONS]
    assert len(files) == 8
    for path in files:
        assert image_files.decode(path.read_bytes()).mode == "RGB"
        assert image_files.examine(path.read_bytes()).problem is None
