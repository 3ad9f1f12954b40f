"""A record can be run again and compared, checked, and written as one model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, TINY, records
from tests.make_records import record
from thawline.execution.weights import build_model
from thawline.ledger.comparison import compare
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record, write_record


def test_a_record_run_again_is_identical(train, thawline):
    record = train("freeze_policy.k=1")
    result = thawline("reproduce", record.identity)
    assert result.status == 0, result.err
    assert "identical: every number and every file" in result.out
    assert [folder.name for folder in records()] == [record.identity]


def test_a_run_made_again_has_its_threads_and_a_store_of_its_own(train, thawline):
    record = train("cache.mode=on", "trainer.max_epochs=1", "freeze_policy.k=0")
    (folder,) = records()
    threads = record.provenance.threads + 1
    provenance = record.provenance.model_copy(update={"threads": threads})
    write_record(folder, record.model_copy(update={"provenance": provenance}))
    result = thawline("reproduce", record.identity, "--keep", "again")
    assert result.status == 0, result.err
    (again,) = records("again")
    assert load_record(again).config["trainer"]["threads"] == threads
    assert list(Path("again/cache").glob("*/entry.json"))


def test_values_from_the_store_in_one_run_only_are_named(train):
    stored, whole = train("cache.mode=on"), train("cache.mode=off", "output_dir=again")
    assert stored.identity == whole.identity
    found = compare(stored, whole, tolerance=1e-3)
    assert [(item.name, item.recorded, item.again) for item in found.environment] == [
        ("thaw_line.train", "stored values (float32)", "whole model")
    ]


def test_a_record_of_an_earlier_version_still_loads():
    old = load_record(REPOSITORY / "tests" / "old_records" / "2d39bcbab3a59b2bde3c")
    (phase,) = old.phases
    assert phase.thaw_line.stored
    assert [value.shape for value in phase.thaw_line.values] == [[48, 4, 4]]
    assert (phase.optimizer_groups[0].name, phase.optimizer_groups[0].lr) == ("backbone", 0.01)
    assert phase.regularizers["delta"].layers["layer4"]["channels"] == 96
    assert old.freeze_contract.phases[0].frozen_tensors == 48
    assert old.provenance.packages["thawline"] == "0.1.0"
    assert old.provenance.resumed[0].epoch == 1
    assert old.provenance.weights.sha256 is None


def test_a_record_of_a_later_version_loads_without_what_is_new(tmp_path):
    made = record()
    file = write_record(tmp_path / made.identity, made)
    written = load_record(file.parent)
    content = json.loads(file.read_text())
    content["provenance"]["moon"] = content["phases"][0]["thaw_line"]["tide"] = content["weather"] = "fair"
    file.write_text(json.dumps(content))
    assert load_record(file.parent) == written


def test_a_changed_number_is_told(train, thawline):
    record = train("freeze_policy.k=1")
    file = Path("outputs/runs") / record.identity / "record.json"
    content = json.loads(file.read_text())
    content["metrics"]["test"]["loss"] += 0.5
    file.write_text(json.dumps(content))
    result = thawline("reproduce", record.identity)
    assert result.status == 1
    assert "different" in result.out + result.err


def test_verify_names_a_changed_file(thawline):
    assert thawline("train", "-m", *TINY, "seed=0,1", "sweep.name=checked", "sweep.report=false").status == 0
    assert thawline("verify", "checked").status == 0
    damaged = records()[0] / "predictions.npz"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    result = thawline("verify", "checked")
    assert result.status == 1
    assert damaged.name in result.out + result.err
    assert records()[0].name in result.out + result.err


def edit(identity: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = Path("outputs/runs") / identity / "record.json"
    content = json.loads(file.read_text())
    change(content["config"])
    file.write_text(json.dumps(content))


def test_nothing_is_made_where_a_record_says(train, thawline, tmp_path):
    small = ("source.trainer.max_epochs=1", "source.dataset.n_per_class=4")
    record = train("source=digits_low", "trainer.max_epochs=1", *small)
    elsewhere = tmp_path / "elsewhere"

    def point(config: dict[str, Any]) -> None:
        config["cache"]["dir"] = config["output_dir"] = str(elsewhere)
        config["source"]["cache"] = {"dir": str(elsewhere)}
        config["source"]["output_dir"] = str(elsewhere)

    edit(record.identity, point)
    exported = thawline("export", record.identity, "--output", str(tmp_path / "model.safetensors"))
    assert exported.status == 0, exported.err
    assert not elsewhere.exists()


@pytest.mark.parametrize("node", ["cache", "trainer", "backbone", "freeze_policy", "dataset"])
@pytest.mark.parametrize("verb", ["export", "reproduce"])
def test_a_record_that_lacks_a_node_is_one_message(thawline, finished, verb, node):
    edit(finished, lambda config: config.pop(node))
    result = thawline(verb, finished)
    assert result.status == 2, result.err
    assert any(line.startswith(f"error: {node}: ") for line in result.err.splitlines()), result.err


def test_a_source_that_is_no_group_is_one_message(thawline, finished):
    edit(finished, lambda config: config.update(source=["digits"]))
    result = thawline("reproduce", finished)
    assert result.status == 2
    assert "error: source: a group of fields belongs here (got ['digits'])" in result.err


@pytest.fixture(scope="module")
def trained(zygote, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    done = zygote.run("train", *TINY, "trainer.max_epochs=1", folder=place)
    assert done.wait() == 0, done.err
    (folder,) = records(str(place / "outputs"))
    return folder


@pytest.fixture
def finished(trained) -> str:
    """The identity of a finished run, copied to where the test stands."""
    shutil.copytree(trained, Path("outputs/runs") / trained.name)
    return trained.name


def test_the_exported_model_is_the_source_with_what_moved(train, thawline, tmp_path):
    record = train("freeze_policy.k=1")
    assert thawline("export", record.identity, "--output", str(tmp_path / "model.safetensors")).status == 0
    exported = load_file(tmp_path / "model.safetensors")
    session = Session()
    start = build_model(RunContext(plan_run(record.config, (), session), session)).state_dict()
    moved = load_file(Path("outputs/runs") / record.identity / "best.safetensors")
    assert exported.keys() == start.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, moved.get(name, start[name]))
