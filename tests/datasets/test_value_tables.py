"""Tables with several classes or a number for each image."""

from __future__ import annotations

import numpy as np
import pytest

from tests.datasets.image_folders import problems
from tests.datasets.toy_scene import image, save
from thawline.datasets import InstanceFolder, MaskFolder, MultiHotCsv, NumberCsv, VocBoxes
from thawline.errors import UsageError
from thawline.specs import validate


def table(root, header, rows):
    for row in rows:
        save(image(row[0]), root / f"{row[0]}.png")
    (root / "labels.csv").write_text("\n".join([header, *(f"{row[0]}.png{row[1:]}" for row in rows)]) + "\n")
    return root


def refused(dataset):
    with pytest.raises(UsageError) as error:
        dataset.load(0)
    return problems(error)


def test_many_classes_of_each_image(tmp_path):
    rows = ["a,1,0,train,x", "b,0,0,train,x", "c,1,1,train,x", "d,0,1,val,x", "e,1.0,0,test,x"]
    root = table(tmp_path, "path,Cat,dog,split,by", rows)
    splits = MultiHotCsv(root=root, classes=["dog", "Cat"]).load(0)
    assert (splits.target, splits.classes) == ("classes", ("dog", "Cat"))
    assert splits.train.targets.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert splits.train.targets.dtype == np.uint8
    assert (splits.val.targets.tolist(), splits.test.targets.tolist()) == ([[1, 0]], [[0, 1]])
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("b.png,0,0", "b.png,1,0"))
    assert MultiHotCsv(root=root, classes=["dog", "Cat"]).load(0).fingerprint != splits.fingerprint
    assert refused(MultiHotCsv(root=root)) == [
        f"dataset.table: {root}/labels.csv, line {line}: by is 'x', not 0 or 1" for line in range(2, 7)
    ]
    assert refused(MultiHotCsv(root=root, classes=["cat"])) == [
        f"dataset.classes: {root}/labels.csv: it has no column 'cat'; nearest: Cat"
    ]
    assert refused(MultiHotCsv(root=root, classes=[0, 1])) == [
        f"dataset.classes: {root}/labels.csv: it has no columns '0', '1'; there are Cat, dog, by"
    ]


def test_columns_may_be_called_by_numbers(tmp_path):
    root = table(tmp_path, "path,7,8,split", ["a,1,0,train", "b,0,1,train", "c,1,1,val", "d,1,0,test"])
    splits = MultiHotCsv(root=root, classes=[8, 7]).load(0)
    assert (splits.classes, splits.train.targets.tolist()) == (("8", "7"), [[0, 1], [1, 0]])


@pytest.mark.parametrize("kind", [MaskFolder, InstanceFolder, VocBoxes])
def test_numbers_in_the_place_of_names_are_one_mistake(tmp_path, kind):
    with pytest.raises(UsageError) as error:
        validate(kind, {"root": str(tmp_path), "classes": [0, "road", True]}, "dataset")
    assert str(error.value) == (
        "dataset.classes: classes are given by name here; a name that is a number is quoted: "
        '\'dataset.classes=["0","road","true"]\' (got [0, \'road\', True])'
    )


def test_a_number_of_each_image(tmp_path):
    root = table(tmp_path, "path,age,split", ["a,1.5,train", "b,-2e3,train", "c,7,val", "d,0,test"])
    splits = NumberCsv(root=root).load(0)
    assert (splits.target, splits.classes) == ("number", ())
    assert splits.train.targets.tolist() == [[1.5], [-2000.0]]
    assert splits.train.targets.dtype == np.float32
    root = table(tmp_path / "second", "path,age", [f"{name},{value}" for value, name in enumerate("abcdefghij")])
    splits = NumberCsv(root=root, column="age").load(0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [6, 2, 2]
    assert sorted(np.concatenate([s.targets.ravel() for s in splits.opened.values()]).tolist()) == list(range(10))


def test_every_wrong_row_is_named(tmp_path):
    root = table(tmp_path, "path,age,size", ["a,1,2"])
    assert refused(NumberCsv(root=root)) == [
        f"dataset.column: {root}/labels.csv: name the column of numbers; there are 'age', 'size'"
    ]
    file = root / "labels.csv"
    file.write_text("path,age,split\na.png,1,train\na.png,2,train\nz.png,1,val\n,3,val\na.png,1,4,5\na.png,3,later\n")
    assert refused(NumberCsv(root=root)) == [
        f"dataset.table: {file}, line 3: 'a.png' is listed twice",
        f"dataset.table: {file}, line 4: no such file: 'z.png'",
        f"dataset.table: {file}, line 5: no such file: ''",
        (f"dataset.table: {file}, line 6: 4 values for 3 columns: put a value that holds the separator in quotes"),
        f"dataset.table: {file}, line 7: unknown split 'later': it must be train, val or test",
    ]
    file.write_text("path,age\na.png,old\n")
    assert refused(NumberCsv(root=root)) == [f"dataset.table: {file}, line 2: age is 'old', not a number"]
    file.write_text("path,age\na.png,1e99\n")
    assert refused(NumberCsv(root=root)) == [f"dataset.table: {file}, line 2: age is '1e99', not a number"]
    file.write_text("path,age\n")
    assert refused(NumberCsv(root=root)) == [f"dataset.table: {file} lists no images"]
    file.unlink()
    assert refused(NumberCsv(root=root)) == [f"dataset.table: {file}: no such file"]
