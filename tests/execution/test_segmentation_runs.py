"""Runs of semantic segmentation through the public command: the store, devices, phases, shifts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import TINY, records
from tests.masked_squares import CLASSES, UNLABELLED, draw_masks
from thawline.evaluation.images import image_values
from thawline.records import Record, load_record

SEGMENT = (
    *(item for item in TINY if not item.startswith(("dataset", "transform"))),
    "dataset=mask_folder",
    "dataset.root=squares",
    f"dataset.classes=[{','.join(CLASSES)}]",
    "transform.size=[32,40]",
    "head.width=8",
    "trainer.batch_size=4",
    "optimizer.lr=0.05",
)

FLIP = "{_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 0.5}"
CROP = "{_target_: torchvision.transforms.v2.RandomResizedCrop, scale: [0.5, 1.0]}"


@pytest.fixture
def segment(thawline, tmp_path):
    """Train one configuration on drawn masks and return its record."""
    draw_masks(tmp_path / "squares")

    def run(*overrides: str, place: str = "outputs") -> Record:
        before = set(records(place))
        result = thawline("train", *SEGMENT, f"output_dir={place}", *overrides)
        assert result.status == 0, result.err
        (new,) = set(records(place)) - before
        return load_record(new)

    return run


def losses(record: Record) -> list[float]:
    return [row[name] for row in record.history for name in ("train/loss", "val/loss")]


def weights(record: Record, place: str = "outputs") -> dict[str, torch.Tensor]:
    return load_file(f"{place}/runs/{record.identity}/best.safetensors")


@pytest.mark.parametrize("k", ["0", "2", pytest.param("all", marks=pytest.mark.slow)])
def test_the_store_changes_no_number(segment, k):
    stored = segment(f"freeze_policy.k={k}", "cache.mode=on")
    plain = segment(f"freeze_policy.k={k}", "cache.mode=off", place="plain")
    assert [stored.phases[0].thaw_line.stored, plain.phases[0].thaw_line.stored] == [k != "all", False]
    assert plain.identity == stored.identity
    assert losses(plain) == pytest.approx(losses(stored), abs=1e-6)
    assert plain.metrics["test"] == pytest.approx(stored.metrics["test"], abs=1e-6)
    again = weights(plain, "plain")
    for name, tensor in weights(stored).items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)


def test_stored_views_are_the_augmented_run_itself(segment):
    """The maps of each view are kept, and the masks move as their images did."""
    views = (
        f"transform.augmentation=[{FLIP},{CROP}]",
        "cache.views=2",
        "trainer.max_epochs=3",
        "freeze_policy.k=0",
    )
    stored, plain = segment(*views, "cache.mode=on"), segment(*views, "cache.mode=off", place="plain")
    assert stored.phases[0].thaw_line.stored
    assert losses(plain) == pytest.approx(losses(stored), abs=1e-6)


def test_the_metrics_are_those_of_the_masks_in_the_images_own_pixels(segment, thawline):
    record = segment("freeze_policy.k=1")
    folder = Path("outputs/runs") / record.identity
    with np.load(folder / "predictions.npz") as kept:
        counts = {name: kept[name].astype(np.int64) for name in ("intersection", "predicted", "truth")}
        of_images = image_values({name: kept[name] for name in kept.files}, "mean_iou")
    masks = [np.array(Image.open(f"squares/testannot/{index}.png")) for index in range(5)]
    expected = [[int((mask == label).sum()) for label in range(len(CLASSES))] for mask in masks]
    assert counts["truth"].tolist() == expected
    labelled = [int((mask != UNLABELLED).sum()) for mask in masks]
    assert counts["predicted"].sum(axis=1).tolist() == labelled
    intersection, union = counts["intersection"].sum(0), (counts["predicted"] + counts["truth"]).sum(0)
    iou = intersection / (union - intersection)
    assert record.metrics["test"]["mean_iou"] == pytest.approx(iou.mean(), abs=1e-6)
    assert of_images.value == pytest.approx(iou.mean())
    assert [record.per_class[name]["iou"] for name in CLASSES] == pytest.approx(iou.tolist(), abs=1e-6)
    assert record.metrics["test"]["pixel_accuracy"] == pytest.approx(intersection.sum() / sum(labelled), abs=1e-6)
    assert (record.headline, record.selection.monitor) == ("mean_iou", "val/mean_iou")
    assert record.splits["test"].per_class == [sum(label in mask for mask in masks) for label in range(3)]
    assert thawline("verify", str(folder)).status == 0


def test_an_edited_mask_is_another_run(segment):
    one = segment("freeze_policy.k=0")
    mask = np.array(Image.open("squares/trainannot/0.png"))
    mask[5, 5] = 2
    Image.fromarray(mask).save("squares/trainannot/0.png")
    assert segment("freeze_policy.k=0").identity != one.identity


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one(segment):
    """Pixels without a label lie unevenly: the devices' losses add up by the pixels that each counts."""
    mask = np.array(Image.open("squares/trainannot/0.png"))
    mask[:, :30] = UNLABELLED
    Image.fromarray(mask).save("squares/trainannot/0.png")
    vit = ("backbone=test_vit", "backbone.input_size=32", "transform.size=32", "freeze_policy=full", "head.width=8")
    vit = (*vit, "head.normalization=none")
    fit = tuple(item for item in SEGMENT if item.startswith("trainer."))
    one = segment(*vit)
    two = segment(*vit, "trainer=ddp", "trainer.devices=2", *fit, place="two")
    assert one.identity == two.identity
    assert losses(two)[1::2] == pytest.approx(losses(one)[1::2], abs=1e-5)
    assert two.metrics["test"] == pytest.approx(one.metrics["test"], abs=1e-3)
    again = weights(two, "two")
    for name, tensor in weights(one).items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-5)


