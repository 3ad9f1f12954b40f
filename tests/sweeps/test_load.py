"""A large grid with the real ledger and a stub for training: every cell once, in order, and nothing left over."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from benchmarks.load import DEPTHS, Stub, command

from tests.conftest import records
from thawline.execution import run as experiment
from thawline.records import load_record

CELLS = 64


@pytest.fixture
def stub(monkeypatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(experiment, "execute", stub)
    return stub


def test_every_cell_of_a_large_grid_runs_once(thawline, stub):
    result = thawline(*command(CELLS))
    assert result.status == 0, result.err
    manifest = json.loads(Path("outputs/sweeps/load/sweep.json").read_text())
    grid = [(k, seed) for k in range(1, DEPTHS + 1) for seed in range(CELLS // DEPTHS)]
    configs = [load_record(Path("outputs/runs", cell["identity"])).config for cell in manifest["cells"]]
    assert [(config["freeze_policy"]["k"], config["seed"]) for config in configs] == grid
    assert len(records()) == len(stub.resident_bytes) == CELLS
    # Neither locks nor owners nor temporary files stay.
    left = {tuple(sorted(path.name for path in folder.iterdir())) for folder in Path("outputs/runs").iterdir()}
    assert left == {("config.json", "record.json", "state.json")}
    attempts = [json.loads((folder / "state.json").read_text())["attempt"] for folder in records()]
    assert attempts == [1] * CELLS


def test_a_large_sweep_again_shown_and_reported(thawline, stub):
    assert thawline(*command(CELLS)).status == 0
    assert thawline(*command(CELLS)).status == 0
    assert len(stub.resident_bytes) == CELLS
    gone = records()[5]
    (gone / "record.json").unlink()
    shown = thawline("status", "load")
    assert shown.status == 1
    assert f"load: {CELLS} runs: {CELLS - 1} done, 1 pending" in shown.out
    # What is plainly done or left is not shown cell by cell.
    assert len(shown.out.splitlines()) == 1
    assert len(thawline("status", "load", "--all").out.splitlines()) == CELLS + 2
    assert thawline("report", "load").status == 0
    with Path("outputs/sweeps/load/report/runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows].count("done") == CELLS - 1
    assert {row["identity"] for row in rows if row["status"] == "done"} == {folder.name for folder in records()}
