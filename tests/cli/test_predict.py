"""`thawline predict`: a run's model on any images, in their own pixels; its masks are those of its own test."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import thawline as api
from tests.conftest import TINY, records
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
    assert (result.out.count("48 x 40"), result.out.count("47 x 33")) == (3, 2)


def test_what_cannot_be_read_is_named_and_the_others_go_on(thawline):
    Path("given/deep").mkdir(parents=True)
    shutil.copy("masks/test/0.png", "given/a.png")
    shutil.copy("masks/test/1.png", "given/deep/a.png")
    shutil.copy("masks/test/2.png", "given/a.bmp.png")
    Path("given/broken.jpg").write_bytes(b"no image")
    Path("given/.hidden.png").write_bytes(b"no image")
    Path("given/notes.txt").write_text("no image")
    result = thawline("predict", str(run_of(0)), "given", "masks/test/3.png", "--masks", "said", "--json", "j")
    assert result.status == 1
    assert result.err.splitlines() == [
        "error: given/broken.jpg: not a usable image: not an image in a supported format"
    ]
    assert sorted(str(path) for path in Path("said").rglob("*.png")) == [
        "said/3.png", "said/a.bmp.png", "said/a.png", "said/deep/a.png",
    ]  # fmt: skip
    images = json.loads(Path("j").read_text())["images"]
    assert [image["image"] for image in images if "problem" in image] == ["given/broken.jpg"]
    assert [image["image"] for image in images if "share" in image] == [
        "given/a.bmp.png", "given/a.png", "given/deep/a.png", "masks/test/3.png",
    ]  # fmt: skip


def test_a_sweep_stands_for_its_best_run_by_validation(thawline):
    best = max((run_of(0), run_of(1)), key=lambda folder: load_record(folder).metrics["val"]["mean_iou"])
    result = thawline("predict", "shapes", "masks/test/0.png")
    assert result.status == 0, result.err
    assert f"1 image by run {best.name}" in result.out


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
