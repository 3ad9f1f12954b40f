"""One run on several devices: the numbers of one device, every sample counted once, one record, a clean end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY, records
from tests.datasets.image_folders import class_folders, save
from tests.trackers.test_wandb import Seen, folders
from thawline.errors import WriteError
from thawline.execution import distributed
from thawline.execution.decoding import decoded_images
from thawline.execution.evaluate import outputs_of
from thawline.execution.weights import build_model, restore
from thawline.ledger.runs import status_of
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record
from thawline.records.names import BEST_FILE
from thawline.sweeps.progress import SweepProgress

# A ViT has no batch statistics, so two devices can give the numbers of one.
VIT = ("backbone=test_vit", "backbone.input_size=32", "freeze_policy=full")
TWO = ("trainer=ddp", "trainer.devices=2")
SHARED = ("trainer=fsdp", "trainer.devices=2")
# TINY again, after the group that `trainer=ddp` puts in place of its values.
FIT = tuple(override for override in TINY if override.startswith(("optimizer=", "trainer.")))
OWN = """
from typing import Literal, final

import torch
from torch import nn

from thawline.specs import Spec


class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise ArithmeticError("the step went wrong on purpose")


class OnShares(torch.optim.AdamW):
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                held = (parameter, parameter.grad, self.state[parameter]["exp_avg"])
                assert all(tensor.to_local().numel() < parameter.numel() for tensor in held), "whole on one device"
        return loss


class Spare(nn.Linear):
    def __init__(self, width, classes):
        super().__init__(width, classes)
        self.spare = nn.Parameter(torch.zeros(3))


@final
class WithSpare(Spec):
    kind: Literal["spare"] = "spare"

    def build(self, features, classes, source, seed):
        torch.manual_seed(seed)
        return Spare(features.width, len(classes))
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package of the user's, which the ranks import too."""
    (tmp_path / "own_package.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))


def predictions(record, output_dir="outputs") -> dict[str, np.ndarray]:
    return dict(np.load(Path(output_dir, "runs", record.identity, "predictions.npz")))


@pytest.fixture
def shown(monkeypatch) -> list[dict]:
    """The rows that the command has shown of its runs, each as its epoch ended."""
    rows: list[dict] = []
    monkeypatch.setattr(SweepProgress, "epoch", lambda self, row: rows.append(row))
    return rows


# What is of shares alone is in `test_each_device_holds_its_share_of_what_trains_and_of_what_is_frozen`, too.
@pytest.mark.parametrize("strategy", [TWO, pytest.param(SHARED, marks=pytest.mark.slow)], ids=["ddp", "fsdp"])
def test_two_ranks_count_101_test_samples_once_each_and_give_the_numbers_of_one(train, shown, strategy):
    odd = (*VIT, "dataset.test_fraction=0.0576", "trainer.eval_batch_size=25", "trainer.gradient_clip=1.0")
    one = train(*odd)
    shown.clear()
    two = train(*odd, *strategy, *FIT, "logger=wandb", "output_dir=two")
    assert shown == two.history
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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [TWO, SHARED], ids=["ddp", "fsdp"])
def test_two_ranks_that_train_on_train_and_val_give_the_numbers_of_one(train, strategy):
    both = (*VIT, "train_on=train_val", "trainer.max_epochs=3")
    one = train(*both)
    two = train(*both, *strategy, *FIT, "trainer.max_epochs=3", "output_dir=two")
    assert two.identity == one.identity
    assert two.splits == one.splits
    assert (two.selection.kept, two.selection.epoch) == ("last", 2)
    assert two.metrics.keys() == one.metrics.keys() == {"test"}
    assert two.metrics["test"] == pytest.approx(one.metrics["test"], abs=1e-4)
    for ours, theirs in zip(two.history, one.history, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], abs=1e-4)
    ours = load_file(Path("two/runs", two.identity, BEST_FILE))
    theirs = load_file(Path("outputs/runs", one.identity, BEST_FILE))
    assert all(torch.allclose(tensor, theirs[name], atol=1e-4) for name, tensor in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [TWO, SHARED], ids=["ddp", "fsdp"])
def test_runs_of_a_sweep_may_each_take_several_devices(thawline, strategy):
    result = thawline("train", "-m", *TINY, *VIT, *strategy, *FIT, "seed=0,1", "sweep.name=pairs")
    assert result.status == 0, result.err
    assert [load_record(folder).config["trainer"]["devices"] for folder in records()] == [2, 2]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "rank-0.log").mkdir()
    settings = SimpleNamespace(trainer=SimpleNamespace(devices=2))
    plan = SimpleNamespace(folder=tmp_path, identity="a" * 20, settings=settings, config={}, overrides=(), label="")
    with pytest.raises(WriteError, match=r"cannot write .*rank-0\.log: Is a directory"):
        distributed.execute_on_all(plan, None, lambda row: None)


@pytest.mark.slow
def test_an_error_in_a_rank_is_the_run_s_error(thawline, own_package):
    broken = ("--allow", "own_package", "optimizer._target_=own_package.Broken")
    result = thawline("train", *TINY, *VIT, *TWO, *FIT, *broken)
    assert result.status == 1
    assert "ended with status 1: ArithmeticError: the step went wrong on purpose (log: " in result.err
    (folder,) = Path("outputs/runs").iterdir()
    assert status_of(folder).state == "failed"


