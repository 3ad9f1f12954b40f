"""The gallery of a run: its worst and best test images by what the run kept of each, drawn and hashed."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import records
from tests.masked_squares import CLASSES, UNLABELLED, draw_masks
from thawline.cli import main
from thawline.records import load_record
from thawline.reports import find_sweep
from thawline.tasks.drawing import COLOURS

TRAIN = (
    "backbone=test_resnet",
    "dataset=mask_folder",
    "dataset.root=masks",
    f"dataset.classes=[{','.join(CLASSES)}]",
    "head=fpn",
    "head.width=8",
    "transform.size=[32,48]",
    "optimizer=adamw",
    "optimizer.lr=0.01",
    "trainer.max_epochs=8",
    "trainer.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "logger=none",
)
TESTED = 7


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished sweep over two depths and two seeds."""
    folder = tmp_path_factory.mktemp("finished")
    draw_masks(folder / "masks", {"train": 8, "val": 3, "test": TESTED})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-m", *TRAIN, "freeze_policy.k=0,1", "seed=0,1", "sweep.name=shapes"]) == 0
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    """A copy of its own for each test: the runs by depth and seed."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    found = {}
    for folder in records():
        record = load_record(folder)
        found[record.config["freeze_policy"]["k"], record.config["seed"]] = folder
    return found


def mean_iou(folder):
    """The mean IoU of each test image, test/0.png ... in their order, from the pixel counts on file."""
    arrays = np.load(folder / "predictions.npz")
    assert arrays["index"].tolist() == sorted(arrays["index"].tolist())
    scores = {}
    for place in range(TESTED):
        found = []
        for index in range(arrays["truth"].shape[1]):
            shared = int(arrays["intersection"][place, index])
            union = int(arrays["predicted"][place, index]) + int(arrays["truth"][place, index]) - shared
            found += [shared / union] if union else []
        scores[f"test/{place}.png"] = math.fsum(found) / len(found)
    return scores


def gallery_of(folder):
    return json.loads((folder / "gallery" / "gallery.json").read_text())["images"]


def test_the_worst_and_the_best_images_are_those_of_the_evidence(runs, thawline):
    folder = runs[1, 0]
    scores = mean_iou(folder)
    ranked = sorted(scores, key=lambda key: (scores[key], key))
    best = sorted(ranked[3:], key=lambda key: (-scores[key], key))[:3]
    expected = [("worst", number, key) for number, key in enumerate(ranked[:3], start=1)]
    expected += [("best", number, key) for number, key in enumerate(best, start=1)]
    images = gallery_of(folder)
    assert [(image["place"], image["number"], image["key"]) for image in images] == expected
    assert [image["score"] for image in images] == pytest.approx([scores[key] for _, _, key in expected])
    files = load_record(folder).files
    names = ["gallery/gallery.json", *(f"gallery/{image['file']}" for image in images)]
    assert sorted(name for name in files if name.startswith("gallery")) == sorted(names)
    for name in names:
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == files[name]
        assert len(content) <= 80_000
    assert thawline("verify", "shapes").status == 0
    (folder / "gallery" / "worst-1.jpg").write_bytes(b"another")
    result = thawline("verify", "shapes")
    assert (result.status, "gallery/worst-1.jpg: its SHA-256" in result.out + result.err) == (1, True)


def test_the_panels_are_the_image_its_truth_and_the_prediction(runs, thawline):
    folder = runs[1, 0]
    first = gallery_of(folder)[0]
    drawn = np.asarray(Image.open(folder / "gallery" / first["file"]), dtype=np.float64)
    pixels = np.asarray(Image.open(Path("masks") / first["key"]), dtype=np.float64)
    truth = np.array(Image.open(Path("masks") / first["key"].replace("test/", "testannot/")))
    # four times as large, under a title, with 8 pixels between the panels
    height, width = 4 * truth.shape[0], 4 * truth.shape[1]
    top = (drawn.max(axis=2) < 250).argmax(axis=0)
    assert drawn.shape[1] == 3 * width + 16
    title = round(1.5 * 12)
    assert top.min() < title
    result = thawline("predict", folder.name, f"masks/{first['key']}", "--masks", "said")
    assert result.status == 0, result.err
    said = np.array(Image.open(Path("said") / Path(first["key"]).name))
    assert said.shape == truth.shape and not np.array_equal(said, truth)
    for place, mask in ((1, truth), (2, said)):
        panel = drawn[title : title + height, place * (width + 8) : place * (width + 8) + width]
        for index in np.unique(mask[mask != UNLABELLED]):
            inner = mask == index
            for shift in ((1, 0), (-1, 0), (0, 1), (0, -1), (2, 0), (-2, 0), (0, 2), (0, -2)):
                inner &= np.roll(mask, shift, (0, 1)) == index
            inner[[0, 1, -1, -2]] = inner[:, [0, 1, -1, -2]] = False
            if inner.sum() < 30:
                continue
            found = np.median(panel[2::4, 2::4][inner], axis=0)
            expected = np.median(0.5 * pixels[inner] + 0.5 * np.array(COLOURS[index]), axis=0)
            assert np.abs(found - expected).max() < 12, (place, index)


def test_the_report_embeds_the_images_of_the_best_run(runs, thawline):
    result = thawline("report", "shapes")
    assert result.status == 0, result.err
    report = find_sweep("shapes", Path("outputs")) / "report"
    page = (report / "report.html").read_text()
    embedded = [base64.b64decode(text) for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    # the chosen depth by its mean validation mean IoU over the seeds, and its best seed
    val = {key: load_record(folder).metrics["val"] for key, folder in runs.items()}
    means = {k: (val[k, 0]["mean_iou"] + val[k, 1]["mean_iou"]) / 2 for k in (0, 1)}
    k = max(means, key=means.__getitem__)
    seed = max((0, 1), key=lambda seed: (val[k, seed]["mean_iou"], -val[k, seed]["loss"]))
    folder = runs[k, seed]
    images = gallery_of(folder)
    assert embedded == [(folder / "gallery" / image["file"]).read_bytes() for image in images]
    assert 4 / 3 * sum(map(len, embedded)) < 1_000_000
    assert folder.name in page
    markdown = (report / "report.md").read_text()
    for image in images:
        said = f"{image['place'].capitalize()} {image['number']}: {image['key']}, {image['score']:.3f}"
        assert f'alt="{said}.' in page
        name = f"gallery-{image['place']}-{image['number']}.jpg"
        assert f"]({name})" in markdown
        assert (report / name).read_bytes() == (folder / "gallery" / image["file"]).read_bytes()


def test_the_report_leaves_out_drawings_that_are_not_what_the_run_wrote(runs, thawline):
    for folder in runs.values():
        (folder / "gallery" / "worst-1.jpg").write_bytes(b"\xff\xd8\xff another")
    assert thawline("report", "shapes").status == 0
    report = find_sweep("shapes", Path("outputs")) / "report"
    page = (report / "report.html").read_text()
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == 5
    assert "1 of its drawings are missing or damaged" in page


def test_the_report_has_each_class_of_the_chosen_runs(runs, thawline):
    assert thawline("report", "shapes").status == 0
    report = find_sweep("shapes", Path("outputs")) / "report"
    lines = (report / "report.md").read_text().splitlines()
    start = lines.index("## By class")
    (heading,) = [line for line in lines[start:] if line.startswith("| class |")]
    assert heading.startswith("| class | test images | IoU | dice |")
    val = {key: load_record(folder).metrics["val"]["mean_iou"] for key, folder in runs.items()}
    k = max((0, 1), key=lambda k: val[k, 0] + val[k, 1])
    found = {}
    for line in lines[lines.index(heading) + 2 :]:
        if not line.startswith("|"):
            break
        name, images, iou, *_ = [entry.strip() for entry in line.strip("|").split("|")]
        found[name] = (int(images), float(iou.split()[0]))
    expected = {}
    for index, name in enumerate(CLASSES):
        shown = 0
        values = []
        for seed in (0, 1):
            arrays = np.load(runs[k, seed] / "predictions.npz")
            shared = arrays["intersection"][:, index].sum()
            values.append(shared / (arrays["predicted"][:, index].sum() + arrays["truth"][:, index].sum() - shared))
            shown = int((arrays["truth"][:, index] > 0).sum())
        expected[name] = (shown, pytest.approx(np.mean(values), abs=6e-4))
    assert found == expected
    assert list(found) == sorted(found, key=lambda name: found[name][1])


def test_a_classifier_leaves_its_worst_images_small_by_the_probability_of_their_class(train):
    record = train("freeze_policy.k=0")
    (folder,) = records()
    kept = np.load(folder / "predictions.npz")
    of_class = kept["probabilities"][np.arange(len(kept["label"])), kept["label"]]
    order = np.lexsort((np.arange(len(of_class)), of_class))[:8]
    gallery = json.loads((folder / "gallery" / "gallery.json").read_text())
    assert gallery["drawn"] is False
    assert gallery["score"] == "probability of the image's class"
    assert [image["index"] for image in gallery["images"]] == kept["index"][order].tolist()
    assert [image["score"] for image in gallery["images"]] == pytest.approx(of_class[order].tolist())
    pixels = load_digits().images
    for image in gallery["images"]:
        content = (folder / "gallery" / image["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == record.files[f"gallery/{image['file']}"]
        assert len(content) <= 6000
        drawn = np.asarray(
            Image.open(folder / "gallery" / image["file"]).convert("L").resize((8, 8), Image.Resampling.BOX)
        )
        assert np.corrcoef(drawn.ravel(), pixels[image["index"]].ravel())[0, 1] > 0.95
