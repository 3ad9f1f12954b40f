"""A sweep over depths as records, for every test that reads a report, and what to read of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tests.make_records import (
    record,
    scores,
)
from thawline.records import Record
from thawline.reports.loading import load_sweep
from thawline.reports.study import make_study

DEPTHS = {"freeze_policy.k": ["0", "1", "9"], "seed": ["0", "1", "2"]}
# Validation prefers k = 1, the test set would have preferred k = 9.
VALIDATION = {"0": (0.70, 0.71, 0.72), "1": (0.90, 0.91, 0.92), "9": (0.80, 0.81, 0.82)}
TEST = {"0": (0.60, 0.62, 0.64), "1": (0.80, 0.81, 0.82), "9": (0.90, 0.92, 0.94)}


def by_depth(overrides: list[str], place: dict[str, str]) -> Record:
    k, seed = place["freeze_policy.k"], int(place["seed"])
    metrics = {"val": scores(VALIDATION[k][seed]), "test": scores(TEST[k][seed])}
    return record(overrides, k=int(k), metrics=metrics)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def study_of(folder: Path, **options: str):
    return make_study(load_sweep(folder), **options)
