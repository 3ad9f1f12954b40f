"""The hard test images of a report: which ones, what each setting says of them, and none that a run did not leave."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.make_records import record, scores, sweep
from tests.reports.depth_sweeps import study_of
from thawline.records import load_record, write_record
from thawline.reports.contested import hard_images

NAMES = ("cat", "dog", "owl")
# Of three images (places 10, 20 and 30 of the data set): the probabilities that each setting gives to their classes.
LABELS = [0, 1, 2]
PROBABILITIES = {
    "0": [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]],
    "1": [[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]],
    "9": [[0.2, 0.6, 0.2], [0.1, 0.2, 0.7], [0.0, 0.1, 0.9]],
}


def left_by(folder: Path, made, index: list[int], arrays: dict[str, np.ndarray]) -> None:
    """Write what a run leaves beside its record: its predictions, and a thumbnail of each of `index`."""
    (folder / "gallery").mkdir(parents=True)
    files, images = {}, []
    for number, place in enumerate(index, start=1):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), (place, 0, 0)).save(stream, "JPEG")
        name = f"worst-{number}.jpg"
        (folder / "gallery" / name).write_bytes(stream.getvalue())
        files[f"gallery/{name}"] = hashlib.sha256(stream.getvalue()).hexdigest()
        images.append(
            {"file": name, "key": f"photo {place}", "place": "worst", "number": number, "score": 0.1, "index": place}
        )
    gallery = json.dumps({"score": "probability of the image's class", "drawn": False, "images": images})
    (folder / "gallery" / "gallery.json").write_text(gallery)
    files["gallery/gallery.json"] = hashlib.sha256(gallery.encode()).hexdigest()
    np.savez(folder / "predictions.npz", **arrays)
    write_record(folder, made.model_copy(update={"files": files}))


def probabilities_of(k: str) -> dict[str, np.ndarray]:
    # In another order than that of the data set.
    order = [2, 0, 1]
    return {
        "index": np.array([10, 20, 30])[order],
        "label": np.array(LABELS)[order],
        "probabilities": np.array(PROBABILITIES[k], dtype=np.float32)[order],
    }


def hard_sweep(folder: Path, kept=probabilities_of, index=(10, 20, 30)) -> Path:
    def make(overrides, place):
        k = place["freeze_policy.k"]
        return record(overrides, k=int(k), classes=NAMES, metrics={"val": scores(0.5 + int(k) / 100)})

    made = sweep(folder, {"freeze_policy.k": ["0", "1", "9"], "seed": ["0"]}, make)
    for cell in json.loads((made / "sweep.json").read_text())["cells"]:
        run = folder / "runs" / cell["identity"]
        k = next(text.partition("=")[2] for text in cell["overrides"] if "freeze_policy.k" in text)
        left_by(run, load_record(run), list(index), kept(k))
    return made


def test_the_worst_come_first_with_what_each_setting_says(tmp_path):
    (section,) = hard_images(study_of(hard_sweep(tmp_path)))
    # Mean probabilities of the true class: cat 0.17, dog 0.40, owl 0.70; k = 9 is the best by validation.
    assert [image.caption.splitlines() for image in section.images] == [
        ["Worst 1. Truth: cat.", "k = 9, k = 1, k = 0: dog (0.70).", "photo 10"],
        ["Worst 2. Truth: dog.", "k = 9: owl (0.70).", "k = 1: cat (0.60).", "k = 0: dog (0.70).", "photo 20"],
        ["Worst 3. Truth: owl.", "k = 9, k = 1, k = 0: owl (0.70).", "photo 30"],
    ]
    assert "lowest probability of the image's class" in section.paragraphs[0]


def test_the_contested_are_those_on_which_the_settings_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("thawline.reports.contested._OF_EACH", 1)
    (section,) = hard_images(study_of(hard_sweep(tmp_path)))
    assert [image.name for image in section.images] == ["hard-worst-1", "hard-contested-1"]
    assert section.images[1].caption.splitlines()[0] == "Contested 1. Truth: dog."


def test_where_each_image_has_a_score_the_scores_are_told(tmp_path):
    given = {"0": [0.1, 0.9, np.nan], "1": [0.3, 0.9, 0.2], "9": [0.2, 0.9, 0.2]}

    def kept(k):
        return {"index": np.array([10, 20, 30]), "image_score": np.array(given[k])}

    (section,) = hard_images(study_of(hard_sweep(tmp_path, kept)))
    # Of the last image one setting has no score.
    assert [image.caption.splitlines() for image in section.images] == [
        ["Worst 1.", "k = 9: 0.200.", "k = 1: 0.300.", "k = 0: 0.100.", "photo 10"],
        ["Worst 2.", "k = 9, k = 1, k = 0: 0.900.", "photo 20"],
    ]


@pytest.mark.parametrize("damage", ["thumbnail", "predictions", "gallery"])
def test_what_is_not_as_the_run_wrote_it_is_left_out(tmp_path, damage):
    folder = hard_sweep(tmp_path)
    for run in (tmp_path / "runs").iterdir():
        if damage == "thumbnail":
            (run / "gallery" / "worst-1.jpg").write_bytes(b"\xff\xd8\xff another")
        elif damage == "predictions":
            (run / "predictions.npz").write_bytes(b"no arrays")
        else:
            (run / "gallery" / "gallery.json").unlink()
    found = [
        image.caption.partition(" Truth")[0] for section in hard_images(study_of(folder)) for image in section.images
    ]
    assert found == (["Worst 2.", "Worst 3."] if damage == "thumbnail" else [])
