"""The page of a report: its numbers are the records', it loads nothing, and without a script it is whole."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from tests.make_records import record, scores, sweep
from tests.reports.depth_sweeps import DEPTHS, TEST, VALIDATION, by_depth, study_of
from tests.reports.pages import data_of, policy_of, scripts_of, text_of
from thawline.reports import ReportFiles, make_report
from thawline.reports.page.data import page_data

HEADLINES = {
    "classification": ("top1", "max"),
    "multilabel": ("map", "max"),
    "regression": ("mae", "min"),
    "semantic_segmentation": ("mean_iou", "max"),
    "detection": ("map", "max"),
    "instance_segmentation": ("mask_map", "max"),
}
MATRIX = [[8, 1, 1], [0, 9, 1], [3, 0, 7]]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ReportFiles:
    return make_report(sweep(tmp_path_factory.mktemp("depths"), DEPTHS, by_depth, "depths"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> ReportFiles:
    """Two data sets and two backbones; diagnostics, confusion matrices, a diverged run and a missing one."""

    def make(overrides, place):
        k, seed = int(place["freeze_policy.k"]), int(place["seed"])
        if (place["dataset"], place["backbone"], k, seed) == ("pets", "resnet18", 1, 1):
            return None
        diverged = (place["dataset"], place["backbone"], k, seed) == ("pets", "resnet34", 1, 0)
        value = None if diverged else 0.5 + 0.1 * k + 0.01 * seed
        groups = [{"distance": float(place), "relative": place / 10} for place in range(9)]
        return record(
            overrides,
            k=k,
            classes=("a", "b", "c"),
            metrics={"val": scores(value), "test": scores(value)},
            confusion_matrix=MATRIX,
            diagnostics={"drift": {"groups": groups}, "cka": {"groups": [{"cka": None}] * 9}},
            diverged=diverged,
            divergence="the loss was not finite" if diverged else "",
        )

    axes = {
        "dataset": ["flowers", "pets"],
        "backbone": ["resnet18", "resnet34"],
        "freeze_policy.k": ["0", "1"],
        "seed": ["0", "1"],
    }
    return make_report(sweep(tmp_path_factory.mktemp("rich"), axes, make, "rich"))


def test_the_numbers_of_the_page_are_those_of_the_records(report):
    data = data_of(report.html)
    assert len(data["runs"]) == 9
    for place, run in enumerate(data["runs"]):
        file = report.folder / unquote(run["record"])
        kept = json.loads(file.read_text(encoding="utf-8"))
        assert kept["identity"] == run["identity"]
        for split in ("val", "test"):
            assert {name: values[place] for name, values in data["values"][split].items()} == kept["metrics"][split]
        assert run["costs"] == {
            "trainable": kept["parameters"]["trainable"],
            "seconds": kept["cost"]["total_seconds"],
            "training": kept["cost"]["train_seconds"],
            "memory": kept["cost"]["peak_memory_bytes"] / 2**20,
        }
    curve = data["curves"]["runs"][0]
    assert curve["loss"] == [float(f"{2 / (epoch + 1):.6g}") for epoch in range(10)]
    assert curve["kept"] == 7


def test_the_means_of_the_page_are_those_of_the_runs(report):
    data = data_of(report.html)
    assert [row["x"] for row in data["rows"]] == [0, 1, 9]
    for split, values in (("val", VALIDATION), ("test", TEST)):
        kept = data["scores"][split]["top1"]
        runs = np.array(list(values.values()))
        np.testing.assert_allclose(kept["mean"], runs.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(kept["sd"], runs.std(axis=1, ddof=1), rtol=1e-9)
        half = 4.302652729911275 * runs.std(axis=1, ddof=1) / 3**0.5  # the t quantile of two degrees of freedom
        np.testing.assert_allclose(kept["high"], np.minimum(runs.mean(axis=1) + half, 1), rtol=1e-9)
    assert [row["chosen"] for row in data["rows"]] == [False, True, False]


def test_the_page_loads_nothing_and_runs_its_own_scripts_alone(report):
    page = text_of(report.html)
    assert len(page.encode()) < 6_000_000
    addresses = re.findall(r'\b(?:src|href)="([^"]{0,40})', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    assert all(address.startswith(("data:", "#section-")) for address in addresses)
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts_of(report.html)
    ]
    assert len(digests) == 3
    assert policy_of(report.html) == {
        "default-src": ["'none'"],
        "script-src": [f"'sha256-{digest}'" for digest in digests],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }


def test_without_a_script_the_figures_are_there_and_nothing_that_needs_one(report):
    page = text_of(report.html)
    assert page.count('<figure class="image still">') == 2  # the figure, and the learning curves
    boxes = re.findall(r'<div class="chart" id="chart-(\w+)"([^>]*)>', page)
    assert boxes == [(name, " hidden") for name in ("main", "curves", "cost", "runs")]
    assert '<div id="controls" hidden></div>' in page


def test_a_rich_sweep_has_panels_changes_matrices_and_its_failures_first(rich):
    data, page = data_of(rich.html), text_of(rich.html)
    assert data["facets"] == ["flowers, resnet18", "flowers, resnet34", "pets, resnet18", "pets, resnet34"]
    assert data["lines"] == [""]
    states = re.findall(r'<li class="(\w+)">(\d+) runs? ', page)
    assert states == [("done", "14"), ("missing", "1"), ("diverged", "1")]
    assert page.index("1 run diverged") < page.index('<div class="answer">')
    notes = {run["state"]: run.get("note") for run in data["runs"]}
    assert notes == {"done": None, "diverged": "the loss was not finite", "missing": "missing"}
    (network,) = data["changes"]
    assert network["rows"][0]["relative"] == [place / 10 for place in range(9)]
    assert network["rows"][0]["cka"] == [None] * 9
    assert all(matrix["classes"] == ["a", "b", "c"] for matrix in data["confusions"])
    # The chosen row of flowers has two runs, and their images are counted together.
    assert data["confusions"][0]["counts"] == (2 * np.array(MATRIX)).tolist()
    assert data["confusions"][0]["samples"] == [20, 20, 20]
    assert re.findall(r'id="chart-(\w+)"', page) == ["main", "curves", "changes", "cost", "confusion", "runs"]


def test_of_many_classes_those_are_shown_that_are_confused_most(tmp_path):
    counts = np.diag(np.full(60, 50))
    counts[3, 41], counts[7, 9] = 20, 5

    def make(overrides, place):
        names = [f"class {index}" for index in range(60)]
        return record(overrides, classes=names, confusion_matrix=counts.tolist())

    data = page_data(study_of(sweep(tmp_path, {"seed": ["0", "1"]}, make)), tmp_path)
    (matrix,) = data["confusions"]
    assert matrix["of"] == 60
    assert len(matrix["classes"]) <= 25
    assert {"class 3", "class 41", "class 7", "class 9"} <= set(matrix["classes"])
    place = matrix["classes"].index("class 3"), matrix["classes"].index("class 41")
    assert matrix["counts"][place[0]][place[1]] == 40
    assert matrix["samples"][place[0]] == 140


@pytest.mark.parametrize("task", HEADLINES)
def test_the_page_shows_every_task(tmp_path, task):
    metric, direction = HEADLINES[task]
    definition = {metric: {"direction": direction, "label": f"the {metric}", "lower": 0.0, "upper": None}}
    values = {"0": 0.31, "1": 0.35}

    def make(overrides, place):
        scored = {metric: values[place["freeze_policy.k"]]}
        selection = {"monitor": f"val/{metric}", "mode": direction, "value": 0.3, "phase": 0, "epoch": 7}
        fields = {"task": task, "metric_definitions": definition, "headline": metric, "tie_break": None}
        metrics = {"val": scored, "test": scored}
        return record(overrides, k=int(place["freeze_policy.k"]), metrics=metrics, selection=selection, **fields)

    data = page_data(study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "1"], "seed": ["0"]}, make)), tmp_path)
    assert data["metrics"] == [
        {"name": metric, "label": f"the {metric}", "direction": direction, "lower": 0.0, "upper": None}
    ]
    assert data["scores"]["test"][metric]["mean"] == [0.31, 0.35]
    assert [row["chosen"] for row in data["rows"]] == ([False, True] if direction == "max" else [True, False])
    assert data["confusions"] == []


def test_what_no_run_has_is_not_on_the_page(tmp_path):
    def make(overrides, place):
        return record(overrides, k=0, history=[], recipe=None, metrics={"val": scores(0.5)})

    files = make_report(sweep(tmp_path, {"seed": ["0", "1"]}, make))
    data, page = data_of(files.html), text_of(files.html)
    assert re.findall(r'id="chart-(\w+)"', page) == ["main", "cost", "runs"]
    assert data["splits"] == {"val": "validation"}
    assert data["axis"] is None
    assert data["curves"] == {"runs": [], "of": 0}
    assert data["changes"] == []


@pytest.mark.parametrize("name", ["a b", "javascript:1", "page#1?x=%00"])
def test_a_page_elsewhere_still_finds_the_records(tmp_path, report, name):
    folder = tmp_path / name
    for run in page_data(report.study, folder)["runs"]:
        link = run["record"]
        assert re.fullmatch(r"(\.\./)+[\w./~%-]+", link)
        assert Path(os.path.normpath(folder / unquote(link))).is_file()


def test_a_link_from_beside_the_runs_is_no_address_of_another_kind(tmp_path):
    sweep(tmp_path / "javascript:alert(1)", {"seed": ["0", "1"]}, lambda overrides, place: record(overrides))
    (first, _) = page_data(study_of(tmp_path / "javascript:alert(1)" / "runs"), tmp_path)["runs"]
    assert first["record"] == f"javascript%3Aalert%281%29/runs/{first['identity']}/record.json"
