"""The numbers of classification runs are those of the version before tasks and stages.

`records_before.json` holds what seven kinds of runs recorded then: a linear probe, last_k, LP-FT, an adapter, a packed
sweep, a source stage and an average. Ties were broken by the first epoch and the last calibration bin was wrong then:
the runs choose by loss, and calibration is left out.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from thawline.records import load_record

BEFORE = json.loads(Path(__file__).with_name("records_before.json").read_text())
SMALL = (
    "backbone=test_resnet", "dataset=digits", "dataset.n_per_class=4", "transform.size=32", "transform.resize=squash",
    "trainer.max_epochs=3", "trainer.batch_size=16", "trainer.accelerator=cpu", "trainer.progress=false",
    "trainer.threads=1", "logger=none", "optimizer=sgd", "optimizer.lr=0.05", "metrics.monitor=loss",
)  # fmt: skip
COMMANDS = {
    "linear_probe": ("freeze_policy=linear_probe",),
    "last_k": ("freeze_policy.k=1",),
    "lp_ft": ("freeze_policy=lp_ft",),
    "adapter": ("adapter=ssf", "freeze_policy=linear_probe"),
    "packed": ("-m", "freeze_policy=linear_probe", "optimizer.lr=0.05,0.1", "sweep.report=false"),
    "source": ("source=digits_low", "freeze_policy.k=1"),
    "average": ("-m", "freeze_policy.k=1", "seed=0,1", "sweep.report=false", "sweep.name=soup"),
}
# Another CPU rounds otherwise, and training makes that visible; what is counted is equal.
TOLERANCE = 1e-3


def differences(path: str, before: Any, now: Any) -> list[str]:
    """Where two values differ: numbers beyond the tolerance, everything else at all. What is new now does not count."""
    if isinstance(before, dict) and isinstance(now, dict):
        missing = [f"{path}.{name}: missing" for name in before if name not in now]
        return missing + [
            d for name in before if name in now for d in differences(f"{path}.{name}", before[name], now[name])
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            d
            for i, (one, other) in enumerate(zip(before, now, strict=True))
            for d in differences(f"{path}[{i}]", one, other)
        ]
    if isinstance(before, float) and isinstance(now, (int, float)):
        return [] if math.isclose(before, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE) else [f"{path}: {before} -> {now}"]
    return [] if before == now else [f"{path}: {before} -> {now}"]


def key_of(record: Any) -> str:
    config = record.config
    average = (config.get("average") or {}).get("method")
    classes = config["dataset"].get("classes")
    return json.dumps([config["optimizer"]["lr"], config["seed"], average, classes])


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_run_records_what_it_did_before(thawline, kind):
    assert thawline("train", *SMALL, *COMMANDS[kind]).status == 0
    if kind == "average":
        (start,) = [
            record.identity for record in map(load_record, Path("outputs/runs").iterdir()) if record.config["seed"] == 0
        ]
        assert thawline("average", start, "--method", "wise_ft", "--alphas", "0,0.5,1").status == 0
    now = {
        key_of(record): record.model_dump(mode="json") for record in map(load_record, Path("outputs/runs").iterdir())
    }
    before = {json.dumps(list(record.pop("key").values())): record for record in json.loads(json.dumps(BEFORE[kind]))}
    assert now.keys() == before.keys()
    assert [d for key, record in before.items() for d in differences("", record, now[key])] == []
