"""Runs of detection and instance segmentation through the public command: the store, devices, metrics, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY, records
from tests.drawn_objects import CLASSES, boxes, draw_instances, draw_yolo, scene
from thawline.evaluation.images import image_values
from thawline.records import Record, load_record

FIT = tuple(item for item in TINY if not item.startswith(("dataset", "transform")))
SMALL = (
    "head.strides=[8,16]",
    "head.width=32",
    "head.extra_levels=0",
    "transform.size=[48,64]",
    "trainer.batch_size=4",
)
TWO_STAGES = (
    "head.anchor_sizes=[16,24]",
    "head.proposals_before_nms=[60,30]",
    "head.proposals=[30,20]",
    "head.rpn_batch=32",
    "head.roi_batch=16",
    "head.box_width=16",
)
DETECT = (*FIT, "dataset=yolo", "dataset.root=objects", *SMALL, "optimizer=adamw", "optimizer.lr=0.003")
HEADS = {
    "faster_rcnn": TWO_STAGES,
    "fcos": (),
    "retinanet": ("head.anchor_sizes=[16,24]",),
}


@pytest.fixture
def detect(thawline, tmp_path):
    """Train one configuration on drawn objects and return its record."""
    draw_yolo(tmp_path / "objects")

    def run(*overrides: str, place: str = "outputs") -> Record:
        before = set(records(place))
        result = thawline("train", *DETECT, f"output_dir={place}", *overrides)
        assert result.status == 0, result.err
        (new,) = set(records(place)) - before
        return load_record(new)

    return run


def losses(record: Record) -> list[float]:
    return [row["train/loss"] for row in record.history]


def weights(record: Record, place: str = "outputs") -> dict[str, torch.Tensor]:
    return load_file(f"{place}/runs/{record.identity}/best.safetensors")


@pytest.mark.parametrize("head", HEADS)
def test_the_store_changes_no_number_of_a_detector(detect, head):
    settings = (f"head={head}", *SMALL, *HEADS[head], "freeze_policy.k=1")
    stored = detect(*settings, "cache.mode=on")
    plain = detect(*settings, "cache.mode=off", place="plain")
    assert [stored.phases[0].thaw_line.stored, plain.phases[0].thaw_line.stored] == [True, False]
    assert plain.identity == stored.identity
    assert losses(plain) == pytest.approx(losses(stored), abs=1e-6)
    again = weights(plain, "plain")
    for name, tensor in weights(stored).items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)


def test_what_is_kept_of_each_image_are_its_boxes_in_its_own_pixels(detect, thawline):
    record = detect(*TWO_STAGES, "freeze_policy.k=0", "transform.size=[32,32]")
    folder = Path("outputs/runs") / record.identity
    with np.load(folder / "predictions.npz") as kept:
        found = {name: kept[name] for name in kept.files}
    drawn = [scene("test", index) for index in range(4)]
    assert found["true_boxes_rows"].tolist() == [2, 2, 2, 2]
    expected = [box for _, values, _ in drawn for box in boxes(values)]
    assert np.allclose(found["true_boxes"], expected, atol=1e-3)
    assert found["true_labels"].tolist() == [label for *_, labels in drawn for label in labels]
    assert found["boxes"].min(initial=0) >= 0 and found["boxes"].max(initial=0) <= 64
    assert (record.headline, record.selection.monitor, record.tie_break) == ("map", "val/map", None)
    assert record.splits["train"].per_class == [
        sum(label in scene("train", index)[2] for index in range(8)) for label in range(2)
    ]
    assert set(record.per_class) == set(CLASSES)
    assert record.metrics["test"]["map_large"] is None
    assert image_values(found, "map").value == pytest.approx(record.metrics["test"]["map"], abs=1e-9)
    assert "test has no map_large: no image shows a large object" in record.notes
    assert thawline("verify", str(folder)).status == 0


@pytest.mark.slow
def test_two_devices_train_a_detector_as_one_does(detect):
    """RetinaNet samples nothing, and its losses are means over images."""
    settings = ("head=retinanet", *SMALL, *HEADS["retinanet"], "backbone=test_vit", "backbone.input_size=32",
                "transform.size=32", "head.strides=[16]", "head.anchor_sizes=[16]", "freeze_policy.k=1")  # fmt: skip
    fit = tuple(item for item in (*FIT, *SMALL) if item.startswith("trainer."))
    one = detect(*settings)
    two = detect(*settings, "trainer=ddp", "trainer.devices=2", *fit, place="two")
    assert one.identity == two.identity
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    again = weights(two, "two")
    for name, tensor in weights(one).items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-5)
    assert two.metrics["test"] == pytest.approx(one.metrics["test"], abs=1e-3, nan_ok=True)


def test_flipped_images_are_trained_on_with_their_boxes_flipped(detect):
    flip = "transform.augmentation=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 0.5}]"
    settings = (*TWO_STAGES, "freeze_policy.k=0", flip, "cache.views=2")
    stored, plain = detect(*settings, "cache.mode=on"), detect(*settings, "cache.mode=off", place="plain")
    assert stored.phases[0].thaw_line.stored
    assert losses(plain) == pytest.approx(losses(stored), abs=1e-6)


def test_instances_are_segmented_in_a_sweep_over_depth(thawline, tmp_path):
    draw_instances(tmp_path / "walkers")
    head = (*SMALL, *TWO_STAGES, "head.mask_width=16")
    data = ("dataset=instance_folder", "dataset.root=walkers", "sweep.name=walkers")
    result = thawline("train", "-m", *FIT, *data, *head, "freeze_policy.k=0,1")
    assert result.status == 0, result.err
    found = [load_record(folder) for folder in records()]
    assert [record.headline for record in found] == ["mask_map", "mask_map"]
    assert all({"map", "map50", "mask_map", "mask_map50"} <= record.metrics["test"].keys() for record in found)
    for record in found:
        with np.load(Path("outputs/runs") / record.identity / "predictions.npz") as kept:
            of_images = image_values({name: kept[name] for name in kept.files}, "mask_map")
        assert of_images.value == pytest.approx(record.metrics["test"]["mask_map"], abs=1e-9)
    assert thawline("verify", "walkers").status == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("head=fpn", "error: head: FPN is no head for detection; these are: faster_rcnn, fcos, retinanet\n"),
        ("head.strides=[4,64]", "error: head.strides: test_resnet"),
        ("transform=randaugment", "RandAugment"),
        ("dataset.root=nowhere", "nowhere"),
    ],
)
def test_what_has_no_meaning_for_boxes_is_refused_before_training(thawline, tmp_path, override, said):
    draw_yolo(tmp_path / "objects")
    overrides = DETECT if override != "head=fpn" else [item for item in DETECT if not item.startswith("head.")]
    result = thawline("train", *overrides, override)
    assert result.status == 2
    assert said in result.err
    assert not records()
