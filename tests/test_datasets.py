import csv
import itertools
import os
import pickle
import struct
import tarfile
import zlib
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.conftest import per_class
from thawline.datasets import Digits, ImageFolder, Split, TorchvisionDataset, image_files
from thawline.errors import UsageError
from thawline.specs import resolve

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("THAWLINE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def problems(error):
    return [str(problem) for problem in error.value.problems]


def save(path, color=0, size=(4, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color % 256, color // 256, 7)).save(path, **options)


def class_folders(root, classes=("cat", "dog"), n=10):
    color = 0
    for name in classes:
        for index in range(n):
            color += 1
            save(root / name / f"{index}.png", color)
    return root


def split_folders(root, parts=("train", "val", "test"), classes=("cat", "dog"), n=4):
    for order, part in enumerate(parts):
        for label, name in enumerate(classes):
            for index in range(n):
                save(root / part / name / f"{index}.png", 1 + index + n * (label + len(classes) * order))
    return root


def table(root, rows, header="path,label,split", encoding="utf-8"):
    (root / "splits.csv").write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return root


def unpacked(name, tmp_path):
    archive = SHARED / f"{name}.tar"
    if not archive.is_file():
        pytest.skip(f"the real images of {name} are not on this machine")
    with tarfile.open(archive) as stream:
        stream.extractall(tmp_path, filter="data")
    return tmp_path / name


def assert_apart(splits):
    keys = [set(split.keys) for split in (splits.train, splits.val, splits.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


# ---------------------------------------------------------------------------------------------------- cuts and subsets


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
    assert Digits(n_per_class=5).load(6).train.sha256 != subsets[1].train.sha256
    assert Digits(fraction=1.0).load(5).train.sha256 == full.train.sha256
    assert per_class(Digits(fraction=1e-6).load(5).train, 10) == [1] * 10


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


# ------------------------------------------------------------------------------------------------------- image folders


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
    with pytest.raises(UsageError, match="class 'owl' has 1 training images: no test part"):
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


# --------------------------------------------------------------------------------------------------------- splits.csv


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


# ------------------------------------------------------------------------------------------------ images that are bad


def a_bomb(path):
    """A PNG of a few kilobytes that would unpack to 1 GB."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    side = 18_000
    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(b"\0" * (side * 3 + 1)) for _ in range(200)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def bad_pictures(folder):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    noise.save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:3000])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    a_bomb(folder / "bomb.png")
    return ["bomb.png", "cut.jpg", "cut.png", "empty.png", "script.png", "text.jpg"]


def test_pictures_that_do_not_decode_stop_the_run_with_their_paths(tmp_path):
    root = class_folders(tmp_path / "set")
    bad = bad_pictures(root / "dog")
    with pytest.raises(UsageError) as error:
        ImageFolder(root=root).load(0)
    found = problems(error)
    assert [line.split(": ")[1] for line in found[:-1]] == [f"unreadable image {root}/dog/{name}" for name in bad]
    assert found[-1] == "dataset.on_unreadable: set it to skip to leave such images out"


def test_pictures_that_do_not_decode_are_skipped_and_noted(tmp_path):
    root = class_folders(tmp_path / "set")
    whole = ImageFolder(root=root).load(0)
    bad = bad_pictures(root / "dog")
    splits = ImageFolder(root=root, on_unreadable="skip").load(0, tmp_path / "looks")
    assert splits.warnings[0].startswith("6 unreadable images left out: dog/bomb.png: ")
    assert all(f"dog/{name}: " in splits.warnings[0] for name in bad)
    assert splits.fingerprint == whole.fingerprint
    assert splits.train.sha256 == whole.train.sha256
    assert ImageFolder(root=root, on_unreadable="skip").load(0, tmp_path / "looks").warnings == splits.warnings
    for index in range(len(splits.images)):
        splits.images.read(index)


def test_a_class_of_which_nothing_decodes_is_an_error(tmp_path):
    root = split_folders(tmp_path)
    for path in (root / "val" / "dog").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(UsageError, match="classes differ between the splits: 'dog' is not in val"):
        ImageFolder(root=root, on_unreadable="skip").load(0)


def test_a_picture_that_breaks_after_loading_is_named(tmp_path):
    splits = ImageFolder(root=class_folders(tmp_path)).load(0)
    (tmp_path / splits.images.key(3)).write_bytes(b"broken")
    with pytest.raises(UsageError) as error:
        splits.images.read(3)
    assert problems(error) == [
        f"dataset: {tmp_path / 'cat' / '3.png'}: not a usable image: not an image in a supported format"
    ]
    (tmp_path / splits.images.key(3)).unlink()
    with pytest.raises(UsageError, match=r"3\.png: cannot be read: No such file"):
        splits.images.read(3)


def test_a_wide_picture_below_the_hard_limit_of_pillow_is_refused_too(monkeypatch, tmp_path):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 99)
    save(tmp_path / "a.png", size=(10, 10))
    with pytest.raises(image_files.UnreadableImageError, match="10 x 10 pixels, more than the 99 allowed"):
        image_files.decode((tmp_path / "a.png").read_bytes())


# ------------------------------------------------------------------------------------------------------ decoding to RGB


def decoded(path):
    image = image_files.decode(path.read_bytes())
    assert image_files.examine(path.read_bytes()).problem is None
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, suffix):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert decoded(tmp_path / f"a.{suffix}")[0].tolist() == [[v, v, v] for v in (0, 0, 1, 128, 255)]


def test_floats_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(image_files.UnreadableImageError, match="floating-point"):
        image_files.decode((tmp_path / "a.tif").read_bytes())
    assert "floating-point" in image_files.examine((tmp_path / "a.tif").read_bytes()).problem


def test_grey_palette_and_transparency_become_rgb(tmp_path):
    Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert decoded(tmp_path / "grey.png")[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert decoded(tmp_path / "bits.png")[0].tolist() == [[255] * 3, [0] * 3]
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert decoded(tmp_path / "alpha.png")[0].tolist() == [[10, 20, 30], [255, 255, 255], [127, 127, 127]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 200, 100, 50])
    palette.putdata([0, 1])
    palette.save(tmp_path / "palette.png")
    assert decoded(tmp_path / "palette.png")[0].tolist() == [[1, 2, 3], [200, 100, 50]]
    palette.save(tmp_path / "transparent.png", transparency=1)
    assert decoded(tmp_path / "transparent.png")[0].tolist() == [[1, 2, 3], [255, 255, 255]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    red, green, blue = decoded(tmp_path / "red.jpg")[4, 4]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    from PIL import ImageOps

    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert decoded(tmp_path / "a.png").tolist() == np.asarray(expected).tolist()


def test_a_truncated_jpeg_is_found_by_the_quick_check(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (333, 500, 3), dtype=np.uint8))
    for options in ({}, {"progressive": True}):
        noise.save(tmp_path / "a.jpg", **options)
        whole = (tmp_path / "a.jpg").read_bytes()
        assert image_files.examine(whole).problem is None
        assert "truncated" in image_files.examine(whole[:-2000]).problem


# ----------------------------------------------------------------------------------------------- fingerprint and cache


def test_the_fingerprint_is_of_the_content(tmp_path):
    first = ImageFolder(root=class_folders(tmp_path / "a")).load(0)
    assert ImageFolder(root=class_folders(tmp_path / "b")).load(7).fingerprint == first.fingerprint
    save(tmp_path / "b" / "cat" / "0.png", 4321)
    assert ImageFolder(root=tmp_path / "b").load(0).fingerprint != first.fingerprint
    relabelled = class_folders(tmp_path / "c")
    (relabelled / "cat").rename(relabelled / "cow")
    assert ImageFolder(root=relabelled).load(0).fingerprint != first.fingerprint


def test_the_fingerprint_is_of_the_labels_too(tmp_path):
    root = class_folders(tmp_path)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    labels = {path: path.partition("/")[0] for path in paths}
    table(root, [f"{path},{label},train" for path, label in labels.items()])
    first = ImageFolder(root=root).load(0).fingerprint
    labels["cat/0.png"], labels["dog/0.png"] = "dog", "cat"
    table(root, [f"{path},{label},train" for path, label in labels.items()])
    assert ImageFolder(root=root).load(0).fingerprint != first


def test_pictures_that_are_in_two_parts_are_noted(tmp_path):
    root = split_folders(tmp_path)
    for part in ("val", "test"):
        (root / part / "cat" / "0.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes())
    for index in (1, 2):
        Image.open(root / "train" / "dog" / f"{index}.png").save(
            root / "test" / "dog" / f"{index}.png", compress_level=0
        )
    optimistic = "scores are too optimistic"
    detail, copies = "pixel for pixel in another file", "test/cat/0.png; test/dog/1.png; test/dog/2.png"
    assert ImageFolder(root=root).load(0).warnings == (
        f"1 of 8 val images is also in train (1 byte for byte, 0 {detail}), so val {optimistic}: val/cat/0.png",
        f"3 of 8 test images are also in train (1 byte for byte, 2 {detail}), so test {optimistic}: {copies}",
        f"1 of 8 test images is also in val (1 byte for byte, 0 {detail}), so test {optimistic}: test/cat/0.png",
    )


def test_files_that_did_not_change_are_not_read_again(tmp_path, monkeypatch):
    root, looks = class_folders(tmp_path / "set"), tmp_path / "looks"
    first = ImageFolder(root=root).load(0, looks)
    (file,) = looks.iterdir()
    stamp = file.stat()
    read: list[Path] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self), plain(self))[1])
    assert ImageFolder(root=root).load(1, looks).fingerprint == first.fingerprint
    assert read == [file]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (stamp.st_mtime_ns, stamp.st_ino)
    read.clear()
    save(root / "cat" / "1.png", 4321, size=(9, 9))
    changed = ImageFolder(root=root).load(0, looks).fingerprint
    assert changed != first.fingerprint
    assert read == [file, root / "cat" / "1.png"]
    monkeypatch.undo()
    assert ImageFolder(root=root).load(0).fingerprint == changed
    other = (root / "cat" / "2.png").read_bytes()
    assert len(other) == (root / "cat" / "3.png").stat().st_size
    (root / "cat" / "3.png").write_bytes(other)
    os.utime(root / "cat" / "3.png", ns=(0, 1))
    assert ImageFolder(root=root).load(0, looks).fingerprint == ImageFolder(root=root).load(0).fingerprint != changed


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"cat/0.png": [1, 2]}', b'{"cat/0.png": 3}'])
def test_damaged_looks_are_made_again(tmp_path, content):
    root, looks = class_folders(tmp_path / "set"), tmp_path / "looks"
    first = ImageFolder(root=root).load(0, looks)
    (file,) = looks.iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    assert ImageFolder(root=root).load(0, looks).fingerprint == first.fingerprint
    assert file.read_bytes() == whole


def test_looks_that_cannot_be_kept_are_done_without(tmp_path):
    (tmp_path / "looks").write_text("a file, not a folder")
    root = class_folders(tmp_path / "set")
    assert ImageFolder(root=root).load(0, tmp_path / "looks").fingerprint == ImageFolder(root=root).load(0).fingerprint


def test_splits_survive_a_journey_to_another_process(tmp_path):
    for dataset in (ImageFolder(root=class_folders(tmp_path)), Digits()):
        splits = dataset.load(0)
        copy = ForkingPickler.loads(ForkingPickler.dumps(splits))
        assert copy.train.keys == splits.train.keys
        assert copy.images.read(5).tobytes() == splits.images.read(5).tobytes()


# ---------------------------------------------------------------------------------------------------- torchvision sets


def checksum(path):
    import hashlib

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_cifar10_in_its_own_format(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = {}
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        pixels[name] = random.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
        batch = {"data": pixels[name].reshape(20, -1), "labels": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 2}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = [f"thing {index}" for index in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for part in ("train_list", "test_list"):
        sums = [[name, checksum(folder / name)] for name, _ in getattr(CIFAR10, part)]
        monkeypatch.setattr(CIFAR10, part, sums)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": checksum(folder / "batches.meta")})
    splits = TorchvisionDataset(name="CIFAR10", root=tmp_path, n_per_class=3).load(0)
    assert splits.classes == tuple(names)
    assert per_class(splits.train, 10) == [3] * 10
    assert per_class(splits.val, 10) == [2] * 10
    assert per_class(splits.test, 10) == [2] * 10
    assert_apart(splits)
    assert splits.test.keys == tuple(f"test/{index:06d}" for index in range(20))
    position = int(splits.test.indices[7])
    assert np.array_equal(np.asarray(splits.images.read(position)), pixels["test_batch"][7].transpose(1, 2, 0))
    (folder / "data_batch_3").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"CIFAR10 in .* cannot be read \(Dataset not found or corrupted"):
        TorchvisionDataset(name="CIFAR10", root=tmp_path).load(0)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_in_its_own_format(tmp_path, name):
    folder = tmp_path / name / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    labels = np.array([*range(10)] * 6, dtype=np.uint8)
    for part, rows in (("train", slice(0, 40)), ("t10k", slice(40, 60))):
        n = len(labels[rows])
        header = struct.pack(">IIII", 0x803, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels[rows].tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + labels[rows].tobytes())
    splits = TorchvisionDataset(name=name, root=tmp_path, classes=[3, 7]).load(0)
    assert splits.classes == (("3", "7") if name == "MNIST" else ("Dress", "Sneaker"))
    assert [per_class(split, 2) for split in (splits.train, splits.val, splits.test)] == [[3, 3], [1, 1], [2, 2]]
    image = splits.images.read(int(splits.test.indices[0]))
    assert (image.mode, image.size) == ("RGB", (28, 28))
    assert np.array_equal(np.asarray(image)[:, :, 2], pixels[43])


def test_svhn_in_its_own_format(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    labels = np.array([*range(1, 11)] * 3, dtype=np.uint8)[:, None]
    known = dict(SVHN.split_list)
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": pixels, "y": labels})
        known[part] = ["", file.name, checksum(file)]
    monkeypatch.setattr(SVHN, "split_list", known)
    splits = TorchvisionDataset(name="SVHN", root=tmp_path).load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [20, 10, 30]
    assert splits.classes == tuple("0123456789")
    assert splits.test.targets[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(np.asarray(splits.images.read(int(splits.test.indices[4]))), pixels[..., 4])
    assert splits.warnings[0].startswith("20 of 30 test images are also in train (20 byte for byte, 0 pixel for pixel")
    assert splits.warnings[1].startswith("10 of 30 test images are also in val (10 byte for byte, 0 pixel for pixel")


def test_stl10_in_its_own_format(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 96, 96), dtype=np.uint8)
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(pixels.tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([*range(1, 11)] * 2))
    for part in ("train_list", "test_list"):
        files = [name for name, _ in getattr(STL10, part) if "unlabeled" not in name]
        monkeypatch.setattr(STL10, part, [[name, checksum(folder / name)] for name in files])
    splits = TorchvisionDataset(name="STL10", root=tmp_path).load(0)
    assert splits.classes[:2] == ("airplane", "bird")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [10, 10, 20]
    image = np.asarray(splits.images.read(int(splits.test.indices[1])))
    # The file holds columns first.
    assert np.array_equal(image, pixels[1].transpose(2, 1, 0))


def test_eurosat_and_caltech_are_cut_into_three(tmp_path):
    class_folders(tmp_path / "eurosat" / "2750", ("@eaDir", "Forest", "River"))
    save(tmp_path / "eurosat" / "2750" / "Forest" / "@eaDir" / "0.png", 7)
    splits = TorchvisionDataset(name="EuroSAT", root=tmp_path).load(0)
    assert splits.classes == ("Forest", "River")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [12, 4, 4]
    assert splits.train.keys[0].startswith("eurosat/2750/Forest/")
    assert splits.left_out == {"hidden or system files": 11}
    for label, name in enumerate(("BACKGROUND_Google", "ant", "bonsai")):
        for index in range(1, 11):
            save(tmp_path / "caltech101" / "101_ObjectCategories" / name / f"image_{index:04d}.jpg", label * 50 + index)
    splits = TorchvisionDataset(name="Caltech101", root=tmp_path).load(0)
    assert splits.classes == ("ant", "bonsai")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [12, 4, 4]
    assert_apart(splits)


def test_flowers102_has_three_parts_of_its_own(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    folder = tmp_path / "flowers-102"
    for number in range(1, 13):
        save(folder / "jpg" / f"image_{number:05d}.jpg", number * 20, size=(16, 16))
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 2] * 6)})
    ids = {"trnid": [1, 2, 3, 4], "valid": [5, 6], "tstid": [7, 8, 9, 10, 11, 12]}
    savemat(folder / "setid.mat", ids)
    files = {
        name: (file, checksum(folder / file) if name != "image" else md5)
        for name, (file, md5) in Flowers102._file_dict.items()
    }
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    splits = TorchvisionDataset(name="Flowers102", root=tmp_path, classes=[0, 1]).load(0)
    assert splits.val.keys == ("flowers-102/jpg/image_00005.jpg", "flowers-102/jpg/image_00006.jpg")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [4, 2, 6]
    assert not [note for note in splits.notes if "cut" in note]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def make_pets(root):
    folder = root / "oxford-iiit-pet"
    for part, numbers in (("trainval", range(1, 5)), ("test", range(5, 7))):
        names = [
            (f"{breed}_{number}", label) for label, breed in enumerate(("Abyssinian", "pug"), 1) for number in numbers
        ]
        lines(folder / "annotations" / f"{part}.txt", [f"{name} {label} 1 1" for name, label in names])
        for name, label in names:
            save(folder / "images" / f"{name}.jpg", color_of(name) + label)


def make_dtd(root):
    folder = root / "dtd" / "dtd"
    for part, number in (("train", 1), ("val", 2), ("test", 3)):
        lines(folder / "labels" / f"{part}2.txt", [f"{name}/{name}_{number}.jpg" for name in ("banded", "woven")])
        for name in ("banded", "woven"):
            save(folder / "images" / name / f"{name}_{number}.jpg", color_of(name) + 40 * number)


def make_aircraft(root):
    folder = root / "fgvc-aircraft-2013b" / "data"
    lines(folder / "families.txt", ["A320", "Boeing 737"])
    for part, number in (("train", 1), ("val", 2), ("test", 3)):
        rows = [f"{number}{label} {name}" for label, name in enumerate(("A320", "Boeing 737"))]
        lines(folder / f"images_family_{part}.txt", rows)
        for label in range(2):
            save(folder / "images" / f"{number}{label}.jpg", 50 * number + label)


def make_food(root):
    folder = root / "food-101"
    import json

    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        listed = {name: [f"{name}/{number}" for number in numbers] for name in ("pho", "tacos")}
        lines(folder / "meta" / f"{part}.json", [json.dumps(listed)])
        for paths in listed.values():
            for path in paths:
                save(folder / "images" / f"{path}.jpg", color_of(path))


def color_of(text):
    return zlib.crc32(text.encode()) % 60_000


@pytest.mark.parametrize(
    ("name", "make", "arguments", "classes", "sizes"),
    [
        ("OxfordIIITPet", make_pets, {}, ("Abyssinian", "Pug"), [6, 2, 4]),
        ("DTD", make_dtd, {"partition": 2}, ("banded", "woven"), [2, 2, 2]),
        ("FGVCAircraft", make_aircraft, {"annotation_level": "family"}, ("A320", "Boeing 737"), [2, 2, 2]),
        ("Food101", make_food, {}, ("pho", "tacos"), [6, 2, 4]),
    ],
)
def test_sets_that_are_files_keep_their_own_parts(tmp_path, name, make, arguments, classes, sizes):
    make(tmp_path)
    splits = TorchvisionDataset(name=name, root=tmp_path, arguments=arguments).load(0)
    assert splits.classes == classes
    assert [len(splits.train), len(splits.val), len(splits.test)] == sizes
    assert_apart(splits)
    assert splits.images.read(0).mode == "RGB"
    broken = tmp_path / splits.test.keys[0]
    broken.write_bytes(b"broken")
    with pytest.raises(UsageError, match=f"unreadable image {broken}"):
        TorchvisionDataset(name=name, root=tmp_path, arguments=arguments).load(0)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "dataset").glob("*.yaml")))
def test_every_config_of_a_data_set_is_whole(name):
    path = ROOT / "conf" / "dataset" / f"{name}.yaml"
    assert path.read_text().startswith("# ")
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if name == "image_folder":
        node["root"] = "images"
    dataset = resolve(node)
    assert set(node) - {"_target_"} == set(type(dataset).model_fields)
    fields = type(dataset).model_fields.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    changed = {name for name, default in defaults.items() if getattr(dataset, name) != default}
    assert changed <= {"name", "root", "classes", "arguments"}


def test_a_set_that_is_not_there_is_refused_with_the_remedy_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / "conf" / "dataset").glob("*.yaml"):
        node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        if not node["_target_"].endswith("TorchvisionDataset"):
            continue
        with pytest.raises(UsageError) as error:
            resolve(node).load(0)
        remedy = "give its folder by dataset.root=FOLDER or let torchvision fetch it by dataset.download=true"
        assert problems(error) == [f"dataset.root: data does not hold {node['name']}; {remedy}"]
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_is_one_message(tmp_path, monkeypatch):
    from urllib.error import URLError

    from torchvision.datasets import CIFAR10

    def no_network(self):
        raise URLError("no network")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(UsageError) as error:
        TorchvisionDataset(name="CIFAR10", root=tmp_path / "data", download=True).load(0)
    expected = f"dataset.download: CIFAR10 could not be fetched into {tmp_path / 'data'}: <urlopen error no network>"
    assert problems(error) == [expected]


def test_unknown_sets_and_arguments_are_refused_with_the_nearest_names():
    with pytest.raises(UsageError, match=r"dataset\.name: unknown data set; nearest: CIFAR10"):
        resolve({"dataset": {"_target_": "thawline.datasets.TorchvisionDataset", "name": "cifar-10"}})
    with pytest.raises(UsageError, match="DTD takes no argument 'split'; it takes partition"):
        resolve({"_target_": "thawline.datasets.TorchvisionDataset", "name": "DTD", "arguments": {"split": "test"}})


# ------------------------------------------------------------------------------------------------------- real images


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
