"""`thawline predict`: a run's model on any images, in their own pixels; its masks are those of its own test."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import thawline as api
from tests.conftest import TINY, records
from tests.drawn_objects import CLASSES as OBJECTS
from tests.drawn_objects import draw_instances, draw_yolo
from tests.execution.test_gallery import TRAIN
from tests.masked_squares import CLASSES, UNLABELLED, draw_masks
from thawline.cli import main
from thawline.records import load_record

IMAGES = tuple(f"masks/test/{place}.png" for place in range(5))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished sweep over two depths, and one finished run of classification."""
    folder = tmp_path_factory.mktemp("finished")
    draw_masks(folder / "masks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-m", *TRAIN, "freeze_policy.k=0,1", "sweep.name=shapes", "sweep.report=false"]) == 0
        assert main(["train", *TINY, "output_dir=digits", "trainer.max_epochs=1"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def run_of(k):
    (folder,) = [path for path in records() if load_record(path).config["freeze_policy"]["k"] == k]
    return folder


def test_masks_are_those_of_the_run_s_own_test(thawline):
    folder = run_of(1)
    files = ("--masks", "said", "--json", "said.json", "--csv", "said.csv", "--draw", "drawn")
    result = thawline("predict", folder.name, *IMAGES, *files)
    assert (result.status, result.err) == (0, "")
    arrays = np.load(folder / "predictions.npz")
    said = json.loads(Path("said.json").read_text())
    assert (said["run"], said["task"], said["classes"]) == (folder.name, "semantic_segmentation", list(CLASSES))
    with Path("said.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    for place, path in enumerate(IMAGES):
        name = Path(path).stem
        image = Image.open(f"said/{name}.png")
        mask, truth = np.array(image), np.array(Image.open(path.replace("test/", "testannot/")))
        assert (image.mode, mask.shape) == ("P", truth.shape)
        for index, label in enumerate(CLASSES):
            counted = truth != UNLABELLED
            assert ((mask == index) & (truth == index)).sum() == arrays["intersection"][place, index]
            assert ((mask == index) & counted).sum() == arrays["predicted"][place, index]
            share = float((mask == index).mean())
            assert said["images"][place]["share"][label] == pytest.approx(share)
            assert float(table[place][f"share.{label}"]) == pytest.approx(share)
        assert said["images"][place]["image"] == table[place]["image"] == path
        assert max(Image.open(f"drawn/{name}.jpg").size) >= 4 * mask.shape[1]
    rows = api.load_run(folder.name).predict(IMAGES)
    assert rows.index.tolist() == list(IMAGES)
    assert rows["share.disc"].tolist() == pytest.approx([image["share"]["disc"] for image in said["images"]])
    assert (result.out.count("48 x 40"), result.out.count("47 x 33")) == (3, 2)


def test_what_cannot_be_read_is_named_and_the_others_go_on(thawline):
    Path("given/deep").mkdir(parents=True)
    shutil.copy("masks/test/0.png", "given/a.png")
    shutil.copy("masks/test/1.png", "given/deep/a.png")
    shutil.copy("masks/test/2.png", "given/a.bmp.png")
    Path("given/broken.jpg").write_bytes(b"no image")
    Path("given/.hidden.png").write_bytes(b"no image")
    Path("given/notes.txt").write_text("no image")
    Path("given/@eaDir").mkdir()
    shutil.copy("masks/test/0.png", "given/@eaDir/a.png")
    shutil.copytree("outputs", "given/outputs")
    assert list(Path("given/outputs").rglob("*.jpg"))
    # Linked folders are read as data sets read them: each once, and none that lies above.
    Path("linked").mkdir()
    shutil.copy("masks/test/4.png", "linked/4.png")
    Path("given/from_disk").symlink_to(Path("linked").absolute(), target_is_directory=True)
    Path("given/deep/loop").symlink_to(Path("given").absolute(), target_is_directory=True)
    result = thawline("predict", str(run_of(0)), "given", "masks/test/3.png", "--masks", "said", "--json", "j")
    assert result.status == 1
    assert result.err.splitlines() == [
        "error: given/broken.jpg: not a usable image: not an image in a supported format"
    ]
    assert sorted(str(path) for path in Path("said").rglob("*.png")) == [
        "said/3.png", "said/a.bmp.png", "said/a.png", "said/deep/a.png", "said/from_disk/4.png",
    ]  # fmt: skip
    images = json.loads(Path("j").read_text())["images"]
    assert [image["image"] for image in images if "problem" in image] == ["given/broken.jpg"]
    assert [image["image"] for image in images if "share" in image] == [
        "given/a.bmp.png", "given/a.png", "given/deep/a.png", "given/from_disk/4.png", "masks/test/3.png",
    ]  # fmt: skip


def test_a_sweep_stands_for_its_best_run_by_validation(thawline):
    best = max((run_of(0), run_of(1)), key=lambda folder: load_record(folder).metrics["val"]["mean_iou"])
    result = thawline("predict", "shapes", "masks/test/0.png")
    assert result.status == 0, result.err
    assert f"1 image by run {best.name}" in result.out
    value = load_record(best).metrics["val"]["mean_iou"]
    k = load_record(best).config["freeze_policy"]["k"]
    said = f"run {best.name} is the best of 2 runs of sweep shapes by validation mean IoU, {value:.3f}"
    assert f"{said} (freeze_policy.k={k})" in result.out


def test_a_folder_with_masks_gets_the_metrics_of_the_record(thawline):
    folder = run_of(1)
    result = thawline("predict", folder.name, "masks", "--json", "said.json", "--batch-size", "3")
    assert result.status == 0, result.err
    said, record = json.loads(Path("said.json").read_text()), load_record(folder)
    # The masks lie there too, and are no images to predict.
    assert len(said["images"]) == 18
    assert {part: values["images"] for part, values in said["metrics"].items()} == {"train": 9, "val": 4, "test": 5}
    for part in ("val", "test"):
        expected = {"images": record.splits[part].samples, **record.metrics[part]}
        assert said["metrics"][part] == pytest.approx(expected, abs=1e-6)
        assert f"{record.metrics[part]['mean_iou']:.4f}" in result.out
    by_python = api.load_run(folder.name).evaluate("masks")
    assert by_python.index.tolist() == ["train", "val", "test"]
    assert by_python.loc["test"].to_dict() == pytest.approx(said["metrics"]["test"], abs=1e-6)
    assert "warning: 9 of these images were trained on (train)" in result.err
    assert "warning: 4 of these images were chosen on (val)" in result.err


def test_class_folders_are_the_truth_of_their_images(thawline):
    (folder,) = records("digits")
    digits = load_digits()
    for place in range(40):
        where = Path("given", str(digits.target[place]))
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[place] * 15).astype(np.uint8)).save(where / f"{place}.png")
    Path("given/7/broken.png").write_bytes(b"no image")
    Path("given/misc").mkdir()
    shutil.copy("given/3/3.png", "given/misc/a.png")
    result = thawline("predict", str(folder), "given", "--json", "said.json")
    assert result.status == 1
    said = json.loads(Path("said.json").read_text())
    assert len(said["images"]) == 42
    known = [image for image in said["images"] if "problem" not in image and "misc" not in image["image"]]
    labels = [Path(image["image"]).parts[1] for image in known]
    right = [image["class"] == label for image, label in zip(known, labels, strict=True)]
    losses = [-np.log(image["probabilities"][label]) for image, label in zip(known, labels, strict=True)]
    metrics = said["metrics"]["images"]
    Path("given/7/broken.png").unlink()
    assert len(api.load_run(folder).predict("given")) == 41
    assert (metrics["images"], metrics["top1"]) == (40, pytest.approx(np.mean(right)))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    (row,) = (line for line in result.out.splitlines() if line.startswith("top1"))
    assert row.split() == ["top1", f"{np.mean(right):.4f}"]


def test_a_folder_without_truth_says_so(thawline):
    Path("given").mkdir()
    shutil.copy("masks/test/0.png", "given")
    result = thawline("predict", "shapes", "given", "--json", "said.json")
    assert result.status == 0, result.err
    assert "no metrics: given holds neither splits.csv, nor images and masks" in result.out
    assert "metrics" not in json.loads(Path("said.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shapes", "masks/test/0.png", "--score", "0.3"), "--score: task semantic_segmentation finds no"),
        (("shapes", "nowhere.png", "empty"), "images: nowhere.png: no such file or folder"),
        (("shapes", "empty"), "images: empty: no image lies in this folder"),
        (("shape", "masks/test/0.png"), "run: no finished run 'shape'"),
        (("shapes", "masks/test", "--masks", "masks/test"), "--masks: masks/test/0.png is one of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(thawline, arguments, message):
    Path("empty").mkdir()
    before = {path: path.read_bytes() for path in Path("masks").rglob("*.png")}
    result = thawline("predict", *arguments)
    assert result.status == 2
    assert f"error: {message}" in result.err
    assert {path: path.read_bytes() for path in Path("masks").rglob("*.png")} == before


def test_classification_says_what_the_python_interface_says(thawline):
    (folder,) = records("digits")
    images = list(IMAGES)
    files = ("--json", "said.json", "--csv", "said.csv", "--draw", "drawn")
    result = thawline("predict", str(folder), *images, *files)
    assert result.status == 0, result.err
    expected = api.load_run(folder).predict(images)
    said = json.loads(Path("said.json").read_text())["images"]
    with Path("said.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    for place, (name, row) in enumerate(expected.iterrows()):
        assert said[place]["image"] == table[place]["image"] == name
        assert said[place]["class"] == table[place]["class"] == row.idxmax()
        assert said[place]["probabilities"] == pytest.approx(row.to_dict(), abs=1e-6)
        assert float(table[place][f"probability.{row.idxmax()}"]) == pytest.approx(row.max(), abs=1e-6)
        assert f"{row.max():.3f}" in result.out
    assert len(list(Path("drawn").glob("*.jpg"))) == 5
    refused = thawline("predict", str(folder), images[0], "--masks", "masks")
    assert (refused.status, "task classification gives no masks" in refused.err) == (2, True)


DETECT = (
    *(item for item in TINY if not item.startswith(("dataset", "transform"))),
    "head.strides=[8,16]",
    "head.width=16",
    "head.extra_levels=0",
    "transform.size=[40,56]",
    "trainer.batch_size=4",
    "optimizer=adamw",
    "optimizer.lr=0.003",
    "head.anchor_sizes=[16,24]",
    "head.proposals_before_nms=[60,30]",
    "head.proposals=[30,20]",
    "head.rpn_batch=32",
    "head.roi_batch=16",
    "head.box_width=16",
    "head.score_threshold=0.0",
)


def per_image(arrays, name):
    ends = np.cumsum(arrays[f"{name}_rows"])
    return np.split(arrays[name], ends[:-1])


def test_boxes_are_those_of_the_run_s_own_test(thawline, tmp_path):
    draw_yolo(tmp_path / "objects")
    trained = thawline("train", *DETECT, "dataset=yolo", "dataset.root=objects", "output_dir=found")
    assert trained.status == 0, trained.err
    (folder,) = records("found")
    arrays = np.load(folder / "predictions.npz")
    scores = per_image(arrays, "scores")
    least = float(np.median(np.concatenate(scores)))
    images = [f"objects/images/test/{place}.png" for place in range(4)]
    files = ("--json", "said.json", "--csv", "said.csv", "--draw", "drawn", "--score", repr(least))
    result = thawline("predict", str(folder), *images, *files)
    assert result.status == 0, result.err
    said = json.loads(Path("said.json").read_text())["images"]
    with Path("said.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    boxes, labels = per_image(arrays, "boxes"), per_image(arrays, "labels")
    for place, path in enumerate(images):
        kept = scores[place] >= least
        order = np.argsort(-scores[place][kept], kind="stable")
        objects = said[place]["objects"]
        assert (said[place]["image"], said[place]["width"], said[place]["height"]) == (path, 64, 48)
        assert [one["class"] for one in objects] == [OBJECTS[label] for label in labels[place][kept][order]]
        expected = boxes[place][kept][order]
        assert np.array([one["box"] for one in objects]).reshape(-1, 4) == pytest.approx(expected, abs=1e-3)
        assert [one["score"] for one in objects] == pytest.approx(scores[place][kept][order], abs=1e-5)
        rows = [row for row in table if row["image"] == path]
        assert [float(row["xmin"]) for row in rows] == [one["box"][0] for one in objects]
        assert Image.open(f"drawn/{place}.jpg").size == (256, 192)
    by_python = api.load_run(folder).evaluate("objects")
    expected = {name: value for name, value in load_record(folder).metrics["test"].items() if value is not None}
    assert by_python.loc["test", list(expected)].to_dict() == pytest.approx(expected, abs=1e-6)
    gallery = json.loads((folder / "gallery" / "gallery.json").read_text())["images"]
    counts = image_counts(arrays)
    for image in gallery:
        assert image["score"] == counts[int(Path(image["key"]).stem)]
    assert [image["place"] for image in gallery] == ["worst", "worst", "best", "best"]
    assert [image["score"] for image in gallery[:2] + gallery[:1:-1]] == sorted(counts)
    assert thawline("verify", str(folder)).status == 0


def image_counts(arrays):
    """The F1 of each image's boxes of a score of 0.5 at IoU 0.5, by plain loops."""
    found = []
    for place in range(len(arrays["scores_rows"])):
        truth = list(zip(per_image(arrays, "true_boxes")[place], per_image(arrays, "true_labels")[place], strict=True))
        scores = per_image(arrays, "scores")[place]
        right = wrong = 0
        for row in np.argsort(-scores, kind="stable"):
            if scores[row] < 0.5:
                continue
            box, label = per_image(arrays, "boxes")[place][row], per_image(arrays, "labels")[place][row]
            overlaps = [overlap(box, other) if label == of else 0.0 for other, of in truth]
            if overlaps and max(overlaps) >= 0.5:
                truth.pop(int(np.argmax(overlaps)))
                right += 1
            else:
                wrong += 1
        total = 2 * right + wrong + len(truth)
        found.append(2 * right / total if total else 1.0)
    return found


def overlap(one, other):
    sides = [min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis]) for axis in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.slow
def test_masks_of_objects_are_those_of_the_run_s_own_test(thawline, tmp_path):
    draw_instances(tmp_path / "walkers")
    settings = ("dataset=instance_folder", "dataset.root=walkers", "output_dir=found", "trainer.max_epochs=1")
    trained = thawline("train", *DETECT, *settings)
    assert trained.status == 0, trained.err
    (folder,) = records("found")
    gallery = json.loads((folder / "gallery" / "gallery.json").read_text())["images"]
    arrays = np.load(folder / "predictions.npz")
    # the run's own order of its test images, from the keys of its gallery
    keys = sorted((image["key"] for image in gallery), key=lambda key: int(Path(key).stem))
    everything = thawline("predict", str(folder), "walkers/PNGImages", "--json", "said.json", "--score", "0")
    assert everything.status == 0, everything.err
    said = {entry["image"]: entry for entry in json.loads(Path("said.json").read_text())["images"]}
    runs = {tuple(part.tolist()) for part in np.split(arrays["masks"], np.cumsum(arrays["mask_runs"])[:-1])}
    for key in keys:
        entry = said[f"walkers/{key}"]
        assert entry["objects"]
        for item in entry["objects"]:
            assert (item["mask"]["size"], sum(item["mask"]["counts"])) == ([48, 64], 48 * 64)
            assert tuple(item["mask"]["counts"]) in runs
