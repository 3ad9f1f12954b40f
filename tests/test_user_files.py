"""Everyday and hostile folders of images: copies, thumbnails, outputs, tables of spreadsheets, odd files."""

from __future__ import annotations

import io
import os
import resource
import shutil
import struct
import typing
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY, per_class
from thawline.datasets import ImageFolder, image_files
from thawline.errors import UsageError
from thawline.records import load_record
from thawline.transforms import Transform

NAMES = ("train", "val", "test")


def noise(path, seed, size=(6, 5), **options):
    """A different image for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folders(root, classes=("cat", "dog"), n=10):
    for label, name in enumerate(classes):
        for index in range(n):
            noise(root / name / f"{index:02}.png", 100 * label + index)
    return root


def split_folders(root, n=4):
    for order, part in enumerate(NAMES):
        for label, name in enumerate(("cat", "dog")):
            for index in range(n):
                noise(root / part / name / f"{index}.png", 100 * order + 10 * label + index)
    return root


def parts(splits):
    return {key: part for part in NAMES for key in getattr(splits, part).keys}


def of_images(root, *overrides):
    return (*TINY, "dataset=image_folder", "dataset.n_per_class=null", f"dataset.root={root}", *overrides)


# -------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_in_one_part_of_a_cut(tmp_path, seed):
    root = class_folders(tmp_path, n=12)
    for index in range(5):
        shutil.copy(root / "cat" / f"{index:02}.png", root / "cat" / f"copy {index}.png")
    Image.open(root / "dog" / "03.png").save(root / "dog" / "again.bmp")
    shutil.copy(root / "dog" / "04.png", root / "cat" / "dog.png")  # the same image in two classes
    splits = ImageFolder(root=root, test_fraction=0.3, val_fraction=0.4).load(seed)
    part = parts(splits)
    assert [part[f"cat/copy {index}.png"] for index in range(5)] == [part[f"cat/{index:02}.png"] for index in range(5)]
    assert part["dog/again.bmp"] == part["dog/03.png"]
    assert part["cat/dog.png"] == part["dog/04.png"]
    assert splits.warnings == ("2 images have a copy in another class: cat/dog.png; dog/04.png",)
    assert "7 are copies of others, and copies stay in one part" in splits.notes[0]
    # The shares are those of a set without copies: 30 % of 18 and of 13, then 40 % of the rest, to within one pair.
    counts = [per_class(getattr(splits, name), 2) for name in NAMES]
    assert np.abs(np.array(counts) - [[8, 5], [5, 4], [5, 4]]).max() <= 1


def test_a_cut_without_copies_is_that_of_the_keys_alone(tmp_path):
    splits = ImageFolder(root=class_folders(tmp_path, n=5), val_fraction=0.25).load(3)
    # Counted by hand: one of five for the test part, one of the four left for validation.
    assert [per_class(getattr(splits, name), 2) for name in NAMES] == [[3, 3], [1, 1], [1, 1]]
    assert not splits.warnings


def test_a_class_whose_images_are_all_copies_cannot_be_cut(tmp_path):
    root = class_folders(tmp_path)
    for index in range(1, 10):
        shutil.copy(root / "cat" / "00.png", root / "cat" / f"{index:02}.png")
    with pytest.raises(UsageError, match="class 'cat' has too few different images: no test part can be cut"):
        ImageFolder(root=root).load(0)
    # Two images, five copies each: one of them must be the test part, larger than its share.
    for index in range(5, 10):
        noise(root / "cat" / f"{index:02}.png", 999)
    with pytest.raises(UsageError, match="class 'cat' has too few different images: no val part can be cut"):
        ImageFolder(root=root).load(0)


def test_copies_in_the_users_own_parts_are_warned_of_with_counts_everywhere(tmp_path, thawline):
    root = split_folders(tmp_path / "set")
    for index in (0, 1):
        shutil.copy(root / "train" / "cat" / f"{index}.png", root / "test" / "cat" / f"{index}.png")
    Image.open(root / "train" / "dog" / "2.png").save(root / "test" / "dog" / "2.png", compress_level=0)
    done = thawline("train", "-m", *of_images(root), "trainer.max_epochs=1", "seed=0")
    assert done.status == 0, done.err
    said = (
        "3 of 8 test images are also in train (2 byte for byte, 1 pixel for pixel in another file), so test scores ar"
    )
    assert done.err.count(said) == 1
    (record,) = [load_record(path.parent) for path in Path("outputs/runs").glob("*/record.json")]
    assert [warning.startswith(said) for warning in record.warnings] == [True]
    (report,) = Path("outputs/sweeps").glob("*/report/report.md")
    assert "3 of 8 test images are also in train" in report.read_text()


def test_images_that_the_source_was_trained_on_are_warned_of(tmp_path, thawline):
    noted = thawline(
        "train", *TINY, "dataset.classes=[0,1]", "source=digits_low", "source.dataset.classes=[0,1]",
        "source.dataset.test_fraction=0.01", "source.dataset.n_per_class=100",
        "source.trainer.max_epochs=1", "trainer.max_epochs=1",
    )  # fmt: skip
    assert noted.status == 0, noted.err
    (line,) = [line for line in noted.err.splitlines() if "of the source" in line]
    seen, total = int(line.split()[1]), int(line.split()[3])
    # 30 % of 178 and 182 images are the target's test part; the source left 1 % out, and had 100 of each class.
    assert (total, 40 < seen <= 107) == (108, True)


# -------------------------------------------------------------------------------------------------- numbers as classes


def test_a_number_that_names_a_class_is_its_name(tmp_path, thawline):
    root = class_folders(tmp_path / "set", ("1", "2", "3"))
    splits = ImageFolder(root=root, classes=[1, 2]).load(0)
    assert splits.classes == ("1", "2")
    assert splits.warnings == (
        "dataset.classes: 1 is taken as the class called '1', not as the index of '2'",
        "dataset.classes: 2 is taken as the class called '2', not as the index of '3'",
    )
    assert ImageFolder(root=root, classes=[0, 3]).load(0).classes == ("1", "3")  # there is no class 0 by name
    padded = class_folders(tmp_path / "padded", ("01", "02", "03"))
    assert ImageFolder(root=padded, classes=[1, 3]).load(0).classes == ("01", "03")
    names = class_folders(tmp_path / "names", ("a", "b", "c"))
    assert ImageFolder(root=names, classes=[0, 2]).load(0).classes == ("a", "c")
    assert not ImageFolder(root=names, classes=[0, 2]).load(0).warnings
    assert not ImageFolder(root=class_folders(tmp_path / "zero", ("0", "1", "2")), classes=[0, 2]).load(0).warnings


@pytest.mark.parametrize("name", ["2024", "1.5", "nan", "true"])
def test_a_folder_may_be_called_like_a_number(tmp_path, thawline, name):
    class_folders(tmp_path / name)
    done = thawline("train", *of_images(name), "trainer.max_epochs=1")
    assert done.status == 0, done.err


def test_a_folder_whose_name_was_read_as_another_number_is_quoted(tmp_path, thawline):
    class_folders(tmp_path / "2024.10")
    done = thawline("train", *of_images("2024.10"))
    remedy = "; a name that reads as a number is written in quotes: 'dataset.root=\"NAME\"'"
    assert (done.status, done.err) == (2, f"error: dataset.root: 2024.1: no such folder{remedy}\n")
    assert thawline("train", *of_images('"2024.10"'), "trainer.max_epochs=1").status == 0


# ---------------------------------------------------------------------------------------------- what is not of the set


def test_names_that_are_read_as_something_else_are_to_be_quoted(tmp_path, thawline):
    class_folders(tmp_path / "set", ("1.5", "2.5", "true"))
    done = thawline("train", *of_images("set"), "dataset.classes=[1.5,true]")
    lines = done.err.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == ["dataset.classes.0", "dataset.classes.1"]
    assert "a name is quoted: 'dataset.classes=[\"1.5\"]'" in lines[0]
    assert "names such as yes, no, on and off need quotes" in lines[1]
    assert thawline("train", *of_images("set"), 'dataset.classes=["1.5","true"]', "trainer.max_epochs=1").status == 0


def test_what_systems_leave_behind_is_left_out_and_counted(tmp_path, thawline):
    root = class_folders(tmp_path / "set")
    plain = ImageFolder(root=root).load(0)
    for folder in ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", ".thumbnails"):
        noise(root / folder / "cat" / "1.png", 1)
        noise(root / "cat" / folder / "deep" / "1.png", 2)
    for name in ("Thumbs.db", "desktop.ini", "._01.png", ".DS_Store"):
        (root / "dog" / name).write_bytes(b"x")
    for name in ("a.heic", "b.HEIC", "c.avif", "notes.txt", "LICENSE"):
        (root / "dog" / name).write_bytes(b"x")
    (root / "README.md").write_text("a set")
    noise(root / "stray.png", 3)
    splits = ImageFolder(root=root).load(0)
    assert (splits.fingerprint, splits.train.sha256) == (plain.fingerprint, plain.train.sha256)
    files = {".avif": 1, ".heic": 2, ".md": 1, ".txt": 1, "no ending": 1, "hidden or system files": 4}
    folders = dict.fromkeys(("@eaDir/", "$RECYCLE.BIN/", "System Volume Information/", "lost+found/", "__MACOSX/"), 2)
    assert splits.left_out == {**files, **folders, ".thumbnails/": 2, "images outside the class folders": 1}
    done = thawline("train", *of_images(root), "trainer.max_epochs=1")
    assert "left out of the data: 2 $RECYCLE.BIN/, 1 .avif, 2 .heic, 1 .md, 2 .thumbnails/, 1 .txt" in done.out
    (record,) = Path("outputs/runs").glob("*/record.json")
    assert load_record(record.parent).left_out == splits.left_out


def test_a_class_of_files_that_cannot_be_read_says_what_it_holds(tmp_path):
    root = class_folders(tmp_path)
    (root / "owl").mkdir()
    for index in range(3):
        (root / "owl" / f"{index}.heic").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"owl: the folder of a class holds no images; left out there: 3 \.heic"):
        ImageFolder(root=root).load(0)
    assert ImageFolder(root=root, classes=["cat", "dog"]).load(0).classes == ("cat", "dog")


def test_files_that_a_table_does_not_list_are_counted(tmp_path):
    root = split_folders(tmp_path)
    rows = [f"{part}/{name}/0.png,{name},{part}" for part in NAMES for name in ("cat", "dog")]
    (root / "splits.csv").write_text("\n".join(["path,label,split", *rows]))
    (root / "test" / "dog" / "notes.txt").write_text("x")
    splits = ImageFolder(root=root).load(0)
    assert splits.left_out == {"images that splits.csv does not list": 18, ".txt": 1}


def test_a_run_that_stands_in_its_data_reads_nothing_of_its_own(tmp_path, monkeypatch, thawline):
    root = class_folders(tmp_path / "set")
    plain = ImageFolder(root=root).load(0)
    monkeypatch.chdir(root)
    quick = (*of_images("."), "trainer.max_epochs=1", "diagnostics.drift=false", "sweep.report=false")
    for place in ("outputs", "outputs", "cat/results"):
        done = thawline("train", "-m", *quick, f"output_dir={place}", "seed=0")
        assert done.status == 0, done.err
        noise(Path(place, "sweeps", "figure.png"), 8)  # as a report's figure
    folders = list(Path().glob("outputs/runs/*")) + list(Path().glob("cat/results/runs/*"))
    assert len(folders) == 2
    for folder in folders:
        assert load_record(folder).provenance.data_fingerprint == plain.fingerprint
    # Other outputs than the run's own are known by what they hold; an empty folder of the run's own by its name.
    assert ImageFolder(root=root).load(0).fingerprint == plain.fingerprint
    noise(Path("elsewhere", "figure.png"), 9)
    done = thawline("train", *quick, "output_dir=elsewhere")
    assert done.status == 0, done.err
    assert load_record(next(Path("elsewhere/runs").iterdir())).classes == ["cat", "dog"]
    done = thawline("train", *quick, "output_dir=.", "cache.dir=kept", "seed=3")
    assert done.status == 0, done.err
    shutil.rmtree("runs")
    Path("kept/a.txt").write_text("x")
    done = thawline("train", *quick, "output_dir=.", "cache.dir=kept", "seed=3")
    assert done.status == 0, done.err
    noise(Path("runs", "figure.png"), 8)
    assert ImageFolder(root=root).load(0).fingerprint == plain.fingerprint


# ----------------------------------------------------------------------------------------- names and tables in writing


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Größe") for form in ("NFC", "NFD"))
    root = split_folders(tmp_path / "set")
    for part, name in zip(NAMES, (composed, apart, composed), strict=True):
        (root / part / "cat").rename(root / part / name)
    noise(root / "train" / apart / "more.png", 77)
    splits = ImageFolder(root=root).load(0)
    assert splits.classes == (composed, "dog") if composed < "dog" else ("dog", composed)
    assert [per_class(split, 2)[splits.classes.index(composed)] for split in (splits.train, splits.val)] == [5, 4]
    (warning,) = splits.warnings
    assert warning.startswith(f"2 folders in {root / 'train'} are called 'Größe', with differently encoded accents")
    chosen = ImageFolder(root=root, classes=[apart, "dog"]).load(0)
    assert chosen.fingerprint == splits.fingerprint
    rows = [f"{part}/{apart}/{index}.png,{apart},{part}" for part in NAMES for index in range(4)]
    rows += [f"{part}/dog/{index}.png,dog,{part}" for part in NAMES for index in range(4)]
    rows += [f"train/{composed}/more.png,{composed},train"]
    (root / "splits.csv").write_text("\n".join(["path,label,split", *rows]))
    assert ImageFolder(root=root).load(0).fingerprint == splits.fingerprint


def written(separator=",", header="path,label,split", before="", quote="", newline="\n"):
    rows = [header.split(","), ["a, 1.png", "x", "train"], ["b;2.png", "y", "train"]]
    rows += [[f"{part} {name}.png", name, part] for part in ("val", "test") for name in "xy"]
    cells = [[f"{quote}{cell}{quote}" if separator.strip() in cell or quote else cell for cell in row] for row in rows]
    quoted = [[f'"{cell}"' if separator.strip() in cell and not quote else cell for cell in row] for row in cells]
    return before + newline.join(separator.join(row) for row in quoted) + newline


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(written().encode(), id="plain"),
        pytest.param(written(";").encode(), id="semicolons"),
        pytest.param(written("; ", "Path,LABEL,split").encode(), id="blanks"),
        pytest.param(written(", ").encode(), id="blank after comma"),
        pytest.param(written(", ", quote='"').encode(), id="blank before quote"),
        pytest.param(written("\t").encode("utf-16"), id="UTF-16 with tabs"),
        pytest.param(written().encode("utf-16-le"), id="UTF-16 without mark"),
        pytest.param(written(";", before="sep=;\r\n", newline="\r\n").encode("utf-8-sig"), id="spreadsheet"),
        pytest.param(written(newline="\n\n").encode(), id="empty lines"),
        pytest.param(
            written(header="path,label,split").replace("a, 1.png", "./a, 1.png ").encode(), id="blank at the end"
        ),
    ],
)
def test_a_table_is_read_as_programs_write_it(tmp_path, content):
    names = ["a, 1.png", "b;2.png", *(f"{part} {name}.png" for part in ("val", "test") for name in "xy")]
    for index, name in enumerate(names):
        noise(tmp_path / name, index)
    (tmp_path / "splits.csv").write_bytes(content)
    splits = ImageFolder(root=tmp_path).load(0)
    assert (splits.train.keys, splits.classes) == (("a, 1.png", "b;2.png"), ("x", "y"))
    assert (splits.val.keys, splits.test.keys) == (("val x.png", "val y.png"), ("test x.png", "test y.png"))


def test_a_table_with_the_separators_of_another_system(tmp_path):
    split_folders(tmp_path)
    rows = [
        rf"{part}\{name}\{index}.png,{name},{part}" for part in NAMES for name in ("cat", "dog") for index in (0, 1)
    ]
    (tmp_path / "splits.csv").write_text("\n".join(["path,label,split", *rows]))
    assert ImageFolder(root=tmp_path).load(0).val.keys == (
        "val/cat/0.png", "val/cat/1.png", "val/dog/0.png", "val/dog/1.png",
    )  # fmt: skip
    (tmp_path / "splits.csv").write_text("sep=;\npath;label;split\ntrain/cat/0.png;cat;tain\n")
    with pytest.raises(UsageError, match="line 3: unknown split 'tain'"):
        ImageFolder(root=tmp_path).load(0)


# ---------------------------------------------------------------------------------------------------------- odd images


def strip(width, height):
    """A grey PNG of one value, of a few bytes."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x50" * width) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def texts_of(annotation):
    """The texts that a field may be."""
    inner = typing.get_args(annotation)
    return {annotation} if isinstance(annotation, str) else {text for item in inner for text in texts_of(item)}


