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


def test_train_and_val_are_limited_together_exactly_stratified_and_nested():
    full = Digits().load(5)
    sets = [Digits(n_train_val=count).load(5) for count in (12, 50, 250)]
    assert [(len(one.train), len(one.val)) for one in sets] == [(10, 2), (40, 10), (200, 50)]
    assert per_class(sets[1].with_val_in_train().train, 10) == [5] * 10
    whole, some = (np.array(per_class(one.with_val_in_train().train, 10)) for one in (full, sets[2]))
    assert np.all(np.abs(some - 250 * whole / whole.sum()) < 1)
    assert per_class(sets[2].val, 10) == [5] * 10
    kept = [{*one.train.keys, *one.val.keys} for one in sets]
    assert kept[0] < kept[1] < kept[2] < {*full.train.keys, *full.val.keys}
    for one in sets:
        assert_apart(one)
        assert (one.test.sha256, one.fingerprint) == (full.test.sha256, full.fingerprint)
        joined = one.with_val_in_train()
        assert (joined.val, set(joined.train.keys)) == (None, {*one.train.keys, *one.val.keys})
        assert set(joined.opened) == {"train", "test"}
    assert sets[0].warnings == ("8 of 10 classes have no validation image",)
    others = Digits(n_train_val=50).load(6)
    assert {*others.train.keys, *others.val.keys} != kept[1]


def test_a_validation_part_of_the_sets_own_gives_its_share(tmp_path):
    root = split_folders(tmp_path / "set", n=10)
    splits = ImageFolder(root=root, n_train_val=10).load(0)
    assert (per_class(splits.train, 2), per_class(splits.val, 2), len(splits.test)) == ([4, 4], [1, 1], 20)
    assert all(key.startswith("val/") for key in splits.val.keys)
    assert splits.notes == ()
    scarce = ImageFolder(root=root, n_train_val=100).load(0)
    assert (len(scarce.train), len(scarce.val)) == (20, 20)
    assert scarce.notes == (
        "dataset.n_train_val asks for 100 images, and there are fewer: 20 for train and 20 for val are all",
    )


def test_a_limit_leaves_every_class_an_image_and_is_no_part_of_an_identity_that_has_none(tmp_path):
    with pytest.raises(UsageError) as error:
        Digits(n_train_val=10).load(0)
    message = "there are too few different images for a val part beside which training shows every class"
    assert problems(error) == [f"dataset: {message}"]
    with pytest.raises(UsageError) as error:
        ImageFolder(root=split_folders(tmp_path / "set"), n_train_val=2).load(0)
    assert problems(error) == ["dataset.n_train_val: 1 of 2 classes would have no training image"]
    assert "n_train_val" not in Digits().deciding()
    assert Digits(n_train_val=20).deciding() == {**Digits().deciding(), "n_train_val": 20}
    with pytest.raises(UsageError, match="fraction and n_train_val both choose a subset: give one of them"):
        resolve({"dataset": {"_target_": "thawline.datasets.Digits", "n_train_val": 30, "fraction": 0.5}})


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
        Digits(classes=["0", "one", 12, "two", 13, "0"]).load(0)
    assert problems(error) == [
        "dataset.classes: the set has no class 'one', 'two'; there are 0, 1, 2, 3, 4, 5, 6, 7 and 2 more",
        "dataset.classes: there is no class 12, 13: the set has 10, from 0",
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
