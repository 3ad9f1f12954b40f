"""Folders of images: classes, parts, tables, and what is refused by name."""

from __future__ import annotations

import os

import pytest

from tests.conftest import per_class
from tests.datasets.image_folders import assert_apart, class_folders, problems, save, split_folders, table
from thawline.datasets import ImageFolder
from thawline.errors import UsageError
from thawline.specs import resolve


def test_class_folders_are_cut_into_three(tmp_path):
    splits = ImageFolder(root=class_folders(tmp_path), val_fraction=0.25, test_fraction=0.2).load(0)
    assert splits.classes == ("cat", "dog")
    assert [per_class(split, 2) for split in (splits.train, splits.val, splits.test)] == [[6, 6], [2, 2], [2, 2]]
    assert_apart(splits)
    assert splits.notes == (
        "the set has no test part: 4 images cut from train, the same for every data seed",
        "the set has no val part: 4 images cut from train, by data seed 0",
    )


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders_are_taken_as_they_are(tmp_path, val):
    splits = ImageFolder(root=split_folders(tmp_path, ("train", val, "test"))).load(0)
    assert splits.val.keys == tuple(f"{val}/{name}/{index}.png" for name in ("cat", "dog") for index in range(4))
    assert [len(splits.train), len(splits.val), len(splits.test)] == [8, 8, 8]
    assert splits.notes == ()
    for split in (splits.train, splits.val, splits.test):
        assert all(splits.classes[label] in key for label, key in zip(split.targets, split.keys, strict=True))


def test_a_class_may_be_called_train(tmp_path):
    splits = ImageFolder(root=class_folders(tmp_path, ("bus", "train"))).load(0)
    assert splits.classes == ("bus", "train")


def test_split_folders_that_are_not_whole_are_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no train folder"):
        ImageFolder(root=split_folders(tmp_path / "a", ("val", "test"))).load(0)
    for part in ("train", "test"):
        save(tmp_path / "b" / part / "1.png")
    with pytest.raises(UsageError, match="'train' holds no class folders"):
        ImageFolder(root=tmp_path / "b").load(0)
    with pytest.raises(UsageError, match="both 'val' and 'valid' could be the val part"):
        ImageFolder(root=split_folders(tmp_path / "c", ("train", "val", "valid"))).load(0)


def test_classes_that_differ_between_splits_are_an_error_unless_left_out(tmp_path):
    root = split_folders(tmp_path)
    save(root / "test" / "owl" / "1.png", 77)
    with pytest.raises(UsageError) as error:
        ImageFolder(root=root).load(0)
    assert problems(error) == [
        "dataset.classes: classes differ between the splits: 'owl' is not in train",
        "dataset.classes: classes differ between the splits: 'owl' is not in val",
    ]
    assert ImageFolder(root=root, classes=["cat", "dog"]).load(0).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("images", "masks"), "dataset=mask_folder;"),
        (("Images", "gt"), "dataset=mask_folder dataset.images=Images dataset.masks=gt;"),
    ],
)
def test_images_and_their_masks_are_no_two_classes(tmp_path, names, wanted):
    for root in (class_folders(tmp_path / "whole", names), split_folders(tmp_path / "parts", classes=names)):
        with pytest.raises(UsageError) as error:
            ImageFolder(root=root).load(0)
        (problem,) = problems(error)
        assert problem.startswith(
            f"dataset.root: {root}: {names[0]!r} and {names[1]!r} look like images with their masks"
        )
        assert wanted in problem
        assert set(ImageFolder(root=root, classes=list(names)).load(0).classes) == set(names)


def test_folders_that_are_no_data_set_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        ImageFolder(root=tmp_path / "nowhere").load(0)
    (tmp_path / "set.tar").touch()
    with pytest.raises(UsageError, match=r"set\.tar is an archive: unpack it"):
        ImageFolder(root=tmp_path / "set.tar").check()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is not a folder"):
        ImageFolder(root=tmp_path / "file").check()
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="none: no images found"):
        ImageFolder(root=tmp_path / "none").load(0)
    root = class_folders(tmp_path / "set")
    (root / "owl").mkdir()
    with pytest.raises(UsageError, match="owl: the folder of a class holds no images"):
        ImageFolder(root=root).load(0)
    save(root / "owl" / "only.png")
    with pytest.raises(UsageError, match="class 'owl' has 1 training image: no test part"):
        ImageFolder(root=root).load(0)
    for missing in (None, "???", ""):
        with pytest.raises(UsageError, match=r"dataset\.root: name the folder"):
            resolve({"dataset": {"_target_": "thawline.datasets.ImageFolder", "root": missing}})