def peak_of(work):
    """By how many MiB the peak of memory grows while a child does this; None where it fails."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # The threads of the parent's libraries are not in the child.
            torch.set_num_threads(1)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            # What would take gigabytes fails at once, and does not disturb other programs.
            resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, resource.RLIM_INFINITY))
            work()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            os.write(writing, str(grown).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as stream:
        said = stream.read()
    return int(said) if said else None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, image_files.MAX_SIDE)])
@pytest.mark.parametrize("resize", sorted(texts_of(Transform.model_fields["resize"].annotation)))
def test_a_strip_takes_little_memory_in_every_transform(resize, size):
    content = strip(*size)
    assert len(content) < 700
    transform = Transform(size=224, resize=resize, interpolation="lanczos", crop_pct=0.875)

    def work():
        image = transform.decode(image_files.decode(content))
        assert image.shape == (3, 224, 224)
        assert set(image.unique().tolist()) <= {0, 0x50}

    work_peak = peak_of(work)
    assert work_peak is not None
    assert work_peak < 100


def test_a_tiny_crop_takes_no_more_memory_than_its_result():
    transform = Transform(size=224, resize="crop", interpolation="bicubic", crop_pct=0.001)
    image = transform.decode(Image.new("RGB", (300, 200), (1, 2, 3)))
    assert [channel.unique().tolist() for channel in image] == [[1], [2], [3]]


def test_what_is_cut_from_a_strip_is_its_middle():
    rows = np.zeros((20_000, 1, 3), dtype=np.uint8)
    rows[:, 0, :] = (np.arange(20_000) // 100)[:, None]
    transform = Transform(size=224, resize="crop", interpolation="bilinear", crop_pct=1.0)
    image = transform.decode(Image.fromarray(rows))
    # Scaled by 224, the crop shows a single row of the middle: row 9,999 or 10,000, of value 99 or 100.
    assert set(image.unique().tolist()) <= {99, 100}


def test_a_side_without_end_is_refused():
    with pytest.raises(image_files.UnreadableImageError, match="a side may have 262144 pixels at most"):
        image_files.decode(strip(1, image_files.MAX_SIDE + 1))


def test_further_frames_and_bands_are_said_to_be_left_out(tmp_path):
    root = class_folders(tmp_path)
    for index, suffix in enumerate(("gif", "webp", "png", "tif")):
        red, blue = (Image.new("RGB", (4 + index, 4), color) for color in ("red", "blue"))
        blue.save(root / "cat" / f"m.{suffix}", save_all=True, append_images=[red, blue])
    Image.new("RGBX", (9, 4), (10, 20, 30, 99)).save(root / "dog" / "infrared.tif")
    Image.new("RGBA", (8, 4), (10, 20, 30, 0)).save(root / "dog" / "transparent.tif")
    splits = ImageFolder(root=root).load(0, tmp_path / ".looks")
    assert splits.warnings == (
        "1 image with a TIFF band marked as transparency: the rest is laid over white (dog/transparent.tif)",
        "1 image with bands beyond red, green and blue: they are left out (dog/infrared.tif)",
        "4 images with several frames or pages: the first is used (cat/m.gif; cat/m.png; cat/m.tif and 1 more)",
    )
    assert ImageFolder(root=root).load(0, tmp_path / ".looks").warnings == splits.warnings
    assert image_files.decode((root / "dog" / "infrared.tif").read_bytes()).getpixel((0, 0)) == (10, 20, 30)
    assert image_files.decode((root / "cat" / "m.gif").read_bytes()).getpixel((0, 0)) == (0, 0, 255)


def test_a_tiff_of_bands_without_a_meaning_names_the_cause():
    stream = io.BytesIO()
    Image.new("RGBX", (4, 4)).save(stream, "TIFF")
    # The same four bands, declared as shades of grey.
    content = stream.getvalue().replace(struct.pack("<HHIHH", 262, 3, 1, 2, 0), struct.pack("<HHIHH", 262, 3, 1, 1, 0))
    assert content != stream.getvalue()
    assert (
        "a TIFF whose bands or sample type cannot be read as grey, RGB or CMYK" in image_files.examine(content).problem
    )


# ---------------------------------------------------------------------------------------------------- changed in place


def test_an_image_overwritten_with_equal_size_and_time_is_noticed(tmp_path):
    root, looks = class_folders(tmp_path / "set"), tmp_path / "looks"
    file = noise(root / "cat" / "03.bmp", 3, size=(60, 60))
    first = ImageFolder(root=root).load(0, looks)
    status, content = file.stat(), bytearray(file.read_bytes())
    content[3000] ^= 1  # in none of the places that a quick look at the content takes in
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    again = ImageFolder(root=root).load(0, looks)
    assert again.fingerprint == ImageFolder(root=root).load(0).fingerprint != first.fingerprint


def test_a_changed_image_is_noticed_where_the_file_system_keeps_no_times(tmp_path, monkeypatch):
    root, looks = class_folders(tmp_path / "set"), tmp_path / "looks"
    noise(root / "cat" / "03.png", 3, compress_level=0)
    plain = os.fstat

    def timeless(descriptor):
        found = plain(descriptor)
        return os.stat_result((*found[:1], 0, *found[2:7], 0, 0, 0), {"st_mtime_ns": 0, "st_ctime_ns": 0})

    monkeypatch.setattr("thawline.datasets.looks.os.fstat", timeless)
    first = ImageFolder(root=root).load(0, looks)
    noise(root / "cat" / "03.png", 4321, compress_level=0)
    assert ImageFolder(root=root).load(0, looks).fingerprint != first.fingerprint
