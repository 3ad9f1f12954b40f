"""One run through the command line: what it trains, what it leaves, and that it can be made again."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, TINY, records
from thawline import specs
from thawline.execution.weights import build_model
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session

FOREVER = {"loss", "top1", "top5", "macro_accuracy", "macro_f1", "calibration_error"}


def numbers(record) -> dict:
    """All of a record that must not differ between two runs of the same thing."""
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in record.history]
    return {
        "metrics": record.metrics,
        "history": history,
        "selection": record.selection,
        "files": record.files,
        "confusion": record.confusion_matrix,
        "splits": record.splits,
    }


def folder_of(record) -> Path:
    return Path("outputs/runs") / record.identity


def test_a_run_leaves_a_whole_record(train):
    record = train("freeze_policy.k=2", "seed=3")
    assert record.status == "done"
    assert set(record.metrics) == {"val", "test"}
    assert set(record.metrics["test"]) == set(record.metric_definitions) == FOREVER
    assert (record.headline, record.tie_break) == ("top1", "loss")
    assert [row["epoch"] for row in record.history] == [0, 1]
    assert record.metrics["val"]["top1"] == record.history[record.selection.epoch]["val/top1"]
    assert record.selection.value == max(row["val/top1"] for row in record.history)
    assert record.parameters.frozen + record.parameters.trainable == record.parameters.total
    trained = [group.trained == group.parameters for group in record.layer_groups]
    assert trained == [False] * (len(trained) - 2) + [True] * 2
    assert record.splits["train"].samples == 40
    assert record.splits["train"].per_class == [4] * 10
    assert record.splits["train"].constant_scores == {"top1": 0.1, "macro_accuracy": 0.1}
    assert np.array(record.confusion_matrix).sum() == record.splits["test"].samples
    assert record.config["seed"] == 3
    assert record.cost.cpu_seconds > 0.0
    assert record.cost.train_seconds < record.cost.total_seconds
    assert "freeze_policy.k=2" in record.overrides
    assert record.provenance.packages["torch"] == torch.__version__.partition("+")[0]
    assert len(record.provenance.data_fingerprint) == 64


def test_predictions_reproduce_the_test_metrics(train):
    record = train()
    stored = np.load(folder_of(record) / "predictions.npz")
    assert stored["probabilities"].shape == (record.splits["test"].samples, 10)
    assert np.all(np.diff(stored["index"]) > 0)
    top1 = (stored["probabilities"].argmax(axis=1) == stored["label"]).mean()
    assert top1 == pytest.approx(record.metrics["test"]["top1"], abs=1e-6)
    likelihood = stored["probabilities"][np.arange(len(stored["label"])), stored["label"]]
    assert -np.log(likelihood).mean() == pytest.approx(record.metrics["test"]["loss"], rel=1e-5)


def test_the_same_seed_twice_gives_the_same_numbers(train):
    first = train("freeze_policy=full", "head.dropout=0.3")
    torch.manual_seed(99)
    shutil.rmtree("outputs")
    second = train("freeze_policy=full", "head.dropout=0.3")
    assert first.identity == second.identity
    assert numbers(first) == numbers(second)


@pytest.mark.parametrize(("policy", "k"), [("linear_probe", "0"), ("full", "all")])
def test_the_ends_of_last_k_are_the_probe_and_full_fine_tuning(train, policy, k):
    one, other = train(f"freeze_policy={policy}"), train("freeze_policy=last_k", f"freeze_policy.k={k}")
    assert one.identity != other.identity
    assert numbers(one) == numbers(other)


def test_what_is_frozen_is_bit_equal_afterwards(train):
    record = train("freeze_policy.k=1", "optimizer=adamw", "optimizer.lr=0.001", "optimizer.weight_decay=0.5")
    plan = plan_run(record.config, (), Session())
    start = build_model(RunContext(plan, Session())).state_dict()
    moved = load_file(folder_of(record) / "best.safetensors")
    allowed = set(plan.network.top(1)) | set(plan.network.head)
    parameters = {name for name in moved if "running" not in name and "num_batches" not in name}
    assert parameters == allowed
    statistics = {name.rpartition(".")[0] for name in set(moved) - parameters}
    assert all(any(name.startswith(f"{module}.") for name in allowed) for module in statistics)
    assert all(not torch.equal(moved[name], start[name]) for name in parameters)
    (contract,) = record.freeze_contract.phases
    assert contract.checks == 2
    assert contract.frozen_parameters + contract.trainable_parameters == record.parameters.total


def test_every_file_of_a_run_is_on_the_disk_before_it_has_its_name(train, monkeypatch):
    synced, named, names_synced = set(), [], set()
    fsync, replace = os.fsync, os.replace

    def noting_sync(descriptor: int) -> None:
        fsync(descriptor)
        found = os.fstat(descriptor)
        synced.add((found.st_ino, found.st_size))
        if stat.S_ISDIR(found.st_mode):
            names_synced.update((found.st_ino, name) for name in os.listdir(descriptor))

    def noting_name(source, target) -> None:
        found = Path(source).stat()
        named.append((Path(target).name, (found.st_ino, found.st_size) in synced))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", noting_name)
    folder = folder_of(train("trainer.checkpoint_seconds=0", "cache.mode=on"))
    found = folder.stat()
    assert (found.st_ino, "record.json") in names_synced
    assert {name for name, _ in named} >= {"record.json", "best.safetensors", "predictions.npz", "last.ckpt"}
    assert [name for name, on_the_disk in named if not on_the_disk] == []


def test_a_run_whose_training_loss_is_not_finite_stops_and_is_recorded_as_diverged(train):
    record = train("optimizer.lr=1e30", "freeze_policy=full", "trainer.max_epochs=5")
    assert record.diverged
    assert len(record.history) < 5
    assert not train("freeze_policy=full").diverged


def test_the_linear_probe_moves_the_head_alone(train):
    record = train("freeze_policy=linear_probe")
    assert set(load_file(folder_of(record) / "best.safetensors")) == {"head.weight", "head.bias"}


def test_a_finished_run_is_not_run_again(train, thawline):
    record = train()
    file = folder_of(record) / "record.json"
    before = (file.stat().st_ino, file.read_bytes())
    assert thawline("train", *TINY).status == 0
    assert (file.stat().st_ino, file.read_bytes()) == before


@pytest.mark.parametrize(("planned", "grid"), [(False, ()), (True, ("-m", "seed=0,0"))], ids=["known", "planned again"])
def test_the_checkpoint_of_a_run_that_was_killed_after_its_record_goes_with_the_next_command(
    train, thawline, planned, grid
):
    folder = folder_of(train())
    (folder / "last.ckpt").write_bytes(b"state")
    if planned:
        shutil.rmtree("outputs/cache/plans", ignore_errors=True)  # absent where the program has just been edited
    assert thawline("train", *TINY, *grid).status == 0
    assert not (folder / "last.ckpt").exists()
    assert (folder / "record.json").exists()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "optimizer.lr=0.02",
        "freeze_policy.k=2",
        "dataset.n_per_class=5",
        "head.dropout=0.1",
        "trainer.max_epochs=3",
    ],
)
def test_what_decides_the_numbers_decides_the_identity(train, override):
    assert train().identity != train(override).identity


def test_what_does_not_decide_the_numbers_leaves_the_identity(train, thawline):
    record = train()
    same = ("trainer.workers=2", "trainer.eval_batch_size=7", "cache.mode=off", "logger=csv", "sweep.retries=3")
    assert thawline("train", *TINY, *same).status == 0
    assert records() == [folder_of(record)]


def test_the_source_stage_trains_judges_and_transfers(train):
    source = (
        "source=digits_low",
        "source.trainer.max_epochs=4",
        "source.dataset.n_per_class=40",
        "dataset=digits_high",
    )
    record = train(*source, "dataset.n_per_class=4")
    (source_folder,) = [folder for folder in records() if folder.name != record.identity]
    source_record = json.loads((source_folder / "record.json").read_text())
    assert record.provenance.source_run == source_folder.name
    assert source_record["classes"] == ["0", "1", "2", "3", "4"]
    assert record.classes == ["5", "6", "7", "8", "9"]
    before = record.metrics["before/source"]
    assert before["top1"] == pytest.approx(source_record["metrics"]["val"]["top1"])
    assert before["loss"] == pytest.approx(source_record["metrics"]["val"]["loss"], rel=1e-4)
    assert set(record.metrics["before/target"]) == FOREVER - {"top5"} | {"nearest_mean_top1"}
    stamp = (source_folder / "record.json").stat().st_mtime_ns
    train(*source, "dataset.n_per_class=4", "freeze_policy.k=2")
    assert (source_folder / "record.json").stat().st_mtime_ns == stamp


def test_a_head_starts_from_the_rows_of_a_source_that_thawline_trains(train):
    still = ("dataset=digits_high", "optimizer.lr=1e-30", "trainer.max_epochs=1", "head=source_rows")
    source = ("source=digits_low", "source.trainer.max_epochs=2", "source.dataset.n_per_class=20")
    record = train(*still, *source, "head.rows={5:3,7:[0,'1']}")
    identity = record.provenance.source_run
    rows = load_file(Path("outputs/runs", identity, "model.safetensors"))["head.weight"]
    head = load_file(Path("outputs/runs", record.identity, "best.safetensors"))["head.weight"]
    assert torch.equal(head[0], rows[3])
    assert torch.equal(head[2], rows[:2].mean(dim=0))
    again = train(*still, f"backbone.weights=run:{identity[:8]}")
    assert again.config["backbone"]["weights"] == f"run:{identity}"
    head = load_file(Path("outputs/runs", again.identity, "best.safetensors"))["head.weight"]
    assert torch.equal(head, rows)


def test_rows_of_a_source_that_has_no_such_class_are_refused_before_it_is_trained(thawline):
    result = thawline("train", *TINY, "source=digits_low", "dataset=digits_high", "head=source_rows",
                      "head.rows={5:'8'}")  # fmt: skip
    assert result.status == 2
    assert "head.rows.5: the source classifier has no row '8' (0..4)" in result.err.replace("\n", " ")
    assert records() == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in ways of its own")
def test_a_run_on_the_cpu_takes_the_memory_of_one_step_again_in_the_next(train):
    train("freeze_policy.k=0")
    faults = []
    for _ in range(24):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(48 << 20, dtype=torch.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert max(faults[-8:]) < 100, faults  # of 12,288 pages


def test_the_policy_of_the_readme_is_a_class_and_a_yaml(train, tmp_path, monkeypatch):
    monkeypatch.setattr(specs, "_extra_prefixes", [])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    readme = (REPOSITORY / "README.md").read_text()
    for language, place in (("python", "mine/policies.py"), ("yaml", "conf/freeze_policy/every_other.yaml")):
        (found,) = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(found)
    record = train("--allow", "mine", "--config-dir", "conf", "freeze_policy=every_other", "freeze_policy.first=1")
    groups = record.layer_groups
    trained = sum(group.parameters for group in groups[1::2])
    assert record.parameters.trainable == trained + record.parameters.head


@pytest.mark.slow
def test_a_run_takes_as_many_threads_as_its_network_keeps_busy(train, monkeypatch):
    # Who says how many threads there are is not asked how many cores are free.
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        small = train("output_dir=small")
        capped = train("output_dir=capped", "trainer.batch_size=20000", "trainer.threads=2")
        large = train("output_dir=large", "trainer.batch_size=20000")
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert [record.provenance.threads for record in (small, capped, large)] == [1, 2, 4]


@pytest.mark.slow
def test_metrics_do_not_depend_on_how_many_logits_wait_for_them(train, monkeypatch):
    together = train("output_dir=together")
    monkeypatch.setattr("thawline.training.module._MAX_BUFFERED_OUTPUTS", 1)
    apart = train("output_dir=apart", "trainer.eval_batch_size=7")
    assert apart.confusion_matrix == together.confusion_matrix
    assert apart.metrics["test"] == pytest.approx(together.metrics["test"], rel=1e-5)
