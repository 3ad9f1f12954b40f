"""Weights go from run to run with their preprocessing, and what a run reads of another is held against its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TINY
from thawline.errors import UsageError
from thawline.execution import weights
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record

IMAGES = {
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "size": (40, 40),
    "resize": "border",
    "crop_pct": 0.8,
    "interpolation": "box",
    "fill": (9, 8, 7),
    "network_size": (160, 160),
}
SOURCE = (
    "backbone.mean=[0.1,0.2,0.3]",
    "backbone.std=[0.4,0.5,0.6]",
    "transform.size=40",
    "transform.resize=border",
    "transform.crop_pct=0.8",
    "transform.interpolation=box",
    "transform.fill=[9,8,7]",
    "trainer.max_epochs=1",
)
THE_WEIGHTS_OWN = ("transform.size=null", "transform.resize=null", "trainer.max_epochs=1", "freeze_policy=linear_probe")


def flip(path: Path, offset: int = -100) -> None:
    """Damage one byte."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.slow
def test_all_preprocessing_of_a_run_travels_with_its_weights(thawline, train):
    source = train(*SOURCE)
    assert source.preprocessing.model_dump() == IMAGES
    assert thawline("export", source.identity, "--output", "away/net.safetensors").status == 0
    ways = (f"run:{source.identity}", "away/net.safetensors", f"outputs/runs/{source.identity}/model.safetensors")
    records = [
        train(
            *THE_WEIGHTS_OWN,
            f"backbone.weights={way}",
            f"output_dir={'outputs' if 'run:' in way else f'other{number}'}",
        )
        for number, way in enumerate(ways)
    ]
    for way, record in zip(ways, records, strict=True):
        assert record.preprocessing.model_dump() == IMAGES, way
        assert record.metrics == records[0].metrics, way
    # What the configuration says wins, field by field.
    (own,) = [train(*THE_WEIGHTS_OWN, f"backbone.weights={ways[0]}", "backbone.mean=[0,0,0]", "transform.size=24")]
    assert own.preprocessing.model_dump() == {**IMAGES, "mean": (0, 0, 0), "size": (24, 24)}


def test_the_preprocessing_of_a_source_stage_is_the_target_s_too(train):
    images = "+source.transform={size: 40, resize: border, crop_pct: 0.8, interpolation: box}"
    record = train("source=digits_low", "source.trainer.max_epochs=1", images, "source.dataset.n_per_class=4",
                   "dataset=digits_high", "dataset.n_per_class=4", *THE_WEIGHTS_OWN)  # fmt: skip
    assert record.preprocessing.size == (40, 40)
    assert record.preprocessing.resize == "border"
    assert (record.preprocessing.crop_pct, record.preprocessing.interpolation) == (0.8, "box")


def test_files_beside_weights_are_in_the_identity(train):
    source = train(*SOURCE)
    Path("beside").mkdir()
    folder = Path("outputs/runs", source.identity)
    train(*THE_WEIGHTS_OWN, f"backbone.weights=run:{source.identity}")  # makes the model's file
    save_file(load_file(folder / "model.safetensors"), "beside/net.safetensors")  # without metadata
    record_file, labels = Path("beside/record.json"), Path("beside/net.labels.txt")
    values = json.loads((folder / "record.json").read_text())
    record_file.write_text(json.dumps(values))
    config = train(*THE_WEIGHTS_OWN, "backbone.weights=beside/net.safetensors", "output_dir=other").config

    def identity():
        return plan_run(config, (), Session()).identity

    seen = [identity()]
    values["preprocessing"]["mean"][0] = 0.11
    record_file.write_text(json.dumps(values))
    seen.append(identity())
    values["classes"][0], values["classes"][1] = values["classes"][1], values["classes"][0]
    record_file.write_text(json.dumps(values))
    seen.append(identity())
    labels.write_text("".join(f"{name}\n" for name in "abcdefghij"))
    seen.append(identity())
    labels.write_text("".join(f"{name}\n" for name in "bacdefghij"))
    seen.append(identity())
    assert len(set(seen)) == len(seen)
    labels.write_text("a\n")
    with pytest.raises(UsageError, match="names 1 classes, but the classifier has 10 rows"):
        identity()


TRANSFER = (
    "source=digits_low", "source.trainer.max_epochs=1", "source.dataset.n_per_class=4", "dataset=digits_high",
    "dataset.n_per_class=4", "trainer.max_epochs=1",
)  # fmt: skip


@pytest.mark.slow
def test_a_damaged_model_of_a_source_is_named_and_made_again(thawline, train):
    first = train(*TRANSFER)
    source = Path("outputs/runs", first.provenance.source_run)
    model = source / "model.safetensors"
    whole = model.read_bytes()
    tensors = load_file(model)
    # The metadata is kept, one tensor is zero.
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    tensors["backbone.conv1.weight" if "backbone.conv1.weight" in tensors else next(iter(tensors))].zero_()
    save_file(tensors, model, metadata=header["__metadata__"])
    assert model.read_bytes() != whole
    told = thawline("verify", str(source))
    assert told.status == 1
    assert "model.safetensors: its tensors are not those that were written" in told.out + told.err
    second = train(*TRANSFER, "seed=1")
    assert second.metrics["before/source"] == first.metrics["before/source"]
    assert second.metrics["before/source"]["top1"] == pytest.approx(load_record(source).metrics["val"]["top1"])
    assert model.read_bytes() == whole


@pytest.mark.slow
def test_a_damaged_run_is_not_read_by_others(thawline, train):
    ends = [train("freeze_policy=linear_probe", f"seed={seed}", "trainer.max_epochs=1") for seed in (0, 1)]
    teacher = Path("outputs/runs", ends[0].identity)
    assert thawline("export", ends[0].identity, "--output", "net.safetensors").status == 0
    flip(teacher / "best.safetensors")
    taught = f"{{_target_: thawline.backbones.TimmBackbone, name: test_resnet, weights: 'run:{ends[0].identity}'}}"
    said = f"{teacher / 'best.safetensors'}: damaged: its SHA-256 is not the record's"
    for command in (
        ("train", "backbone.weights=run:" + ends[0].identity),
        ("train", "regularizer=feature_matching", "regularizer.feature_matching.teacher=" + taught),
        ("export", ends[0].identity, "--output", "again.safetensors"),
        ("average", str(teacher), "--method", "wise_ft"),
    ):  # fmt: skip
        result = thawline(command[0], *(TINY if command[0] == "train" else ()), *command[1:])
        assert result.status != 0, command
        assert said in result.err, (command, result.err)
    flip(Path("net.safetensors"))
    result = thawline("train", *TINY, "backbone.weights=net.safetensors")
    assert result.status == 2
    assert "net.safetensors: damaged: its tensors are not those that were written" in result.err


@pytest.mark.slow
def test_a_copy_that_is_not_what_its_source_recorded_is_refused(thawline, train, monkeypatch):
    first = train(*TRANSFER)
    source = Path("outputs/runs", first.provenance.source_run)
    # A rebuilt model that is another one, as of other software: no hash can show it.
    restore = weights.restore

    def wrongly(model, file):
        restore(model, file)
        with torch.no_grad():
            model.head.weight.mul_(-50)

    monkeypatch.setattr(weights, "restore", wrongly)
    (source / "model.safetensors").unlink()
    result = thawline("train", *TINY, *TRANSFER, "seed=1")
    assert result.status == 1
    assert f"the copy of run {source.name} has a validation" in result.err
