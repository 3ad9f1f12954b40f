"""Further test sets: corrupted copies of the test images, and a second data set through its class map."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY, per_class, records
from tests.execution.test_train import FOREVER, numbers
from thawline.datasets import Digits
from thawline.errors import UsageError
from thawline.evaluation.corruptions import corrupt
from thawline.execution.weights import build_model, restore
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.planning.shift import Corruptions, OtherDataset, shifted_sets
from thawline.records import load_record
from thawline.specs import resolve
from thawline.tasks.classification.metrics import classification_metrics
from thawline.transforms import Transform

FEW = ("shift=corruptions", "shift.corruptions.names=[gaussian_noise,contrast]", "shift.corruptions.strengths=[1,5]")
NAMES = ("gaussian_noise-1", "gaussian_noise-5", "contrast-1", "contrast-5")
TRANSFORM = Transform(size=16, resize="squash", interpolation="bilinear", crop_pct=1.0)


def load(dataset):
    return dataset.load(0)


def tuned(record):
    """The plan and the chosen model of a finished run."""
    session = Session()
    plan = plan_run(record.config, (), session)
    model = build_model(RunContext(plan, session))
    restore(model, Path("outputs/runs") / record.identity / "best.safetensors")
    return plan, model.eval()


# Corruptions ----------


def test_corrupted_test_pictures_are_judged_beside_the_clean_ones(train):
    record = train(*FEW, "optimizer.lr=0.05")
    shifted = [f"test/{name}" for name in NAMES]
    assert set(record.metrics) == {"val", "test", "test/corruptions", *shifted}
    assert all(set(values) == FOREVER for values in record.metrics.values())
    for metric in FOREVER:
        mean = np.mean([record.metrics[name][metric] for name in shifted])
        assert record.metrics["test/corruptions"][metric] == pytest.approx(mean, rel=1e-12)
    assert set(record.splits) == {"train", "val", "test"}


def test_each_set_is_the_chosen_model_on_the_corrupted_pixels(train):
    record = train(*FEW, "optimizer.lr=0.05")
    plan, model = tuned(record)
    test = plan.splits.test
    for name in NAMES:
        corruption, strength = name.rsplit("-", 1)
        images = torch.stack(
            [
                corrupt(plan.transform.decode(test.images.read(int(i))), corruption, int(strength), int(i))
                for i in test.indices
            ]
        )
        with torch.inference_mode():
            metrics = classification_metrics(10, 5)
            metrics.update(model(images), torch.from_numpy(test.targets))
        expected = {metric: float(value) for metric, value in metrics.compute().items()}
        assert record.metrics[f"test/{name}"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_further_tests_change_nothing_else_of_the_run_but_its_identity(train):
    plain, shifted = train("freeze_policy.k=1"), train(*FEW, "freeze_policy.k=1")
    assert plain.identity != shifted.identity
    kept = {name: shifted.metrics[name] for name in plain.metrics}
    assert numbers(plain) == {**numbers(shifted), "metrics": kept}


@pytest.mark.slow
def test_the_sets_are_the_same_with_and_without_the_store_and_for_every_batch_size(train):
    first = train(*FEW)
    shutil.rmtree("outputs")
    again = train(*FEW, "cache.mode=off", "trainer.eval_batch_size=37")
    for name, values in first.metrics.items():
        assert again.metrics[name] == pytest.approx(values, rel=1e-5)


def test_clean_pictures_judged_as_a_shift_are_the_test_set(train):
    record = train("shift=dataset", "dataset@shift.other.dataset=digits")
    assert record.metrics["test/other"] == pytest.approx(record.metrics["test"], rel=1e-5)
    assert "test/other" not in record.splits


def test_corruption_sets_of_the_spec():
    spec = Corruptions(names=("jpeg", "contrast"), strengths=(1, 5))
    sets = shifted_sets({"corruptions": spec}, load(Digits()), TRANSFORM, load)
    assert [item.name for item in sets] == ["jpeg-1", "jpeg-5", "contrast-1", "contrast-5"]
    assert {item.mean for item in sets} == {"corruptions"}
    assert len({str(item.pixels) for item in sets}) == 4
    assert len(shifted_sets({"corruptions": Corruptions()}, load(Digits()), TRANSFORM, load)) == 25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ["gausian_noise"]}, "there is no corruption 'gausian_noise'; nearest: gaussian_noise"),
        ({"names": ["fog"]}, "corruptions: gaussian_noise, shot_noise"),
        ({"names": []}, "names"),
        ({"names": ["jpeg", "jpeg"]}, "each is given once"),
        ({"strengths": [0]}, "strengths.0"),
        ({"strengths": [6]}, "strengths.0"),
        ({"strength": 3}, "unknown field; nearest: strengths"),
    ],
)
def test_a_wrong_corruption_is_named_before_any_training(values, message):
    with pytest.raises(UsageError, match="shift") as caught:
        resolve({"_target_": "thawline.planning.shift.Corruptions", **values}, "shift")
    assert message in str(caught.value)


def test_a_wrong_corruption_ends_the_command(thawline):
    result = thawline("train", *TINY, "shift=corruptions", "shift.corruptions.names=[gausian_noise]")
    assert result.status == 2
    assert "shift.corruptions.names: there is no corruption 'gausian_noise'; nearest: gaussian_noise" in result.err
    assert records() == []


# A second data set ----------


def test_a_second_data_set_is_judged_over_the_classes_that_both_have(train):
    record = train("shift=dataset", "dataset@shift.other.dataset=digits_low", "optimizer.lr=0.05")
    plan, model = tuned(record)
    low = Digits(classes=list(range(5))).load(0).test
    with torch.inference_mode():
        logits = model(torch.stack([plan.transform.decode(low.images.read(int(i))) for i in low.indices]))[:, :5]
    right = (logits.argmax(dim=1).numpy() == low.targets).mean()
    assert record.metrics["test/other"]["top1"] == pytest.approx(right, abs=1e-6)
    assert record.splits["test/other"].samples == len(low)
    assert record.splits["test/other"].per_class == per_class(low, 5)
    most = max(per_class(low, 5)) / len(low)
    assert record.splits["test/other"].constant_scores == {"top1": most, "macro_accuracy": 0.2}
    assert record.splits["test/other"].sha256 == low.sha256
    assert "test/other is evaluated over 5 of 10 classes: 0, 1, 2, 3, 4" in record.notes


def folder_of(root: Path, classes: dict[str, int]) -> Path:
    """Images of some digits under other names: class folders below ``test`` and ``train``."""
    images = load(Digits()).images
    for part in ("train", "test"):
        for name, digit in classes.items():
            (root / part / name).mkdir(parents=True)
            for place, index in enumerate(np.flatnonzero(images.targets == digit)[: 7 if part == "test" else 4]):
                images.read(int(index)).save(root / part / name / f"{place}.png")
    return root


@pytest.mark.slow
def test_a_class_map_gives_the_second_sets_classes_their_place(train, tmp_path):
    root = folder_of(tmp_path / "words", {"drei": 3, "sieben": 7, "auch_drei": 3, "unknown": 1})
    record = train(
        "shift=dataset",
        f"shift.other.dataset.root={root}",
        "shift.other.name=words",
        "shift.other.class_map={drei: 3, auch_drei: 3, sieben: 7}",
        "optimizer.lr=0.05",
    )
    assert record.splits["test/words"].per_class == [14, 7]
    assert record.notes[-2:] == [
        "test/words is evaluated over 2 of 10 classes: 3, 7",
        "test/words leaves out 1 class of its data set: unknown",
    ]
    plan, model = tuned(record)
    images = load(Digits()).images
    rows = {digit: np.flatnonzero(images.targets == digit)[:7] for digit in (3, 7)}
    right = []
    for place, (digit, times) in enumerate(((3, 2), (7, 1))):
        with torch.inference_mode():
            logits = model(torch.stack([plan.transform.decode(images.read(int(i))) for i in rows[digit]]))
        right += times * (logits[:, [3, 7]].argmax(dim=1) == place).tolist()
    assert record.metrics["test/words"]["top1"] == pytest.approx(np.mean(right), abs=1e-6)
    whole = train(
        "shift=dataset",
        f"shift.other.dataset.root={root}",
        "shift.other.name=words",
        "shift.other.class_map={drei: 3, auch_drei: 3, sieben: 7}",
        "shift.other.part=all",
        "optimizer.lr=0.05",
    )
    assert whole.splits["test/words"].per_class == [22, 11]


def test_several_shifts_at_once(train):
    record = train(
        "shift=[corruptions,dataset]",
        "shift.corruptions.names=[jpeg]",
        "shift.corruptions.strengths=[3]",
        "dataset@shift.other.dataset=digits_high",
    )
    assert set(record.metrics) == {"val", "test", "test/jpeg-3", "test/corruptions", "test/other"}


def test_the_second_sets_pictures_decide_the_identity(train, tmp_path):
    root = folder_of(tmp_path / "words", {"3": 3, "7": 7})
    options = ("shift=dataset", f"shift.other.dataset.root={root}")
    first = train(*options)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(root / "test" / "3" / "0.png")
    assert train(*options).identity != first.identity


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("shift.other.class_map={5: 5, sechs: 6}",), "class_map: the second data set has no class 'sechs'"),
        (("shift.other.class_map={5: 5, 6: 16}",), "class_map: the target data set has no class '16'; nearest: 6, 1"),
        (("shift.other.class_map={5: 5, 6: 5}",), "two target classes or more are needed to choose among"),
        (("dataset.classes=[0,1,2,3,4]",), "two target classes or more are needed to choose among; it maps to 0"),
        (("shift.other.name=a/b",), "shift.other.name"),
        (("shift.other.part=val",), "shift.other.part"),
        (("shift=[corruptions,dataset]", "shift.other.name=jpeg-3"), "two test sets are called 'jpeg-3'"),
        (("shift=[corruptions,dataset]", "shift.other.name=corruptions"), "two test sets are called 'corruptions'"),
    ],
)
def test_a_second_data_set_that_does_not_fit_is_refused_before_any_training(thawline, overrides, message):
    start = ("shift=dataset", "dataset@shift.other.dataset=digits_high")
    result = thawline("train", *TINY, *start, *overrides)
    assert result.status == 2
    assert message in result.err
    assert records() == []


def test_a_second_data_set_that_is_not_there_is_refused(thawline, tmp_path):
    result = thawline("train", *TINY, "shift=dataset", f"shift.other.dataset.root={tmp_path / 'nowhere'}")
    assert result.status == 2
    assert "shift.other.dataset" in result.err
    assert "nowhere" in result.err


@pytest.mark.slow
def test_the_source_stage_has_no_further_tests(train):
    record = train(
        *FEW,
        "source=digits_low",
        "source.trainer.max_epochs=1",
        "source.dataset.n_per_class=4",
        "dataset=digits_high",
        "diagnostics.cka=true",
    )
    (source,) = [folder for folder in records() if folder.name != record.identity]
    assert set(load_record(source).metrics) == {"val", "test"}
    assert set(load_record(source).diagnostics) == {"drift"}
    assert {"test/corruptions", "before/source"} <= set(record.metrics)


def test_other_dataset_is_a_shift_for_any_target():
    spec = OtherDataset(dataset=Digits(), class_map={"1": "eins", "2": "zwei"})
    target = load(Digits(classes=[1, 2]))
    named = type(target)(target.train, target.val, target.test, ("eins", "zwei"), target.fingerprint)
    (item,) = shifted_sets({"other": spec}, named, TRANSFORM, load)
    digits = load(Digits())
    expected = [i for i in digits.test.indices if digits.images.targets[i] in (1, 2)]
    assert item.split.indices.tolist() == expected
    assert (item.targets[expected] + 1).tolist() == digits.images.targets[expected].tolist()
    assert item.outputs.tolist() == [0, 1]
