"""The data sets of torchvision, each in its own format."""

from __future__ import annotations

import pickle
import struct
import zlib

import numpy as np
import pytest
from omegaconf import OmegaConf

from tests.conftest import REPOSITORY, per_class
from tests.datasets.image_folders import assert_apart, class_folders, problems, save
from thawline.datasets import TorchvisionDataset
from thawline.errors import UsageError
from thawline.specs import resolve


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


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "conf" / "dataset").glob("*.yaml")))
def test_every_config_of_a_data_set_is_whole(name):
    path = REPOSITORY / "conf" / "dataset" / f"{name}.yaml"
    assert path.read_text().startswith("# ")
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    # What follows from the data set: its task and a head.
    node.pop("defaults", None)
    if node.get("root") == "???":
        node["root"] = "images"
    dataset = resolve(node)
    assert set(node) - {"_target_"} == set(type(dataset).model_fields)
    fields = type(dataset).model_fields.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    changed = {name for name, default in defaults.items() if getattr(dataset, name) != default}
    assert changed <= {"name", "root", "classes", "arguments"} | ({"masks"} if path.stem == "coco_instances" else set())


def test_a_set_that_is_not_there_is_refused_with_the_remedy_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (REPOSITORY / "conf" / "dataset").glob("*.yaml"):
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
