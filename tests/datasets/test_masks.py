"""Masks: read from the values that files hold, in every layout, with every mistake named."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from tests.datasets.image_folders import problems
from tests.datasets.test_real_images import unpacked
from tests.datasets.toy_scene import (
    CLASSES,
    PARTS,
    SIZE,
    camvid,
    image,
    instances,
    mask,
    mask_folder,
    mask_table,
    penn_fudan,
    save,
)
from thawline.datasets import IGNORE, InstanceFolder, MaskFolder, PetSegmentation, VocSegmentation
from thawline.errors import UsageError
from thawline.specs import resolve

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
PALETTE = [0, 0, 0, 200, 10, 10, 10, 200, 10]


def toy(root, **fields):
    return MaskFolder(root=root, **{"classes": list(CLASSES), **fields})


def by_name(splits):
    return {
        key.rsplit("/", 1)[-1].split(".")[0]: target
        for split in (splits.train, splits.val, splits.test)
        for key, target in zip(split.keys, split.targets, strict=True)
    }


def parts_of(splits):
    return {key.rsplit("/", 1)[-1].split(".")[0]: part for part, split in splits.opened.items() for key in split.keys}


def refused(dataset):
    with pytest.raises(UsageError) as error:
        dataset.load(0)
    return problems(error)


@pytest.mark.parametrize("layout", [camvid, mask_table])
def test_a_layout_gives_every_mask_exactly_and_the_parts_that_it_has(tmp_path, layout):
    splits = toy(layout(tmp_path)).load(0)
    assert (splits.target, splits.classes) == ("mask", CLASSES)
    assert parts_of(splits) == PARTS
    for name, target in by_name(splits).items():
        found = target.read()
        assert found.dtype == np.uint8
        assert np.array_equal(found, mask(name))
        assert target.present == set(np.unique(mask(name)).tolist())
        digest = hashlib.sha256(b"16 x 12\n" + mask(name).astype("<u2").tobytes()).hexdigest()
        assert target.sha256 == digest


def test_parts_below_images_and_masks_or_around_them(tmp_path):
    for name, part in PARTS.items():
        for root, place in ((tmp_path / "inner", "{}/" + part), (tmp_path / "outer", part + "/{}")):
            save(image(name), root / place.format("images") / f"{name}.png")
            save(Image.fromarray(mask(name)), root / place.format("masks") / f"{name}_m.png")
    for root in (tmp_path / "inner", tmp_path / "outer"):
        assert parts_of(toy(root, mask_suffix="_m").load(0)) == PARTS


def test_what_is_missing_is_cut_and_every_class_stays_in_training(tmp_path):
    splits = toy(mask_folder(tmp_path)).load(0)
    assert sorted(parts_of(splits)) == list("abcdef")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [4, 1, 1]
    assert frozenset.union(*(target.present for target in splits.train.targets)) == {0, 1, 2}
    assert splits.notes[0] == "the set has no test part: 1 image cut from train, the same for every data seed"


def test_values_that_are_ignored_are_no_class_and_values_may_be_any(tmp_path):
    root = mask_table(tmp_path)
    splits = toy(root, ignore_index=1).load(0)
    assert splits.classes == ("sky", "bar")
    expected = np.array([0, IGNORE, 1], dtype=np.uint8)
    for name, target in by_name(splits).items():
        assert np.array_equal(target.read(), expected[mask(name)])
        assert IGNORE not in target.present
    for name in PARTS:
        save(Image.fromarray(mask(name) * 100), root / "masks" / f"{name}.png")
    splits = toy(root, classes={"bar": 200, "sky": 0, "disc": 100}, ignore_index=None).load(0)
    assert splits.classes == ("bar", "sky", "disc")
    assert all(np.array_equal(m.read(), np.array([1, 2, 0])[mask(n)]) for n, m in by_name(splits).items())


def written(name, kind):
    values = mask(name)
    if kind == "palette":
        made = Image.new("P", values.shape[::-1])
        made.putdata(values.ravel().tolist())
        made.putpalette(PALETTE)
        return made
    colors = np.array(PALETTE, dtype=np.uint8).reshape(3, 3)[values]
    if kind == "rgb":
        return Image.fromarray(colors)
    if kind == "opaque":
        return Image.fromarray(np.dstack([colors, np.full_like(values, 255)]))
    return Image.fromarray(values.astype(np.uint16))


@pytest.mark.parametrize(
    ("kind", "colored"), [("palette", False), ("palette", True), ("rgb", True), ("opaque", True), ("16 bits", False)]
)
def test_palettes_are_indices_and_colours_are_read_by_a_map(tmp_path, kind, colored):
    root = mask_table(tmp_path)
    for name in PARTS:
        save(written(name, kind), root / "masks" / f"{name}.png")
    # The order of the classes is the one asked for, so that colours cannot have been taken for indices.
    colors = {"bar": [10, 200, 10], "sky": [0, 0, 0], "disc": [200, 10, 10]}
    splits = MaskFolder(root=root, colors=colors).load(0) if colored else toy(root).load(0)
    expected = np.array([1, 2, 0] if colored else [0, 1, 2])
    assert splits.classes == (("bar", "sky", "disc") if colored else CLASSES)
    assert all(np.array_equal(m.read(), expected[mask(name)]) for name, m in by_name(splits).items())
    if colored:
        splits = MaskFolder(root=root, colors={**colors, "ignore": [200, 10, 10], "disc": [1, 2, 3]}).load(0)
        assert all(np.array_equal(m.read() == IGNORE, mask(name) == 1) for name, m in by_name(splits).items())


@pytest.mark.parametrize("bits", [2, 4])
def test_values_of_few_bits_are_not_stretched(tmp_path, bits):
    import struct
    import zlib

    root = mask_table(tmp_path)
    for name in PARTS:
        values = mask(name)
        each = 8 // bits
        packed = sum(values[:, place::each].astype(int) << (8 - bits * (place + 1)) for place in range(each))
        rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in packed)
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", 16, 12, bits, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
        body = b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        (root / "masks" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert all(np.array_equal(m.read(), mask(name)) for name, m in by_name(toy(root).load(0)).items())


def test_every_wrong_mask_is_named_with_its_file_and_value(tmp_path):
    root = mask_table(tmp_path)
    masks = root / "masks"
    odd = mask("a")
    odd[3, 5] = 77
    save(Image.fromarray(odd), masks / "a.png")
    save(Image.fromarray(mask("b")[:6]), masks / "b.png")
    save(written("c", "rgb"), masks / "c.png")
    save(Image.fromarray(np.dstack([mask("d"), np.full_like(odd, 9)])), masks / "d.png")
    save(Image.fromarray(mask("e").astype(np.uint16) * 700), masks / "e.png")
    save(Image.fromarray(mask("f").T), masks / "f.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    save(image("f").convert("RGB"), root / "images" / "f.png", exif=turned)
    ones = "classes have the values 0 to 2, ignored: 255"
    found = refused(toy(root))
    assert found == [
        f"dataset: {masks}/a.png: value 77 is of no class (1 pixels, the first in row 3, column 5, from 0); {ones}",
        f"dataset: {masks}/b.png: 16 x 6 pixels, and the image images/b.png has 16 x 12",
        f"dataset: {masks}/c.png: it holds colours and no class values: give each class's colour by dataset.colors",
        f"dataset: {masks}/d.png: it has an alpha channel that is not opaque everywhere: save it without transparency",
        f"dataset: {masks}/e.png: value 1400 is of no class (42 pixels, the first in row 0, column 11, from 0); {ones}",
    ]
    save(Image.fromarray(mask("f")), masks / "f.png")
    turn = "the image is turned upright as its EXIF data say, and its mask must be, too"
    size = "16 x 12 pixels, and the image images/f.png has 12 x 16"
    assert f"dataset: {masks}/f.png: {size}; {turn}" in refused(toy(root))


def test_pairs_that_do_not_fit_are_all_named(tmp_path):
    root = mask_folder(tmp_path)
    (root / "masks" / "a.png").unlink()
    (root / "images" / "b.png").unlink()
    save(image("c"), root / "images" / "c.jpg")
    assert refused(toy(root)) == [
        f"dataset.root: {root}/images/c.png: an image of the same name is {root}/images/c.jpg",
        f"dataset.root: {root}/images/a.png: the image has no mask ({root}/masks/a.png)",
        f"dataset.root: {root}/masks/b.png: the mask has no image in {root}/images",
    ]
    (root / "splits.csv").write_text("path,mask,split\nimages/d.png,masks/nowhere.png,train\nimages/d.png,,later\n")
    table = root / "splits.csv"
    assert refused(toy(root)) == [
        f"dataset.root: {table}, line 2: no such file: 'masks/nowhere.png'",
        f"dataset.root: {table}, line 3: mask is empty",
    ]


def test_fields_that_contradict_one_another(tmp_path):
    root = mask_table(tmp_path)
    assert refused(MaskFolder(root=root)) == [
        "dataset.classes: name the classes that the masks' values stand for, or their colours by dataset.colors"
    ]
    assert refused(toy(root, classes=["sky"])) == [
        "dataset.classes: masks need 2 to 255 classes that are not ignored, not 1"
    ]
    assert refused(toy(root, colors={"sky": [0, 0, 0]})) == ["dataset.colors: no colour is given for the class 'disc'"]
    node = {"_target_": "thawline.datasets.MaskFolder", "root": str(root), "n_images": 2, "fraction": 0.5}
    with pytest.raises(UsageError, match="n_images and fraction both choose a subset"):
        resolve({"dataset": node})


def test_masks_of_a_single_class_are_refused(tmp_path):
    root = mask_table(tmp_path)
    for name in PARTS:
        save(Image.fromarray((mask(name) > 0).astype(np.uint8) * 255), root / "masks" / f"{name}.png")
    assert refused(toy(root, classes=["ground", "thing"])) == [
        "dataset: all masks show a single class, of value 0: is another one ignored (ignored: 255)?"
    ]
    splits = toy(root, classes={"ground": 0, "thing": 255}, ignore_index=[]).load(0)
    assert all(np.array_equal(m.read(), mask(name) > 0) for name, m in by_name(splits).items())


def test_an_edited_mask_is_another_data_set_and_unchanged_ones_are_not_decoded_again(tmp_path, monkeypatch):
    from thawline.datasets import image_files

    root, looks = mask_table(tmp_path / "set"), tmp_path / "looks"
    first = toy(root).load(0, looks)
    decoded = []
    plain = image_files.stored
    monkeypatch.setattr(image_files, "stored", lambda content: (decoded.append(1), plain(content))[1])
    assert toy(root).load(0, looks).fingerprint == first.fingerprint
    assert decoded == []
    edited = mask("a")
    edited[0, 0] = 2
    save(Image.fromarray(edited), root / "masks" / "a.png")
    second = toy(root).load(0, looks)
    assert len(decoded) == 1
    assert second.fingerprint != first.fingerprint
    assert second.train.sha256 == first.train.sha256
    assert toy(root, ignore_index=2).load(0, looks).fingerprint != second.fingerprint
    assert len(decoded) == 1 + len(PARTS)


def test_a_mask_that_has_changed_since_the_look_is_named(tmp_path):
    root = penn_fudan(tmp_path)
    masks = by_name(toy(root, images="PNGImages", masks="PedMasks", mask_suffix="_mask").load(0))
    objects = by_name(InstanceFolder(root=root, classes=["disc", "bar"], table="classes.csv").load(0))
    assert np.array_equal(masks["a"].read(), instances("a"))
    assert objects["a"].masks(SIZE).sum(axis=(1, 2)).tolist() == [20, 21]
    edited = instances("a")
    edited[2, 3] = 2
    file = save(Image.fromarray(edited), root / "PedMasks" / "a_mask.png")
    for read in (masks["a"].read, lambda: objects["a"].masks(SIZE)):
        with pytest.raises(UsageError) as error:
            read()
        said = f"{file}: the mask has changed since the data set was checked; run the command again"
        assert problems(error) == [f"dataset: {said}"]
    assert objects["b"].masks(SIZE).sum() == 16


def test_a_mask_that_does_not_decode_stops_or_is_left_out(tmp_path):
    root = mask_table(tmp_path)
    (root / "masks" / "a.png").write_bytes(b"broken")
    assert refused(toy(root)) == [
        f"dataset: unreadable annotation {root}/masks/a.png: not an image in a supported format",
        "dataset.on_unreadable: set it to skip to leave such images out",
    ]
    splits = toy(root, on_unreadable="skip").load(0)
    assert "images/a.png" not in splits.train.keys
    assert splits.warnings[0].startswith("1 unreadable image left out: images/a.png: ")


def test_instances_have_the_boxes_of_their_pixels_and_classes_by_a_table(tmp_path):
    from tests.datasets.toy_scene import OBJECTS

    root = penn_fudan(tmp_path)
    splits = InstanceFolder(root=root, classes=["disc", "bar"], table="classes.csv").load(0)
    assert (splits.target, splits.classes) == ("instances", ("disc", "bar"))
    for name, target in by_name(splits).items():
        assert target.boxes.tolist() == [list(map(float, box)) for _, *box in OBJECTS[name]]
        assert target.labels.tolist() == [label - 1 for label, *_ in OBJECTS[name]]
        masks = target.masks((12, 16))
        assert masks.shape == (len(OBJECTS[name]), 12, 16)
        assert masks.dtype == np.uint8
        for (_, xmin, ymin, xmax, ymax), drawn in zip(OBJECTS[name], masks, strict=True):
            assert drawn.sum() == drawn[ymin:ymax, xmin:xmax].sum() == (xmax - xmin) * (ymax - ymin)
    one = InstanceFolder(root=root).load(0)
    assert one.classes == ("object",)
    assert sum(len(target) for target in one.images.targets) == sum(map(len, OBJECTS.values()))
    assert one.fingerprint != splits.fingerprint
    (root / "classes.csv").write_text("mask,value,class\nPedMasks/a_mask.png,1,disk\nPedMasks/z.png,1,disc\n")
    assert refused(InstanceFolder(root=root, classes=["disc", "bar"], table="classes.csv")) == [
        f"dataset.table: {root}/classes.csv, line 2: unknown class 'disk'; nearest: disc",
        f"dataset.table: {root}/classes.csv, line 3: no image has the mask 'PedMasks/z.png'",
    ]
    (root / "classes.csv").write_text("mask,value,class\nPedMasks/a_mask.png,1,disc\n")
    assert refused(InstanceFolder(root=root, classes=["disc", "bar"], table="classes.csv"))[0] == (
        f"dataset: {root}/PedMasks/a_mask.png: the object of value 2 has no class in the table"
    )


def test_pascal_voc_and_the_pets_are_read_in_the_layout_of_torchvision(tmp_path):
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    for name, part in PARTS.items():
        save(image(name), voc / "JPEGImages" / f"{name}.jpg", quality=95)
        values = np.where(mask(name) == 2, 255, mask(name)).astype(np.uint8)
        made = Image.new("P", (16, 12))
        made.putdata(values.ravel().tolist())
        made.putpalette(list(range(256)) * 3)
        save(made, voc / "SegmentationClass" / f"{name}.png")
        lists = voc / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        with (lists / ("val.txt" if part == "test" else "train.txt")).open("a") as stream:
            stream.write(f"{name}\n")
    splits = VocSegmentation(root=tmp_path).load(0)
    assert (len(splits.train) + len(splits.val), len(splits.test), len(splits.classes)) == (5, 1, 21)
    for name, target in by_name(splits).items():
        assert np.array_equal(target.read(), np.where(mask(name) == 2, IGNORE, mask(name)))

    pets = tmp_path / "oxford-iiit-pet"
    for name, part in PARTS.items():
        save(image(name), pets / "images" / f"Breed_{name}.jpg", quality=95)
        save(Image.fromarray(mask(name) + 1), pets / "annotations" / "trimaps" / f"Breed_{name}.png")
        with (pets / "annotations" / ("test.txt" if part == "test" else "trainval.txt")).open("a") as stream:
            stream.write(f"Breed_{name} 1 1 1\n")
    splits = PetSegmentation(root=tmp_path).load(0)
    assert splits.classes == ("pet", "background", "border")
    assert all(np.array_equal(m.read(), mask(key[-1])) for key, m in by_name(splits).items())
    splits = PetSegmentation(root=tmp_path, border="ignore").load(0)
    assert splits.classes == ("pet", "background")
    assert all(np.array_equal(m.read() == IGNORE, mask(key[-1]) == 2) for key, m in by_name(splits).items())
    assert refused(VocSegmentation(root=tmp_path / "none"))[0].startswith("dataset.root: ")


@pytest.mark.parametrize("table", [True, False])
def test_camvid(tmp_path, table):
    root = unpacked("camvid_subset", tmp_path)
    if not table:
        (root / "splits.csv").unlink()
    splits = MaskFolder(root=root, classes=CAMVID, ignore_index=11).load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [53, 21, 26]
    assert splits.classes == tuple(CAMVID)
    counts = np.zeros(256, dtype=np.int64)
    plain = np.zeros(256, dtype=np.int64)
    for key, target in zip(splits.train.keys, splits.train.targets, strict=True):
        counts += np.bincount(target.read().ravel(), minlength=256)
        with Image.open(root / "trainannot" / key.split("/")[-1]) as stored:
            plain += np.bincount(np.asarray(stored).ravel(), minlength=256)
    assert counts[:11].tolist() == plain[:11].tolist()
    assert counts[IGNORE] == plain[11]
    assert counts.sum() == 53 * 360 * 480
