"""Images in tar archives: samples, parts, what decides the fingerprint, and every mistake named."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.datasets.image_folders import problems
from thawline.datasets import TarShards, image_files
from thawline.errors import UsageError


def png(color):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (color % 256, color // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(first, count, label=lambda index: str(index % 2)):
    return {
        name: content
        for index in range(first, first + count)
        for name, content in (
            (f"{index:06d}.png", png(index)),
            (f"{index:06d}.cls", label(index).encode()),
        )
    }


def three_parts(root):
    for number, part in enumerate(("train", "val", "test")):
        shard(root / f"{part}-000000.tar", samples(10 * number, 4))
    return root


def test_samples_of_shards_are_images_with_classes(tmp_path):
    three_parts(tmp_path)
    (tmp_path / "README.md").write_text("about")
    splits = TarShards(root=tmp_path).load(0)
    assert splits.classes == ("0", "1")
    assert splits.train.keys == tuple(f"train-000000.tar/{index:06d}.png" for index in range(4))
    assert splits.test.keys == tuple(f"test-000000.tar/{index:06d}.png" for index in range(20, 24))
    assert splits.val.targets.tolist() == [0, 1, 0, 1]
    for split, first in ((splits.train, 0), (splits.val, 10), (splits.test, 20)):
        for place, index in enumerate(split.indices.tolist()):
            assert np.asarray(split.images.read(index))[0, 0].tolist() == [first + place, 0, 7]
    assert splits.left_out == {".md": 1}


def test_without_parts_val_and_test_are_cut_and_a_label_may_be_a_field_of_a_json(tmp_path):
    members = {
        name: content
        for index in range(20)
        for name, content in (
            (f"a/{index:06d}.left.png", png(index)),
            (f"a/{index:06d}.right.png", png(100 + index)),
            (f"a/{index:06d}.json", json.dumps({"class": ["cat", "dog"][index % 2]}).encode()),
        )
    }
    shard(tmp_path / "shards" / "00.tar", members)
    splits = TarShards(root=tmp_path, image=".left.png", label="json.class").load(0)
    assert splits.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 4, 4)
    assert splits.left_out == {".right.png": 20}
    key = splits.train.keys[0]
    assert key.startswith("shards/00.tar/a/0000")


def test_the_content_and_the_labels_decide_the_fingerprint_and_nothing_is_decoded_twice(tmp_path, monkeypatch):
    root, looks = three_parts(tmp_path / "set"), tmp_path / "looks"
    first = TarShards(root=root).load(0, looks)
    decoded = []
    plain = image_files.examine
    monkeypatch.setattr(image_files, "examine", lambda content: (decoded.append(content), plain(content))[1])
    assert TarShards(root=root).load(0, looks).fingerprint == first.fingerprint
    assert decoded == []
    shard(root / "val-000000.tar", samples(10, 4, lambda index: str(index // 2 % 2)))
    relabelled = TarShards(root=root).load(0, looks)
    assert relabelled.fingerprint != first.fingerprint
    assert relabelled.val.targets.tolist() == [1, 1, 0, 0]
    shard(root / "val-000000.tar", samples(30, 4))
    assert TarShards(root=root).load(0, looks).fingerprint not in (first.fingerprint, relabelled.fingerprint)
    assert sorted(decoded) == sorted(png(index) for index in (*range(10, 14), *range(30, 34)))


def test_an_image_that_has_changed_since_the_look_is_named(tmp_path):
    file = three_parts(tmp_path) / "train-000000.tar"
    images = TarShards(root=tmp_path).load(0).images
    keys = [images.key(row) for row in range(len(images))]
    first, second = (keys.index(f"{file.name}/00000{number}.png") for number in (1, 2))
    with tarfile.open(file, "a") as archive:  # what is there stays where it is
        archive.addfile(tarfile.TarInfo("README"))
    assert np.asarray(images.read(first))[0, 0].tolist() == [1, 0, 7]
    assert len(png(9)) == len(png(1))
    file.write_bytes(file.read_bytes().replace(png(1), png(9)))
    with pytest.raises(UsageError) as error:
        images.read(first)
    said = f"{file}/000001.png: the image has changed since the data set was checked; run the command again"
    assert problems(error) == [f"dataset: {said}"]
    assert np.asarray(images.read(second))[0, 0].tolist() == [2, 0, 7]


def test_an_image_is_read_again_after_the_archive_is_gone(tmp_path):
    splits = TarShards(root=three_parts(tmp_path)).load(0)
    (tmp_path / "val-000000.tar").unlink()
    with pytest.raises(UsageError, match=r"val-000000\.tar/000010\.png: not a usable image: .*No such file"):
        splits.images.read(int(splits.val.indices[0]))


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({"1.png": png(1)}, {}, "sample '1' has no label .cls (dataset.label); it has png"),
        ({"1.png": png(1), "1.cls": b" "}, {}, "sample '1' has no usable label in .cls: it is empty"),
        ({"1.png": png(1), "1.jpg": png(1), "1.cls": b"0"}, {}, "sample '1' has several images (png, jpg): name one"),
        (
            {"1.png": png(1), "1.json": b'{"label": 1}'},
            {"label": "json.labels"},
            "sample '1' has no usable label in .json: no field 'labels'; nearest: label; it has label",
        ),
        (
            {"1.png": png(1), "1.json": b"[1]"},
            {"label": "json.label"},
            "has no usable label in .json: it is no JSON object",
        ),
        (
            {"1.png": b"no", "1.cls": b"0", "2.png": png(1), "2.cls": b"1"},
            {},
            "unreadable image {root}/train.tar/1.png: ",
        ),
        ({"1.txt": b"no", "1.cls": b"0"}, {}, "{root}: no sample has an image; in the shards: 1 .cls, 1 .txt"),
        (
            {"1.png": png(1), "1.cls": b"0"},
            {"image": "jpg"},
            "an image .jpg; in the shards: 1 .cls, 1 .png",
        ),
    ],
)
def test_mistakes_in_a_sample_are_named(tmp_path, members, options, message):
    shard(tmp_path / "train.tar", members)
    with pytest.raises(UsageError) as error:
        TarShards(root=tmp_path, **options).load(0)
    assert message.format(root=tmp_path) in problems(error)[0]


def cut_off(path):
    path.write_bytes(path.read_bytes()[:3000])


def no_archive(path):
    path.write_bytes(b"no archive" * 100)


def compressed(path):
    path.rename(path.with_suffix(".tar.gz"))


def without_a_part(path):
    shard(path.with_name("extra.tar"), samples(50, 2))


def nothing(path):
    path.rename(path.with_suffix(".zip"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "train.tar: not a whole tar archive: "),
        (no_archive, "train.tar: not a whole tar archive: "),
        (compressed, "train.tar.gz is compressed, and images are read from its middle: unpack it"),
        (without_a_part, "extra.tar: its name says no part (train, val or test), and those of others do"),
        (nothing, "no shards (.tar); there: 1 .zip"),
    ],
)
def test_mistakes_in_an_archive_are_named(tmp_path, damage, message):
    damage(shard(tmp_path / "train.tar", samples(0, 10)))
    with pytest.raises(UsageError) as error:
        TarShards(root=tmp_path).load(0)
    assert message in problems(error)[0]


def test_an_archive_in_the_place_of_its_folder_is_named(tmp_path):
    path = shard(tmp_path / "train.tar", samples(0, 2))
    with pytest.raises(UsageError, match="is a file: give the folder that holds the shards"):
        TarShards(root=path).load(0)


def test_a_sweep_on_shards(train, tmp_path):
    root = three_parts(tmp_path / "set")
    record = train("dataset=tar_shards", f"dataset.root={root}", "dataset.n_per_class=null")
    assert record.splits["train"].per_class == [2, 2]
