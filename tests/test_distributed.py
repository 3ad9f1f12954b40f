"""One run on several devices: the numbers of one device, every sample counted once, one record, a clean end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import TINY, records
from tests.test_wandb import Seen, folders
from thawline.records import load_record
from thawline.runs import distributed
from thawline.runs.ledger import status_of
from thawline.sweeps.progress import SweepProgress

# A ViT has no batch statistics, so two devices can give the numbers of one.
VIT = ("backbone=test_vit", "backbone.input_size=32", "freeze_policy=full")
TWO = ("trainer=ddp", "trainer.devices=2")
# TINY again, after the group that `trainer=ddp` puts in place of its values.
FIT = tuple(override for override in TINY if override.startswith("trainer."))
OWN = """
from typing import Literal, final

import torch
from torch import nn

from thawline.specs import Spec


class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise ArithmeticError("the step went wrong on purpose")


class Spare(nn.Linear):
    def __init__(self, width, classes):
        super().__init__(width, classes)
        self.spare = nn.Parameter(torch.zeros(3))


@final
class WithSpare(Spec):
    kind: Literal["spare"] = "spare"

    def build(self, feature_dim, classes, source, seed):
        torch.manual_seed(seed)
        return Spare(feature_dim, len(classes))
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package of the user's, which the ranks import too."""
    (tmp_path / "own_package.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))


def predictions(record, output_dir="outputs") -> dict[str, np.ndarray]:
    return dict(np.load(Path(output_dir, "runs", record.identity, "predictions.npz")))


def test_two_ranks_count_101_test_samples_once_each_and_give_the_numbers_of_one(train):
    odd = (*VIT, "dataset.test_fraction=0.0576", "trainer.eval_batch_size=16", "trainer.gradient_clip=1.0")
    one = train(*odd)
    two = train(*odd, *TWO, *FIT, "logger=wandb", "output_dir=two")
    assert one.splits["test"].samples == 101
    assert two.identity == one.identity
    for split, values in one.metrics.items():
        assert two.metrics[split] == pytest.approx(values, abs=1e-4), split
    for ours, theirs in zip(two.history, one.history, strict=True):
        numbers = {key: value for key, value in theirs.items() if key not in ("seconds", "phase")}
        assert {key: ours[key] for key in numbers} == pytest.approx(numbers, abs=1e-4)
    assert np.array(two.confusion_matrix).sum() == 101
    counted, reference = predictions(two, "two"), predictions(one)
    assert np.array_equal(counted["index"], reference["index"])
    assert len(set(counted["index"].tolist())) == 101
    assert np.array_equal(counted["label"], reference["label"])
    assert np.allclose(counted["probabilities"], reference["probabilities"], atol=1e-4)
    assert two.notes == one.notes
    (folder,) = folders("two/runs/*")
    assert Seen(folder).steps == [0, 1]
    assert Seen(folder).exits == [0]
    left = {path.name for path in Path("two/runs", two.identity).iterdir()}
    assert {"record.json", "rank-0.log", "rank-1.log"} <= left
    assert not left & {distributed.JOB_FILE, distributed.EPOCHS_FILE, "last.ckpt"}


def test_every_epoch_is_told_as_it_ends(thawline, monkeypatch):
    told = []
    monkeypatch.setattr(SweepProgress, "epoch", lambda self, row: told.append(row))
    assert thawline("train", *TINY, *VIT, *TWO, *FIT).status == 0
    (record,) = [load_record(folder) for folder in records()]
    assert told == record.history


def test_runs_of_a_sweep_may_each_take_several_devices(thawline):
    result = thawline("train", "-m", *TINY, *VIT, *TWO, *FIT, "seed=0,1", "sweep.name=pairs")
    assert result.status == 0, result.err
    assert [load_record(folder).config["trainer"]["devices"] for folder in records()] == [2, 2]


def test_trained_batch_norms_that_see_shares_of_a_batch_are_noted(train):
    record = train(*TWO, *FIT, "freeze_policy.k=1")
    (note,) = [note for note in record.notes if "batch norms" in note]
    assert "trained on 2 devices" in note


def test_an_error_in_a_rank_is_the_run_s_error(thawline, own_package):
    broken = ("--allow", "own_package", "optimizer._target_=own_package.Broken")
    result = thawline("train", *TINY, *VIT, *TWO, *FIT, *broken)
    assert result.status == 1
    assert "ended with status 1: ArithmeticError: the step went wrong on purpose (log: " in result.err
    (folder,) = Path("outputs/runs").iterdir()
    assert status_of(folder).state == "failed"


def test_a_parameter_that_no_output_depends_on_does_not_stop_the_ranks(train, own_package):
    spare = ("--allow", "own_package", "++head={_target_: own_package.WithSpare}", "~head.dropout", "~head.init")
    record = train(*VIT, *TWO, *FIT, *spare)
    (contract,) = record.freeze_contract["phases"]
    assert contract["unused"] == ["head.spare"]


def ranks() -> list[psutil.Process]:
    """The rank processes that this process has started, by rank."""
    children = [child for child in psutil.Process().children() if "thawline.runs.rank" in child.cmdline()]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def test_a_rank_that_is_killed_ends_the_run_and_the_other_ranks(thawline, monkeypatch):
    seen: list[psutil.Process] = []

    def kill(progress, row):
        if not seen:
            seen.extend(ranks())
            seen[1].kill()

    monkeypatch.setattr(SweepProgress, "epoch", kill)
    result = thawline("train", *TINY, *VIT, *TWO, *FIT, "trainer.max_epochs=1000")
    assert result.status == 1
    assert "rank 1 was killed by SIGKILL: " in result.err
    assert len(seen) == 2
    assert not any(process.is_running() for process in seen)
    assert records() == []


@pytest.mark.slow
def test_a_signal_reaches_the_ranks_and_the_run_goes_on_to_the_same_end(thawline, train, monkeypatch):
    longer = (*VIT, *TWO, *FIT, "trainer.max_epochs=40", "trainer.threads=1")
    whole = train(*longer, "output_dir=whole")
    monkeypatch.setattr(SweepProgress, "epoch", lambda progress, row: os.kill(os.getpid(), signal.SIGTERM))
    result = thawline("train", *TINY, *longer)
    assert result.status == 143
    assert ranks() == []
    (folder,) = Path("outputs/runs").iterdir()
    assert status_of(folder).state == "interrupted"
    assert (folder / "last.ckpt").is_file()
    monkeypatch.undo()
    os.chdir(folder.parent.parent.parent)
    resumed = train(*longer)
    assert resumed.metrics == whole.metrics
    assert resumed.files == whole.files


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.strategy=fsdp", "trainer.strategy: fsdp is not supported: every device holds the whole model here"),
        ("trainer.accelerator=mps", "trainer.accelerator: mps: this machine has no Apple GPU that torch can use"),
        ("trainer.accelerator=gpu", "trainer.accelerator: gpu: this machine has no GPU that torch can use"),
    ],
)
def test_devices_that_are_not_there_are_refused_before_anything_is_written(thawline, monkeypatch, override, said):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for grid in ([], ["-m", "seed=0,1"]):
        result = thawline("train", *grid, *TINY, override)
        assert result.status == 2
        assert said in result.err
    assert not list(Path("outputs").glob("runs/*"))
    assert not list(Path("outputs").glob("sweeps/*"))


def test_more_devices_than_gpus_are_refused(thawline, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    result = thawline("train", *TINY, "trainer.accelerator=gpu", "trainer.devices=2")
    assert result.status == 2
    assert "trainer.devices: 2: this machine has 1 GPU that torch can use" in result.err
