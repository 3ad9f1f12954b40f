"""Optuna as the engine of a protocol, from the command to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import TINY

from thawline.reports.tuning import TITLE

pytest.importorskip("optuna")
COMMAND = (
    "train", *TINY, "trainer.max_epochs=1", "strategy=linear_probe,full", "protocol=tune_select_test",
    "protocol.engine=optuna", "protocol.trials=6", "protocol.rounds=3", "protocol.finalists=2",
    "protocol.select_seeds=1", "protocol.seeds=2", "sweep.name=o",
)  # fmt: skip


@pytest.mark.slow
def test_a_protocol_that_asks_optuna_ends_in_a_report_that_says_what_its_trials_do_not_show(thawline):
    result = thawline(*COMMAND)
    assert result.status == 0, result.err
    protocol = json.loads(Path("outputs/sweeps/o/protocol.json").read_text())
    stages = {stage["name"]: stage["points"] for stage in protocol["stages"]}
    assert {name: len(points) for name, points in stages.items()} == {
        "tune-1": 4, "tune-2": 4, "tune-3": 4, "select": 4, "test": 4,
    }  # fmt: skip
    assert (protocol["complete"], protocol["independent_trials"]) == (True, False)
    tried = [point["trial"] for name in ("tune-1", "tune-2", "tune-3") for point in stages[name]]
    assert sorted(tried) == sorted([*range(6)] * 2)
    report = Path("outputs/sweeps/o/report")
    text = (report / "report.md").read_text()
    section = text.partition(f"## {TITLE}")[2].partition("\n## ")[0]
    assert "The trials of this protocol were proposed by a model of the trials before them." in section
    assert not list(report.glob("tuning*"))
    assert "o-tune-3: 4 runs: 4 done" in thawline("status", "o").out
