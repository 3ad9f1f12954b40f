"""A record can be run again and compared, checked, and written as one model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.conftest import TINY, records
from thawline.execution.weights import build_model
from thawline.planning.plan import plan_run
from thawline.planning.session import Workbench


def test_a_record_run_again_is_identical(train, thawline):
    record = train("freeze_policy.k=1")
    result = thawline("reproduce", record.identity)
    assert result.status == 0, result.err
    assert "identical: every number and every file" in result.out
    assert [folder.name for folder in records()] == [record.identity]


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


def test_the_exported_model_is_the_source_with_what_moved(train, thawline, tmp_path):
    record = train("freeze_policy.k=1")
    assert thawline("export", record.identity, "--output", str(tmp_path / "model.safetensors")).status == 0
    exported = load_file(tmp_path / "model.safetensors")
    bench = Workbench()
    start = build_model(plan_run(record.config, (), bench), bench).state_dict()
    moved = load_file(Path("outputs/runs") / record.identity / "best.safetensors")
    assert exported.keys() == start.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, moved.get(name, start[name]))