def test_hidden_and_other_files_are_ignored_and_links_are_followed(tmp_path):
    root = class_folders(tmp_path / "set", n=3)
    plain = ImageFolder(root=root).load(0)
    save(root / "cat" / ".hidden.png")
    save(root / ".git" / "1.png")
    save(root / "__MACOSX" / "cat" / "1.png")
    save(root / "cat" / ".cache" / "1.png")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "Thumbs.db").write_bytes(b"no image")
    (root / "cat" / "loop").symlink_to(root / "cat", target_is_directory=True)
    assert ImageFolder(root=root).load(0).fingerprint == plain.fingerprint
    save(tmp_path / "elsewhere" / "deep" / "far.JPEG", 500)
    (root / "dog" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    splits = ImageFolder(root=root).load(0)
    assert "dog/linked/deep/far.JPEG" in {splits.images.key(i) for i in range(len(splits.images))}


def test_names_of_any_kind(tmp_path):
    names = ("猫", "chien méchant", "<script>alert(1)</script>".replace("/", "%"), "n" * 200)
    for label, name in enumerate(names):
        for index in range(5):
            save(tmp_path / name / f"{'ß' * 100}{index}.png", label * 5 + index)
    (tmp_path / "猫" / f"{'ß' * 100}0.png").rename(tmp_path / "猫" / os.fsdecode(b"\xff.png"))

    splits = ImageFolder(root=tmp_path).load(0, tmp_path / "猫" / ".looks")
    assert splits.classes == tuple(sorted(names))
    assert len(splits.train.sha256) == len(splits.fingerprint) == 64
    assert splits.images.read(len(splits.images) - 1).size == (4, 4)


def test_classes_that_are_numbers_are_in_the_order_of_the_numbers(tmp_path):
    assert ImageFolder(root=class_folders(tmp_path / "a", ("10", "9", "2"))).load(0).classes == ("2", "9", "10")
    assert ImageFolder(root=class_folders(tmp_path / "b", ("10", "9", "x"))).load(0).classes == ("10", "9", "x")


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ImageFolder(root="~/images").root == tmp_path / "images"


# splits.csv


def test_a_table_says_label_and_split(tmp_path):
    rows = []
    for index, split in enumerate(["train"] * 4 + ["valid"] * 2 + ["TEST"] * 2):
        save(tmp_path / "all" / f"é {index}.png", index)
        rows.append(f"./all/é {index}.png, {'ab'[index % 2]} ,{split}")
    table(tmp_path, rows, encoding="utf-8-sig")
    save(tmp_path / "all" / "not listed.png")
    splits = ImageFolder(root=tmp_path).load(0)
    assert splits.classes == ("a", "b")
    assert splits.train.keys == ("all/é 0.png", "all/é 1.png", "all/é 2.png", "all/é 3.png")
    assert (splits.val.keys, splits.test.keys) == (("all/é 4.png", "all/é 5.png"), ("all/é 6.png", "all/é 7.png"))
    assert splits.train.targets.tolist() == [0, 1, 0, 1]
    table(tmp_path, reversed(rows), header="path,label,split,comment")
    assert ImageFolder(root=tmp_path).load(0).fingerprint == splits.fingerprint


def test_everything_wrong_in_a_table_is_said_with_its_line(tmp_path):
    root = tmp_path / "set"
    save(root / "a.png")
    save(tmp_path / "outside.png")
    rows = [
        "a.png,x,train",
        "./a.png,y,test",
        "../outside.png,x,train",
        f"{tmp_path}/outside.png,x,train",
        "absent.png,x,train",
        f"{'n' * 300}.png,x,train",
        "a.png,x,tain",
        "a.png,,",
    ]
    table(root, rows)
    with pytest.raises(UsageError) as error:
        ImageFolder(root=root).load(0)
    where = f"dataset.root: {root / 'splits.csv'}, line"
    assert problems(error) == [
        f"{where} 3: 'a.png' is listed twice",
        f"{where} 4: '../outside.png' leaves the folder",
        f"{where} 5: '{tmp_path}/outside.png' leaves the folder",
        f"{where} 6: no such file: 'absent.png'",
        f"{where} 7: no such file: '{'n' * 300}.png'",
        f"{where} 8: unknown split 'tain': it must be train, val or test",
        f"{where} 9: label, split is empty",
    ]


def test_a_table_that_is_no_table_is_refused(tmp_path):
    table(tmp_path, ["a.png,x,train"], header="file,label,set")
    columns = "line 1 must name the columns path, label, split; it lacks path, split and has 'file', 'label', 'set'"
    with pytest.raises(UsageError, match=columns):
        ImageFolder(root=tmp_path).load(0)
    table(tmp_path, ["a.png,x,train", "é.png,x,train"], encoding="latin-1")
    with pytest.raises(
        UsageError, match=r"splits\.csv: line 3 is not UTF-8 \(byte 0xe9\): save the table as CSV UTF-8"
    ):
        ImageFolder(root=tmp_path).load(0)
    table(tmp_path, ["a,b.png,x,train"])
    with pytest.raises(UsageError, match="line 2: 4 values for 3 columns: put a value that holds the separator in quo"):
        ImageFolder(root=tmp_path).load(0)
    table(tmp_path, [f"absent{index}.png,x,train" for index in range(100)])
    with pytest.raises(UsageError) as error:
        ImageFolder(root=tmp_path).load(0)
    assert len(problems(error)) == 21
    assert problems(error)[-1] == "dataset.root: and 80 more of the kind"
