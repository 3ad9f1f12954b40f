"""Fingerprints: what changes them, copies in two parts, and files that are not read twice."""

from __future__ import annotations

import os
from multiprocessing.reduction import ForkingPickler

import pytest
from PIL import Image

from tests.datasets.image_folders import class_folders, problems, save, split_folders, table
from thawline.datasets import Digits, ImageFolder, image_files, inspections
from thawline.errors import UsageError


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
    decoded = []
    plain = image_files.examine
    monkeypatch.setattr(image_files, "examine", lambda content: (decoded.append(content), plain(content))[1])
    again = ImageFolder(root=root).load(1, looks)
    assert (again.fingerprint, [*again.contents]) == (first.fingerprint, [*first.contents])
    assert decoded == []
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (stamp.st_mtime_ns, stamp.st_ino)
    save(root / "cat" / "1.png", 4321, size=(9, 9))
    save(root / "cat" / "00.png", 4322)
    changed = ImageFolder(root=root).load(0, looks).fingerprint
    assert changed != first.fingerprint
    assert sorted(decoded) == sorted((root / "cat" / name).read_bytes() for name in ("00.png", "1.png"))
    assert ImageFolder(root=root).load(0).fingerprint == changed
    decoded.clear()
    (root / "cat" / "00.png").unlink()
    other = (root / "cat" / "2.png").read_bytes()
    assert len(other) == (root / "cat" / "3.png").stat().st_size
    (root / "cat" / "3.png").write_bytes(other)
    os.utime(root / "cat" / "3.png", ns=(0, 1))
    found = ImageFolder(root=root).load(0, looks).fingerprint
    assert decoded == [other]
    assert found == ImageFolder(root=root).load(0).fingerprint != changed


def test_an_image_is_read_as_long_as_it_is_the_one_that_was_looked_at(tmp_path):
    root = class_folders(tmp_path)
    images = ImageFolder(root=root).load(0).images
    index = [images.key(row) for row in range(len(images))].index("cat/3.png")
    file, pixels = root / "cat" / "3.png", images.read(index).tobytes()
    status, whole = file.stat(), file.read_bytes()
    other = (root / "cat" / "2.png").read_bytes()
    assert len(other) == status.st_size
    os.utime(file)
    assert images.read(index).tobytes() == pixels
    file.unlink()
    file.write_bytes(whole)
    assert images.read(index).tobytes() == pixels
    file.write_bytes(other)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UsageError) as error:
        images.read(index)
    said = f"{file}: the image has changed since the data set was checked; run the command again"
    assert problems(error) == [f"dataset: {said}"]
    assert images.read(index + 1).size == (4, 4)


def test_a_file_with_its_stamp_is_not_hashed_again(tmp_path, monkeypatch):
    images = ImageFolder(root=class_folders(tmp_path)).load(0).images
    monkeypatch.setattr(inspections.hashlib, "sha256", None)
    assert images.read(0).size == (4, 4)


def test_what_was_found_in_bad_and_odd_images_is_kept_too(tmp_path):
    root, looks = class_folders(tmp_path / "set"), tmp_path / "looks"
    (root / "cat" / "0.png").write_bytes(b"no image")
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(root / "dog" / "x.gif", save_all=True, append_images=frames[1:])
    dataset = ImageFolder(root=root, on_unreadable="skip")
    first = dataset.load(0, looks)
    assert first.warnings == (
        "1 unreadable image left out: cat/0.png: not an image in a supported format",
        "1 image with several frames or pages: the first is used (dog/x.gif)",
    )
    again = dataset.load(0, looks)
    assert (again.warnings, again.fingerprint) == (first.warnings, first.fingerprint)


def damages(whole):
    return [b"", b"[1]", whole[:-1], whole + b"0", whole[:-1] + bytes([whole[-1] ^ 1]), b"x" + whole[1:]]


def test_damaged_looks_are_made_again(tmp_path):
    root, looks = class_folders(tmp_path / "set"), tmp_path / "looks"
    first = ImageFolder(root=root).load(0, looks)
    (file,) = looks.iterdir()
    whole = file.read_bytes()
    for content in damages(whole):
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
