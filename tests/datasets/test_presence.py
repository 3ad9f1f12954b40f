"""Cuts and subsets of images that show any number of classes: stratified, nested, drawn by hashes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from tests.datasets.image_folders import problems
from thawline.datasets import MultiHotCsv
from thawline.datasets.stratified import spread
from thawline.errors import UsageError

RARE = 4


@pytest.fixture
def folder(tmp_path):
    """200 images: everything shows a, half b, a tenth c, four d, and twenty nothing at all."""
    drawn = np.random.default_rng(0)
    rows = ["path,a,b,c,d"]
    for index in range(200):
        Image.fromarray(drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(tmp_path / f"{index:03d}.png")
        shown = [0] * 4 if index < 20 else [1, index % 2, int(index % 10 == 0), int(index >= 200 - RARE)]
        rows.append(f"{index:03d}.png,{','.join(map(str, shown))}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def shares(split):
    return split.targets.mean(axis=0)


def test_parts_show_each_class_as_often_as_the_whole(folder):
    splits = MultiHotCsv(root=folder).load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [128, 32, 40]
    whole = np.concatenate([split.targets for split in splits.opened.values()]).mean(axis=0)
    for split in splits.opened.values():
        # At most an image off for rounding, and one for each rarer class that brings others along.
        assert np.all(np.abs(shares(split) - whole) * len(split) <= 2.5)
        assert shares(split)[3] > 0
    assert splits.warnings == ()
    others = MultiHotCsv(root=folder).load(1)
    assert others.test.sha256 == splits.test.sha256
    assert others.val.sha256 != splits.val.sha256
    assert others.fingerprint == splits.fingerprint


def test_train_and_val_are_limited_together(folder):
    full = MultiHotCsv(root=folder).load(3)
    sets = [MultiHotCsv(root=folder, n_train_val=count).load(3) for count in (20, 50)]
    assert [(len(one.train), len(one.val)) for one in sets] == [(16, 4), (40, 10)]
    kept = [{*one.train.keys, *one.val.keys} for one in sets]
    assert kept[0] < kept[1] < {*full.train.keys, *full.val.keys}
    assert {one.test.sha256 for one in sets} == {full.test.sha256}
    assert np.all(sets[0].with_val_in_train().train.targets.max(axis=0) == 1)


def test_a_smaller_subset_lies_in_every_larger_one_and_begins_with_the_rare_classes(folder):
    subsets = [MultiHotCsv(root=folder, n_images=count).load(3) for count in (1, 4, 10, 40, 100)]
    full = MultiHotCsv(root=folder).load(3)
    assert [len(splits.train) for splits in subsets] == [1, 4, 10, 40, 100]
    for smaller, larger in itertools.pairwise([*subsets, full]):
        assert set(smaller.train.keys) < set(larger.train.keys)
        assert smaller.val.sha256 == full.val.sha256
        assert smaller.test.sha256 == full.test.sha256
    assert subsets[1].train.targets.max(axis=0).tolist() == [1, 1, 1, 1]
    assert np.all(np.abs(shares(subsets[4].train) - shares(full.train)) <= 0.02)
    assert MultiHotCsv(root=folder, fraction=40 / 128).load(3).train.sha256 == subsets[3].train.sha256
    assert MultiHotCsv(root=folder, n_images=40).load(4).train.sha256 != subsets[3].train.sha256
    with pytest.raises(UsageError) as error:
        MultiHotCsv(root=folder, n_images=129).load(3)
    assert problems(error) == ["dataset.n_images: 129 are asked for, but there are 128 training images"]


def test_copies_of_an_image_stay_in_one_part(folder):
    for index in range(0, 200, 2):
        (folder / f"{index:03d}.png").write_bytes((folder / f"{index // 20 * 20:03d}.png").read_bytes())
    splits = MultiHotCsv(root=folder).load(0)
    contents = [{splits.contents[i] for i in split.indices} for split in splits.opened.values()]
    assert not contents[0] & contents[1]
    assert not (contents[0] | contents[1]) & contents[2]
    assert any("copy with another annotation" in warning for warning in splits.warnings)


def test_the_last_image_that_shows_a_class_stays_in_training(folder):
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([*lines[:2], *lines[21:40], lines[-1]]) + "\n")
    for data_seed in range(5):
        splits = MultiHotCsv(root=folder, val_fraction=0.4).load(data_seed)
        assert "199.png" in splits.train.keys
    (folder / "labels.csv").write_text("path,a,b\n000.png,1,0\n001.png,0,1\n")
    with pytest.raises(UsageError) as error:
        MultiHotCsv(root=folder).load(0)
    assert problems(error) == [
        "dataset: there are too few different images for a test part beside which training shows every class"
    ]


def test_the_order_takes_the_class_that_is_behind():
    # Class 0 in all six, class 1 in 3 and 5, nothing in 6: 1 is rarest and comes first, then what is least covered.
    shown = {item: frozenset({0, 1}) if item in (3, 5) else frozenset({0}) for item in range(6)}
    shown[6] = frozenset()
    assert spread(list(range(7)), shown, lambda _: True) == [3, 6, 0, 1, 5, 2, 4]
    assert spread(list(range(7)), shown, lambda item: item != 3) == [5, 6, 0, 1, 2, 4]
