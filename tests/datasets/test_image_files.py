"""Image files: which are bad, and how the others become RGB."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from PIL import Image

from tests.datasets.image_folders import a_bomb, class_folders, problems, save, split_folders
from thawline.datasets import ImageFolder, image_files
from thawline.errors import UsageError


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


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_a_picture_that_the_machine_cannot_read_now_is_not_left_out(tmp_path, monkeypatch, number):
    """Else the run would be on fewer images, and be found again as the run on these."""
    root, opened = class_folders(tmp_path / "set"), os.open

    def failing(path, *arguments, **named):
        if str(path).endswith("dog/2.png"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(UsageError) as error:
            ImageFolder(root=root, on_unreadable="skip").load(0, tmp_path / "looks")
    assert problems(error) == [f"dataset: {root / 'dog' / '2.png'}: cannot be read: {os.strerror(number)}"]
    assert ImageFolder(root=root, on_unreadable="skip").load(0, tmp_path / "looks").warnings == ()


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
    said = "the image has changed since the data set was checked; run the command again"
    assert problems(error) == [f"dataset: {tmp_path / 'cat' / '3.png'}: {said}"]
    (tmp_path / splits.images.key(3)).unlink()
    with pytest.raises(UsageError, match=r"3\.png: cannot be read: No such file"):
        splits.images.read(3)


def test_a_wide_picture_below_the_hard_limit_of_pillow_is_refused_too(monkeypatch, tmp_path):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 99)
    save(tmp_path / "a.png", size=(10, 10))
    with pytest.raises(image_files.UnreadableImageError, match="10 x 10 pixels, more than the 99 allowed"):
        image_files.decode((tmp_path / "a.png").read_bytes())


# Decoding to RGB


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
