"""Data sets of Hugging Face's library datasets on this disk: columns, splits, looks, and every mistake named."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from tests.datasets.image_folders import problems
from thawline.datasets import HuggingFaceDataset, image_files
from thawline.errors import UsageError

datasets = pytest.importorskip("datasets", reason="the extra thawline[huggingface] is not installed")
NAMES = ["dog", "cat", "emu"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def png(color):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (color, 0, 7)).save(stream, "PNG")
    return stream.getvalue()


def rows(first, count, label=None, images=None, names=NAMES):
    label = label or (lambda index: index % 2)
    labels = [label(index) for index in range(first, first + count)]
    images = images or [{"bytes": png(index), "path": None} for index in range(first, first + count)]
    kind = datasets.ClassLabel(names=names) if isinstance(labels[0], int) else datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def saved(root, **splits):
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return root


def three_splits(root, **changes):
    return saved(root, **{"train": rows(0, 6), "validation": rows(10, 4), "test": rows(20, 4)} | changes)


def test_splits_and_classes_are_those_of_the_set(tmp_path):
    splits = HuggingFaceDataset(root=three_splits(tmp_path / "set", extra=rows(30, 2))).load(0)
    assert splits.classes == ("dog", "cat")  # in the order of the set; no image shows an emu
    assert splits.train.keys == tuple(f"train/{index:08d}" for index in range(6))
    assert splits.val.targets.tolist() == [0, 1, 0, 1]
    for split, first in ((splits.train, 0), (splits.val, 10), (splits.test, 20)):
        for place, index in enumerate(split.indices.tolist()):
            assert np.asarray(split.images.read(index))[0, 0].tolist() == [first + place, 0, 7]
    assert splits.left_out == {"split extra": 2}


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "train alone"])
def test_parquet_files_of_texts_and_bytes(tmp_path, by_name):
    parts = {"train": (0, 20), "test": (20, 4)} if by_name else {"data": (0, 20)}
    (tmp_path / "data").mkdir()
    for part, (first, count) in parts.items():
        table = rows(first, count, lambda index: NAMES[index % 2])
        pixels = [png(index) for index in range(first, first + count)]
        plain = datasets.Dataset.from_dict({"picture": pixels, "kind": table["label"][:]})
        plain.to_parquet(str(tmp_path / "data" / f"{part}-00000-of-00001.parquet"))
    splits = HuggingFaceDataset(root=tmp_path, image="picture", label="kind").load(0)
    assert splits.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.val), len(splits.test)) == ((16, 4, 4) if by_name else (12, 4, 4))


def test_a_parquet_file_of_the_same_time_is_read_again(tmp_path):
    prints = {}
    for place, first in (("one", 0), ("other", 20), ("one", 20)):
        file = tmp_path / place / "train.parquet"
        file.parent.mkdir(exist_ok=True)
        rows(first, 20).to_parquet(str(file))
        os.utime(file, ns=(10**18, 10**18))
        prints[place, first] = HuggingFaceDataset(root=file.parent).load(0).fingerprint
    assert prints["one", 20] == prints["other", 20] != prints["one", 0]


def test_an_image_that_has_changed_since_the_look_is_named(tmp_path):
    root = three_splits(tmp_path / "set")
    images = HuggingFaceDataset(root=root).load(0).images
    index = [images.key(row) for row in range(len(images))].index("train/00000001")
    (file,) = (root / "train").glob("*.arrow")
    content = file.read_bytes()
    assert len(png(9)) == len(png(1))
    with file.open("r+b") as stream:  # the library has it mapped into memory
        stream.seek(content.index(png(1)))
        stream.write(png(9))
    with pytest.raises(UsageError) as error:
        images.read(index)
    said = f"{root}, train row 1: the image has changed since the data set was checked; run the command again"
    assert problems(error) == [f"dataset: {said}"]
    assert np.asarray(images.read(index + 1))[0, 0].tolist() == [2, 0, 7]


def test_the_content_decides_the_fingerprint_and_nothing_is_decoded_twice(tmp_path, monkeypatch):
    root, looks = three_splits(tmp_path / "set"), tmp_path / "looks"
    first = HuggingFaceDataset(root=root).load(0, looks)
    decoded = []
    plain = image_files.examine
    monkeypatch.setattr(image_files, "examine", lambda content: (decoded.append(content), plain(content))[1])
    assert HuggingFaceDataset(root=root).load(0, looks).fingerprint == first.fingerprint
    assert decoded == []
    other = three_splits(tmp_path / "other", test=rows(40, 4))
    assert HuggingFaceDataset(root=other).load(0).fingerprint != first.fingerprint
    relabelled = three_splits(tmp_path / "relabelled", train=rows(0, 6, lambda index: index // 2 % 2))
    assert HuggingFaceDataset(root=relabelled).load(0).fingerprint != first.fingerprint
    same = three_splits(tmp_path / "same")
    assert HuggingFaceDataset(root=same).load(0).fingerprint == first.fingerprint


BROKEN = [{"bytes": b"no image" if index == 3 else png(index), "path": None} for index in range(6)]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"image": "images"}, "dataset.image: no column 'images'; nearest: image; the set has image, label"),
        ({}, {"label": "lable"}, "dataset.label: no column 'lable'; nearest: label; the set has image, label"),
        ({}, {"image": "label"}, "dataset.image: the column 'label' holds ClassLabel, not images"),
        ({}, {"label": "image"}, "dataset.label: the column 'image' holds Image, not classes"),
        ({"train": rows(0, 6, lambda i: -1 if i == 2 else i % 2)}, {}, "dataset.label: train row 2 has no label"),
        ({"train": rows(0, 6, images=BROKEN)}, {}, "unreadable image {root}, train row 3: not an image in a supported"),
        ({"training": rows(0, 2)}, {}, "two splits could be the train part (train, validation, test, training)"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, options, message):
    root = three_splits(tmp_path / "set", **changes)
    with pytest.raises(UsageError) as error:
        HuggingFaceDataset(root=root, **options).load(0)
    assert message.format(root=root) in problems(error)[0]


def no_arrow(root):
    next((root / "train").glob("*.arrow")).unlink()


def cut_off(root):
    file = next((root / "train").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:500])


def something_else(root):
    (root / "dataset_dict.json").rename(root / "a.txt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_arrow, "not a whole data set of the library datasets: "),
        (cut_off, "not a whole data set of the library datasets: "),
        (something_else, "nor Parquet files; there: a.txt; test/; train/; validation/"),
    ],
)
def test_damaged_folders_are_named(tmp_path, damage, message):
    damage(root := three_splits(tmp_path / "set"))
    with pytest.raises(UsageError) as error:
        HuggingFaceDataset(root=root).load(0)
    assert message in problems(error)[0]


def test_a_run_on_it(train, tmp_path):
    root = three_splits(tmp_path / "set")
    record = train("dataset=hugging_face", f"dataset.root={root}", "dataset.n_per_class=null")
    assert record.splits["train"].per_class == [3, 3]
