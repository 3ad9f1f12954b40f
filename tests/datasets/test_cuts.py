"""Cuts and subsets: by class, by seed, nested, and the same whatever else lies there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.conftest import per_class
from tests.datasets.image_folders import assert_apart, class_folders, problems, save, split_folders
from thawline.datasets import Digits, ImageFolder, Split
from thawline.errors import UsageError
from thawline.specs import resolve


def test_digits_are_divided_by_class_and_the_test_part_is_the_same_for_every_data_seed():
    first, second = Digits().load(0), Digits().load(1)
    assert [len(first.train), len(first.val), len(first.test)] == [1008, 250, 539]
    assert first.classes == tuple("0123456789")
    assert per_class(first.train, 10) == [100, 102, 99, 102, 102, 102, 102, 100, 98, 101]
    assert_apart(first)
    assert first.test.sha256 == second.test.sha256
    assert first.val.sha256 != second.val.sha256
    assert first.train.sha256 != second.train.sha256
    assert first.fingerprint == second.fingerprint
    assert first.train.sha256 == Digits().load(0).train.sha256


def test_digits_have_the_grey_levels_of_scikit_learn():
    from sklearn.datasets import load_digits

    splits = Digits().load(0)
    image = splits.images.read(0)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    levels = load_digits().images[0]
    assert splits.images.key(0) == "digits/0000"
    assert np.array_equal(np.asarray(image)[:, :, 1], np.rint(levels * 15.9375).astype(np.uint8))
    assert np.asarray(image).max() == round(levels.max() * 15.9375)


def test_low_and_high_digits_are_parts_of_the_digits():
    everything = Digits().load(3)
    low, high = Digits(classes=[0, 1, 2, 3, 4]).load(3), Digits(classes=["5", "6", "7", "8", "9"]).load(3)
    assert high.classes == tuple("56789")
    assert set(np.unique(high.train.targets)) == {0, 1, 2, 3, 4}
    for part in ("train", "val", "test"):
        assert set(getattr(everything, part).keys) == set(getattr(low, part).keys) | set(getattr(high, part).keys)
        assert len(getattr(low, part)) + len(getattr(high, part)) == len(getattr(everything, part))
    assert len({everything.fingerprint, low.fingerprint, high.fingerprint}) == 3


def test_subsets_are_balanced_nested_and_leave_validation_and_test_alone():
    full = Digits().load(5)
    subsets = [Digits(n_per_class=n).load(5) for n in (1, 5, 25)] + [Digits(fraction=f).load(5) for f in (0.5, 0.75)]
    subsets.append(full)
    assert [per_class(split.train, 10) for split in subsets[:3]] == [[1] * 10, [5] * 10, [25] * 10]
    assert per_class(subsets[3].train, 10) == [50, 51, 50, 51, 51, 51, 51, 50, 49, 51]
    for smaller, larger in itertools.pairwise(subsets):
        assert set(smaller.train.keys) < set(larger.train.keys)
        assert smaller.val.sha256 == full.val.sha256
        assert smaller.test.sha256 == full.test.sha256
        assert smaller.fingerprint == full.fingerprint
    assert Digits(fraction=1.0).load(5).train.sha256 == full.train.sha256
    assert per_class(Digits(fraction=1e-6).load(5).train, 10) == [1] * 10


def test_another_data_seed_draws_another_subset_of_the_same_training_images(tmp_path):
    """The set has its own division, so that nothing but the subset is drawn."""
    root = split_folders(tmp_path / "set", n=12)
    first, second = (ImageFolder(root=root, n_per_class=3).load(seed).train for seed in (0, 1))
    everything = ImageFolder(root=root)
    assert everything.load(0).train.sha256 == everything.load(1).train.sha256
    assert per_class(first, 2) == per_class(second, 2) == [3, 3]
    assert set(first.keys) != set(second.keys)
    assert set(first.keys) | set(second.keys) <= set(everything.load(0).train.keys)


def test_the_digest_of_a_split_is_of_all_its_keys_in_order():
    split = Digits().load(0).train
    digest = split.sha256
    for indices in (
        split.indices[:-1],
        split.indices[::-1],
        np.where(split.indices == split.indices[500], 0, split.indices),
    ):
        assert Split(split.images, indices).sha256 != digest
    assert Split(split.images, split.indices.copy()).sha256 == digest


def test_a_subset_larger_than_a_class_is_refused_not_clamped():
    with pytest.raises(UsageError) as error:
        Digits(n_per_class=99).load(0)
    assert problems(error) == ["dataset.n_per_class: 99 are asked for, but class '8' has 98 training images"]


def test_fields_are_checked_together():
    node = {
        "_target_": "thawline.datasets.Digits",
        "val_fraction": 1.0,
        "n_per_clas": 3,
        "fraction": 0,
        "classes": [1.5],
    }
    with pytest.raises(UsageError) as error:
        resolve({"dataset": node})
    found = problems(error)
    assert any(line.startswith("dataset.val_fraction: ") for line in found)
    assert any(line.startswith("dataset.n_per_clas: unknown field; nearest: n_per_class") for line in found)
    assert any(line.startswith("dataset.fraction: ") for line in found)
    assert any(line.startswith("dataset.classes") for line in found)
    with pytest.raises(UsageError, match="give one of them"):
        resolve({"dataset": {"_target_": "thawline.datasets.Digits", "n_per_class": 3, "fraction": 0.5}})


def test_wrong_classes_are_all_named():
    with pytest.raises(UsageError) as error:
        Digits(classes=["0", "one", 12, "0"]).load(0)
    assert problems(error) == [
        "dataset.classes: the set has no class 'one'",
        "dataset.classes: there is no class 12: the set has 10, from 0",
        "dataset.classes: class '0' is named twice",
    ]
    with pytest.raises(UsageError, match="at least two classes"):
        Digits(classes=[0]).load(0)


def test_the_draw_does_not_depend_on_the_other_pictures(tmp_path):
    root = class_folders(tmp_path / "set", n=20)
    before = ImageFolder(root=root).load(0)
    save(root / "cat" / "new.png", 999)
    after = ImageFolder(root=root).load(0)
    assert before.fingerprint != after.fingerprint
    dogs = [{key for key in splits.test.keys if key.startswith("dog/")} for splits in (before, after)]
    assert dogs[0] == dogs[1]
    cats = [{key for key in splits.test.keys if key.startswith("cat/")} for splits in (before, after)]
    assert len(cats[0] ^ cats[1]) <= 2
