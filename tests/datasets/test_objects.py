"""Boxes and masks of objects: the same scene in every format, exactly, and every mistake named."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.datasets.image_folders import problems
from tests.datasets.test_real_images import unpacked
from tests.datasets.toy_scene import (
    OBJECTS,
    PARTS,
    coco,
    coco_content,
    image,
    save,
    voc,
    voc_xml,
    write_json,
    yolo,
)
from thawline.datasets import Coco, Objects, VocBoxes, Yolo
from thawline.datasets.segments import Segments, decoded
from thawline.errors import UsageError


def by_name(splits):
    return {
        key.rsplit("/", 1)[-1].split(".")[0]: (part, target)
        for part, split in splits.opened.items()
        for key, target in zip(split.keys, split.targets, strict=True)
    }


def refused(dataset):
    with pytest.raises(UsageError) as error:
        dataset.load(0)
    return problems(error)


@pytest.mark.parametrize(
    ("write", "dataset", "classes"),
    [
        (voc, VocBoxes, ("bar", "disc")),
        (coco, Coco, ("disc", "bar")),
        (yolo, Yolo, ("disc", "bar")),
    ],
)
def test_every_format_gives_the_same_boxes(tmp_path, write, dataset, classes):
    splits = dataset(root=write(tmp_path)).load(0)
    assert (splits.target, splits.classes, splits.warnings) == ("boxes", classes, ())
    found = by_name(splits)
    assert {name: part for name, (part, _) in found.items()} == PARTS
    for name, (_, target) in found.items():
        boxes = np.array([box for _, *box in OBJECTS[name]], dtype=np.float32).reshape(-1, 4)
        # Shares of an image with six digits are exact to a hundred-thousandth of these few pixels.
        assert np.allclose(target.boxes, boxes, rtol=0, atol=2e-5)
        assert write is yolo or np.array_equal(target.boxes, boxes)
        assert [("sky", "disc", "bar").index(classes[label]) for label in target.labels] == [
            label for label, *_ in OBJECTS[name]
        ]
        assert (target.boxes.dtype, target.labels.dtype, target.crowd.dtype) == (np.float32, np.int64, np.bool_)
        assert not target.crowd.any()
        with pytest.raises(TypeError, match="boxes and no masks"):
            target.masks((12, 16))
    assert len(found["d"][1]) == 0
    assert found["d"][1].present == frozenset()


def test_polygons_and_run_lengths_become_masks(tmp_path):
    root = coco(tmp_path)
    file = root / "annotations" / "instances_train2017.json"
    content = coco_content("train")
    # The first object of a as run lengths down the columns: 2 columns and 3 rows first, then 5 of every 12.
    runs = [2 * 12 + 3, 5, *[7, 5] * 3, 12 * 16 - 27 - 5 - 36]
    content["annotations"][0]["segmentation"] = {"size": [12, 16], "counts": runs}
    write_json(file, content)
    splits = Coco(root=root, masks=True).load(0)
    assert splits.target == "instances"
    for name, (_, target) in by_name(splits).items():
        masks = target.masks((12, 16))
        assert masks.shape == (len(OBJECTS[name]), 12, 16)
        for (_, xmin, ymin, xmax, ymax), drawn in zip(OBJECTS[name], masks, strict=True):
            expected = np.zeros((12, 16), dtype=np.uint8)
            expected[ymin:ymax, xmin:xmax] = 1
            assert np.array_equal(drawn, expected)
    before = splits.fingerprint
    content["annotations"][1]["segmentation"][0][0] += 1
    write_json(file, content)
    assert Coco(root=root, masks=True).load(0).fingerprint != before
    content["annotations"][1]["segmentation"] = {"size": [12, 16], "counts": [5]}
    content["annotations"][2]["segmentation"] = [[1, 2, 3]]
    write_json(file, content)
    assert refused(Coco(root=root, masks=True)) == [
        f"dataset: {file}: image 'a.png': annotation 97001: run lengths that add up to 5 and not to 12 x 16",
        f"dataset: {file}: image 'b.png': annotation 98000: a polygon that is no list of three or more points x, y",
    ]


def test_packed_run_lengths_are_decoded_as_they_are_defined():
    # 3 zeros, 4 ones, 2 zeros, 3 ones and 4 zeros in 4 x 4: from the third count on, differences to the one before last
    # of a kind, 48 + 5 bits each: 3, 4, 2, 3 - 4 = -1 and 4 - 2 = 2.
    packed = "".join(chr(48 + (value & 31)) for value in (3, 4, 2, -1, 2))
    expected = np.array([0] * 3 + [1] * 4 + [0] * 2 + [1] * 3 + [0] * 4, dtype=np.uint8).reshape(4, 4).T
    assert np.array_equal(decoded({"size": [4, 4], "counts": packed}, (4, 4)), expected)
    # 40 takes two groups: 8 with the bit that says more, then 1.
    long = {"size": [1, 50], "counts": chr(48 + 32 + 8) + chr(48 + 1) + chr(48 + 10)}
    assert decoded(long, (1, 50)).tolist() == [[0] * 40 + [1] * 10]


def test_outlines_cover_the_pixels_that_pycocotools_counts():
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    drawn = np.random.default_rng(0)
    for case in range(200):
        height, width = (int(side) for side in drawn.integers(3, 60, 2))
        points = drawn.uniform(-0.1, 1.1, (int(drawn.integers(3, 12)), 2)) * [width, height]
        polygons = [(points.round() if case % 2 else points).ravel().tolist()]
        if case % 3 == 0:
            polygons.append((drawn.uniform(0, 1, (4, 2)) * [width, height]).ravel().tolist())
        runs = mask.merge(mask.frPyObjects(polygons, height, width))
        expected = mask.decode(runs)
        assert np.array_equal(decoded(polygons, (height, width)), expected)
        packed = {"size": [height, width], "counts": runs["counts"].decode()}
        assert np.array_equal(Segments((packed,)).read((height, width))[0], expected)


def test_every_mistake_in_a_json_is_named(tmp_path):
    root = coco(tmp_path)
    file = root / "annotations" / "instances_train2017.json"
    content = coco_content("train")
    base = content["annotations"][0]
    content["images"] += [
        {"id": 5, "file_name": "gone.png"},
        {"id": ord("a"), "file_name": "b.png"},
        {"file_name": "c.png"},
    ]
    content["annotations"] += [
        {**base, "id": 1, "image_id": 12},
        {**base, "id": 2, "category_id": 8},
        {**base},
        {**base, "id": 3, "bbox": [1, 2, -3, 4]},
        {**base, "id": 4, "bbox": [1, 2, 3]},
        {"id": 5},
    ]
    write_json(file, content)
    (root / "train2017" / "gone.png").unlink(missing_ok=True)
    assert refused(Coco(root=root)) == [
        f"dataset.annotations: {file}: {said}"
        for said in (
            f"image 'gone.png': no such file in {root}/train2017",
            "image 'b.png': the id 97 is there twice",
            "images[6]: it has no id",
            "annotation 1: there is no image of the id 12",
            "annotation 2: there is no category of the id 8",
            "annotation 97000: the id is there twice",
            "annotation 3: the box [1, 2, -3, 4] has a negative size, or a coordinate that is no number",
            "annotation 4: the box [1, 2, 3] is not x, y, width and height",
            "annotations[9]: it has no image_id, category_id, bbox",
        )
    ]
    file.write_text('{"images": [],\n "annotations": [}')
    assert refused(Coco(root=root)) == [f"dataset.annotations: {file}, line 2, column 18: not json (Expecting value)"]
    write_json(file, {"images": [], "annotation": [], "categories": []})
    assert refused(Coco(root=root)) == [
        f"dataset.annotations: {file}: it has no list of annotations; nearest: annotation"
    ]


def test_boxes_outside_their_image_and_sizes_that_do_not_fit(tmp_path):
    root = coco(tmp_path)
    file = root / "annotations" / "instances_train2017.json"
    content = coco_content("train")
    content["annotations"][0]["bbox"] = [14.5, 2, 2, 3]
    content["annotations"][1]["bbox"] = [14.5, 2, 3, 3]
    content["images"][1] |= {"height": 16, "width": 12}
    write_json(file, content)
    assert refused(Coco(root=root)) == [
        (
            f"dataset: {file}: image 'a.png': annotation 97001: "
            "the box 14.5, 2, 17.5, 5 lies outside its image of 16 x 12 pixels"
        ),
        (
            f"dataset: {file}: image 'b.png': it states 12 x 16 pixels, and the image has 16 x 12; "
            "the image is turned upright as its EXIF data say"
        ),
    ]
    content["annotations"][1]["bbox"] = [1, 2, 3, 3]
    del content["images"][1]["height"]
    write_json(file, content)
    splits = Coco(root=root).load(0)
    assert by_name(splits)["a"][1].boxes.tolist()[0] == [14.5, 2, 16, 5]
    assert splits.warnings == (
        "1 image with boxes that reach beyond the image by up to a pixel: they are cut at its edge (train2017/a.png)",
    )


def test_crowds_and_boxes_of_no_area(tmp_path):
    root = coco(tmp_path)
    file = root / "annotations" / "instances_train2017.json"
    content = coco_content("train")
    content["annotations"][0]["bbox"] = [3, 3, 0, 4]
    content["annotations"][1]["iscrowd"] = 1
    write_json(file, content)
    splits = Coco(root=root).load(0)
    target = by_name(splits)["a"][1]
    assert (target.crowd.tolist(), target.labels.tolist(), target.present) == ([True], [1], frozenset())
    assert splits.warnings[0] == ("1 box of no area left out: instances_train2017.json: annotation 97000 [3, 3, 0, 4]")


def test_the_layouts_of_a_json(tmp_path):
    for name, part in PARTS.items():
        save(image(name), tmp_path / "flow" / {"val": "valid"}.get(part, part) / f"{name}.png")
        save(image(name), tmp_path / "one" / "images" / f"{name}.png")
    for part in ("train", "val", "test"):
        folder = tmp_path / "flow" / {"val": "valid"}.get(part, part)
        write_json(folder / "_annotations.coco.json", coco_content(part))
    splits = Coco(root=tmp_path / "flow").load(0)
    assert {name: part for name, (part, _) in by_name(splits).items()} == PARTS
    whole = coco_content("train")
    for part in ("val", "test"):
        whole["images"] += coco_content(part)["images"]
        whole["annotations"] += coco_content(part)["annotations"]
    write_json(tmp_path / "one" / "annotations.json", whole)
    splits = Coco(root=tmp_path / "one").load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [4, 1, 1]
    save(image("z"), tmp_path / "one" / "images" / "z.png")
    splits = Coco(root=tmp_path / "one", annotations={"train": "annotations.json"}, images="images").load(0)
    assert splits.left_out == {"images that no json lists": 1}
    assert refused(Coco(root=tmp_path)) == [
        (
            f"dataset.annotations: {tmp_path} holds no annotations.json, no annotations/*train*.json and no "
            "train/_annotations.coco.json: give the file by dataset.annotations"
        )
    ]


def test_every_mistake_in_an_xml_is_named(tmp_path):
    root = voc(tmp_path)
    voc_xml(root, "a", [("disc", 3, 4, 6, 30), ("disk", 1, 1, 2, 2), ("bar", 5, 1, 2, 2), ("bar", "x", 1, 2, 2)])
    (root / "Annotations" / "b.xml").write_text("<annotation>\n<object>\n</annotation>")
    (root / "Annotations" / "c.xml").unlink()
    (root / "JPEGImages" / "d.png").unlink()
    lists = root / "ImageSets" / "Main"
    with (lists / "val.txt").open("a") as stream:
        stream.write("a\nnowhere\n")
    annotations = root / "Annotations"
    assert refused(VocBoxes(root=root, classes=["disc", "bar"])) == [
        f"dataset.root: {lists}/val.txt, line 2: 'a' is listed twice, before in train.txt",
        f"dataset.root: {lists}/train.txt, line 3: there is no xml in Annotations for 'c'",
        f"dataset.root: {lists}/train.txt, line 4: there is no image in JPEGImages for 'd'",
        f"dataset.root: {lists}/val.txt, line 3: there is no image in JPEGImages for 'nowhere'",
        f"dataset.root: {annotations}/a.xml: object 2: unknown class 'disk'; nearest: disc",
        f"dataset.root: {annotations}/a.xml: object 3 (bar): the box 5, 1, 2, 2 ends before it begins",
        f"dataset.root: {annotations}/a.xml: object 4 (bar): the box x, 1, 2, 2 is not xmin, ymin, xmax and ymax",
        f"dataset.root: {annotations}/b.xml, line 3: not xml (column 3: mismatched tag)",
    ]
    root = voc(tmp_path / "second", lists=False)
    (root / "Annotations" / "c.xml").unlink()
    (root / "JPEGImages" / "d.png").unlink()
    assert refused(VocBoxes(root=root)) == [
        f"dataset.root: {root}/JPEGImages/c.png: there is no xml for the image in Annotations",
        f"dataset.root: {root}/Annotations/d.xml: there is no image for the xml in JPEGImages",
    ]
    root = voc(tmp_path / "third")
    file = voc_xml(root, "a", [("disc", 3, 4, 6, 30)])
    assert refused(VocBoxes(root=root)) == [
        f"dataset: {file}: object 1: the box 2, 3, 6, 30 lies outside its image of 16 x 12 pixels"
    ]
    file.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>')
    assert refused(VocBoxes(root=root)) == [f"dataset.root: {file}: cannot be read: it defines entities"]


def test_difficult_objects_and_boxes_of_no_area_in_an_xml(tmp_path):
    root = voc(tmp_path)
    boxes = [("disc", 3, 4, 6, 8), ("bar", 5, 5, 5, 9), ("bar", 5, 5, 6, 6)]
    voc_xml(root, "a", boxes, more="<difficult>1</difficult>")
    splits = VocBoxes(root=root).load(0)
    target = by_name(splits)["a"][1]
    assert target.boxes.tolist() == [[2, 3, 6, 8], [4, 4, 6, 6]]
    assert target.crowd.tolist() == [True, True]
    assert splits.warnings == ("1 box of no area left out: a.xml: object 2 (bar) 5, 5, 5, 9",)
    assert by_name(VocBoxes(root=root, difficult="keep").load(0))["a"][1].crowd.tolist() == [False, False]
    assert len(by_name(VocBoxes(root=root, difficult="leave_out").load(0))["a"][1]) == 0


def test_every_mistake_in_a_text_file_is_named(tmp_path):
    root = yolo(tmp_path)
    file = root / "labels" / "train" / "a.txt"
    file.write_text(
        "2 .5 .5 .1 .1\n\n0 .5 .5 .1\n0 .5 .5 1.1 .1\nx .5 .5 .1 .1\n0.5 .5 .5 .1 .1\n0 .5 .5 0 .1\n0 1 1 1 1 1 1\n"
    )
    (root / "labels" / "train" / "b.txt").unlink()
    (root / "labels" / "train" / "z.txt").write_text("")
    assert refused(Yolo(root=root)) == [
        f"dataset.root: {file}, line 1: unknown class 2: there are 2, from 0",
        f"dataset.root: {file}, line 3: 4 values where class, x, y, width and height are needed",
        f"dataset.root: {file}, line 4: the box .5 .5 1.1 .1 is not in shares of the image, from 0 to 1",
        f"dataset.root: {file}, line 5: 'x .5 .5 .1 .1' holds a word that is no number",
        f"dataset.root: {file}, line 6: the class 0.5 is no whole number",
        (
            f"dataset.root: {file}, line 8: 7 values where class, x, y, width and height are needed; "
            "outlines of objects are not read"
        ),
        (
            f"dataset.root: {root}/images/train/b.png: the image has no {root}/labels/train/b.txt; "
            "dataset.unlabelled=background takes it for one without objects"
        ),
        f"dataset.root: {root}/labels/train/z.txt: there is no image for it",
    ]
    (root / "labels" / "train" / "z.txt").unlink()
    file.write_text("1 .95 .5 .3 .1\n")
    assert refused(Yolo(root=root, unlabelled="background")) == [
        f"dataset: {file}: line 1: the box 12.8, 5.4, 17.6, 6.6 lies outside its image of 16 x 12 pixels"
    ]
    file.write_text("0 .5 .5 0 .1\n1 .5 .5 .5 .5\n")
    splits = Yolo(root=root, unlabelled="background").load(0)
    assert len(by_name(splits)["b"][1]) == 0
    assert by_name(splits)["a"][1].boxes.tolist() == [[4, 3, 12, 9]]
    assert splits.warnings[0] == "1 box of no area left out: a.txt, line 1: 0 .5 .5 0 .1"


def test_names_of_classes_without_a_yaml_and_lists_of_images(tmp_path):
    root = yolo(tmp_path)
    (root / "data.yaml").write_text(
        "path: .\ntrain: train.txt\nval: [../images/val]\ntest: ./images/test\nnames: [disc, bar]\n"
    )
    (root / "train.txt").write_text("./images/train/a.png\nimages/train/c.png\n")
    splits = Yolo(root=root).load(0)
    assert splits.train.keys == ("images/train/a.png", "images/train/c.png")
    assert splits.test.keys == ("images/test/f.png",)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("disc\nbar\n")
    splits = Yolo(root=root).load(0)
    assert {name: part for name, (part, _) in by_name(splits).items()} == PARTS
    (root / "classes.txt").unlink()
    assert refused(Yolo(root=root)) == [
        f"dataset.data: {root} holds no data.yaml and no classes.txt and no labels/classes.txt and no obj.names"
    ]


def test_a_part_in_which_nothing_is_shown_is_refused_and_a_class_that_training_lacks_is_told(tmp_path):
    root = voc(tmp_path)
    voc_xml(root, "f", [])
    assert refused(VocBoxes(root=root)) == ["dataset: a part with no object: no test image shows any class"]
    voc_xml(root, "f", [("cell", 1, 1, 4, 4)])
    splits = VocBoxes(root=root, classes=["disc", "bar", "cell", "tube"]).load(0)
    assert splits.warnings == (
        "no training image shows the class 'cell', which is in test",
        "no image shows the class 'tube'",
    )


def test_an_edited_box_is_another_data_set(tmp_path):
    root = voc(tmp_path)
    first = VocBoxes(root=root).load(0)
    boxes = [("disc", 3, 4, 6, 8), ("bar", 9, 2, 15, 4)]
    voc_xml(root, "a", boxes)
    assert VocBoxes(root=root).load(0).fingerprint == first.fingerprint
    voc_xml(root, "a", [boxes[0], ("bar", 9, 2, 15, 5)])
    second = VocBoxes(root=root).load(0)
    assert second.fingerprint != first.fingerprint
    assert second.train.sha256 == first.train.sha256


@pytest.mark.parametrize("count", [0, 3])
def test_the_digest_of_objects_is_of_all_that_they_say(count):
    boxes = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    labels, crowd = np.arange(count, dtype=np.int64), np.zeros(count, dtype=bool)
    one = Objects(boxes, labels, crowd, (9, 9))
    assert one.sha256 == Objects(boxes.copy(), labels, crowd, (9, 9)).sha256
    assert one.present == frozenset(range(count))
    if count:
        others = [(boxes + 1, labels, crowd), (boxes, labels + 1, crowd), (boxes, labels, ~crowd)]
        assert len({one.sha256, *(Objects(*other, (9, 9)).sha256 for other in others)}) == 4


def test_at_most_twenty_mistakes_are_listed(tmp_path):
    root = yolo(tmp_path)
    (root / "labels" / "train" / "a.txt").write_text("9 .5 .5 .1 .1\n" * 25)
    found = refused(Yolo(root=root))
    assert len(found) == 21
    assert found[-1] == "dataset.root: and 5 more of the kind"


def test_bccd(tmp_path):
    root = unpacked("bccd", tmp_path)
    splits = VocBoxes(root=root).load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [205, 87, 72]
    assert splits.classes == ("Platelets", "RBC", "WBC")
    counts = np.bincount(np.concatenate([target.labels for target in splits.images.targets]), minlength=3)
    # 4,888 boxes: 4,155 RBC, of which two have no area, 372 WBC and 361 platelets.
    assert counts.tolist() == [361, 4153, 372]
    assert splits.warnings == (
        (
            "2 boxes of no area left out: BloodImage_00343.xml: object 4 (RBC) 181, 329, 181, 329; "
            "BloodImage_00338.xml: object 13 (RBC) 504, 337, 504, 337"
        ),
    )
    text = (root / "Annotations" / "BloodImage_00001.xml").read_text()
    corners = [
        [int(value) for value in re.findall(rf"<{name}>(\d+)<", text)] for name in ("xmin", "ymin", "xmax", "ymax")
    ]
    places = {split.images.key(int(i)): split.images.targets[i] for split in (splits.train,) for i in split.indices}
    boxes = places["JPEGImages/BloodImage_00001.jpg"].boxes
    assert boxes.tolist() == (np.array(corners).T - [1, 1, 0, 0]).tolist()