def test_corrupted_images_are_tested_with_their_own_masks(segment):
    record = segment("freeze_policy.k=0", "shift=[corruptions]", "shift.corruptions.names=[contrast]",
                     "shift.corruptions.strengths=[1,5]")  # fmt: skip
    assert record.metrics.keys() == {"val", "test", "test/contrast-1", "test/contrast-5", "test/corruptions"}
    one, five, mean = (record.metrics[f"test/{name}"]["loss"] for name in ("contrast-1", "contrast-5", "corruptions"))
    assert mean == pytest.approx((one + five) / 2)
    assert one != record.metrics["test"]["loss"]


def test_what_acts_on_weights_or_maps_takes_part_in_training(segment):
    free = segment("freeze_policy=full")
    for regularizer in ("l2_sp", "feature_matching", "stoch_norm", "delta"):
        own = ["regularizer.delta.importance=uniform"] if regularizer == "delta" else []
        pulled = segment("freeze_policy=full", f"regularizer=[{regularizer}]", *own)
        assert losses(pulled) != losses(free), regularizer
        if regularizer != "stoch_norm":
            assert all(row[f"train/{regularizer}"] > 0 for row in pulled.history), regularizer


def test_a_gradual_policy_and_rates_by_depth_train_masks_as_they_train_classes(segment):
    record = segment("freeze_policy=lp_ft", "freeze_policy.probe.epochs=1", "learning_rates=layer_decay")
    assert [phase.thaw_line.stored for phase in record.phases] == [True, False]


def test_a_sweep_ends_with_a_report_in_the_tasks_own_metric(thawline, tmp_path):
    draw_masks(tmp_path / "squares")
    fit = ("optimizer=adamw", "optimizer.lr=0.01", "trainer.max_epochs=5")
    result = thawline("train", "-m", *SEGMENT, *fit, "freeze_policy.k=0,all", "seed=0,1", "sweep.name=depths")
    assert result.status == 0, result.err
    (report,) = (path.read_text() for path in Path("outputs/sweeps/depths").rglob("report.md"))
    (line,) = [
        row for row in report.split("## Image by image")[1].split("## ")[0].splitlines() if row.startswith("| k = ")
    ]
    chosen, other, said, *_, images, seeds = (entry.strip() for entry in line.strip("|").split("|"))
    scores: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for folder in records():
        with np.load(folder / "predictions.npz") as kept:
            shares = kept["intersection"] / (kept["predicted"] + kept["truth"] - kept["intersection"])
        scores[load_record(folder).config["freeze_policy"]["k"] == 0].append(np.nanmean(shares, axis=1))
    head, full = (np.mean(scores[alone], axis=0).mean() for alone in (True, False))
    assert "k = 0" in (chosen, other)
    expected = head - full if chosen == "k = 0" else full - head
    assert abs(expected) > 0.005  # else its sign would not be seen
    assert float(said.replace("\N{MINUS SIGN}", "-")) == pytest.approx(expected, abs=6e-4)
    assert (images, seeds) == ("5", "2")
    assert "mean IoU" in report and "accuracy" not in report.replace("pixel accuracy", "")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("head=linear", "error: head: Linear is no head for semantic_segmentation; these are: deeplab, fcn, fpn, "),
        ("task=classification", "error: head: FPN is no head for classification; these are: linear, mlp, source_rows"),
        ("transform.resize=crop", "error: transform.resize: "),
        ("regularizer=[bss]", "error: regularizer.bss: it reads one feature vector of an image"),
        ("regularizer=[delta]", "error: regularizer.delta: it reads one feature vector of an image"),
        ("regularizer=[distillation]", "error: regularizer.distillation: it reads one feature vector of an image"),
        ("probe=lbfgs_path", "error: probe: it is of classification alone"),
        ("transform=trivial_augment", "TrivialAugmentWide"),
        ("head.strides=[4,64]", "error: head.strides: test_resnet"),
        ("metrics.monitor=top1", "error: metrics.monitor: 'top1' chooses no epoch of task semantic_segmentation"),
    ],
)
def test_what_has_no_meaning_for_masks_is_refused_before_training(thawline, tmp_path, override, said):
    draw_masks(tmp_path / "squares", {"train": 2, "val": 1, "test": 1})
    overrides = [item for item in SEGMENT if not (item == "head.width=8" and override == "head=linear")]
    result = thawline("train", *overrides, override)
    assert result.status == 2
    assert said in result.err
    assert not records()