@pytest.mark.slow
def test_a_parameter_that_no_output_depends_on_does_not_stop_the_ranks(train, own_package):
    spare = ("--allow", "own_package", "++head={_target_: own_package.WithSpare}", "~head.dropout", "~head.init")
    record = train(*VIT, *TWO, *FIT, *spare)
    (contract,) = record.freeze_contract.phases
    assert contract.unused == ["head.spare"]


def ranks() -> list[psutil.Process]:
    """The rank processes that this process has started, by rank."""
    children = [child for child in psutil.Process().children() if "thawline.execution.rank" in child.cmdline()]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.slow
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
def test_each_device_holds_its_share_of_what_trains_and_of_what_is_frozen(train, own_package):
    # Two phases; the optimizer's state goes from the one to the other, and more parameters train.
    gradual = ("freeze_policy=gradual_unfreezing", "optimizer=adamw", "optimizer.lr=0.001", "trainer.max_epochs=3")
    gradual += ("freeze_policy.k=2", "freeze_policy.optimizer_state=keep")
    shares = ("--allow", "own_package", "optimizer._target_=own_package.OnShares")
    one = train(*VIT, *gradual)
    two = train(*VIT, *SHARED, *FIT, *gradual, *shares, "output_dir=two")
    assert [phase.frozen_parameters for phase in two.freeze_contract.phases] == [
        phase.frozen_parameters for phase in one.freeze_contract.phases
    ]
    for split, values in one.metrics.items():
        assert two.metrics[split] == pytest.approx(values, abs=1e-4), split
    ours = load_file(Path("outputs/runs", one.identity, BEST_FILE))
    theirs = load_file(Path("two/runs", two.identity, BEST_FILE))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("regularizer=l2_sp", "regularizer: trainer.strategy=fsdp leaves each device a share of the weights"),
        ("learning_rates=auto_rgn", "learning_rates: trainer.strategy=fsdp leaves each device a share of the weights"),
        ("probe=lbfgs_path", "probe: trainer.strategy=fsdp leaves each device a share of the weights"),
        ("trainer.precision=16-mixed", "trainer.precision: 16-mixed does not go with fsdp"),
        ("dataset.n_per_class=1", "trainer.devices: 11: a split has 10 samples only"),
    ],
)
def test_what_needs_whole_weights_is_refused_with_shared_ones(thawline, override, said):
    devices = ("trainer.devices=11",) if "n_per_class" in override else ()
    result = thawline("train", *TINY, *SHARED, *FIT, *devices, override)
    assert result.status == 2
    assert said in result.err


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [TWO, SHARED], ids=["ddp", "fsdp"])
def test_what_two_ranks_judge_is_the_network_that_they_keep(train, strategy):
    record = train(*strategy, *FIT, "freeze_policy=full", "optimizer.lr=0.1")
    (note,) = [note for note in record.notes if "batch norms" in note]
    assert "trained on 2 devices" in note
    assert any(name.endswith("running_mean") for name in load_file(Path("outputs/runs", record.identity, BEST_FILE)))
    session = Session()
    plan = plan_run(record.config, (), session)
    run = RunContext(plan, session)
    model = build_model(run)
    restore(model, plan.folder / BEST_FILE)
    rows = np.sort(plan.splits.test.indices)
    logits = outputs_of(plan, model, decoded_images(run), rows)
    kept = predictions(record)
    assert np.array_equal(kept["index"], rows)
    assert np.allclose(kept["probabilities"], logits.softmax(dim=1).numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [TWO, SHARED], ids=["ddp", "fsdp"])
def test_a_signal_reaches_the_ranks_and_the_run_goes_on_to_the_same_end(thawline, train, monkeypatch, strategy):
    longer = (
        *VIT,
        *strategy,
        *FIT,
        "trainer.max_epochs=40",
        "trainer.threads=1",
        "optimizer=adamw",
        "optimizer.lr=0.001",
    )
    whole = train(*longer, "output_dir=whole")
    with monkeypatch.context() as stopped:
        stopped.setattr(SweepProgress, "epoch", lambda progress, row: os.kill(os.getpid(), signal.SIGTERM))
        result = thawline("train", *TINY, *longer)
    assert result.status == 143
    assert ranks() == []
    (folder,) = Path("outputs/runs").iterdir()
    assert status_of(folder).state == "interrupted"
    assert (folder / "last.ckpt").is_file()
    resumed = train(*longer)
    assert resumed.provenance.resumed
    assert resumed.metrics == whole.metrics
    assert resumed.files == whole.files


@pytest.mark.parametrize(
    ("override", "said"),
    [
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


@pytest.mark.slow
def test_devices_that_would_read_other_images_than_were_planned_refuse(thawline, monkeypatch):
    """Each plans the run by itself; it would leave its record where nobody looks for it, without a lease."""
    class_folders(Path("images"))
    start = distributed._start

    def repainted(*arguments):
        save(Path("images/cat/3.png"), 4321)
        return start(*arguments)

    monkeypatch.setattr(distributed, "_start", repainted)
    images = ("dataset=image_folder", "dataset.root=images", "dataset.n_per_class=null")
    result = thawline("train", *TINY, *VIT, *TWO, *FIT, *images)
    assert result.status == 1
    assert "data, source weights or own code have changed since it was planned" in result.out + result.err
    assert records() == []
    assert len([*Path("outputs/runs").iterdir()]) == 1
