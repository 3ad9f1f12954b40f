"""Reports of runs that keep the test split closed, and of metrics of which less is better and that have no bounds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.make_records import record, scores, sweep
from thawline.reports import make_report
from thawline.reports.depth_figure import depth_figure
from thawline.reports.document import DASH
from thawline.reports.loading import load_sweep
from thawline.reports.strategy_figure import strategy_figure
from thawline.reports.study import make_study
from thawline.reports.tables import result_table
from thawline.reports.wording import warnings

DEPTHS = {"freeze_policy.k": ["0", "1", "9"], "seed": ["0", "1", "2"]}
VALIDATION = {"0": (0.70, 0.71, 0.72), "1": (0.90, 0.91, 0.92), "9": (0.80, 0.81, 0.82)}
TEST = {"0": (0.60, 0.62, 0.64), "1": (0.80, 0.81, 0.82), "9": (0.90, 0.92, 0.94)}


def run(overrides, k, seed, *, tested):
    splits = {"val": VALIDATION, "test": TEST} if tested else {"val": VALIDATION}
    return record(
        overrides, k=int(k), metrics={split: scores(values[k][int(seed)]) for split, values in splits.items()}
    )


def closed_sweep(folder: Path, axes=DEPTHS, tested=lambda place: False) -> Path:
    def make(overrides, place):
        return run(overrides, place["freeze_policy.k"], place["seed"], tested=tested(place))

    return sweep(folder, axes, make)


def texts(figure) -> str:
    return " ".join(text.get_text() for legend in figure.legends for text in legend.get_texts())


def test_a_report_without_test_is_one_of_validation_and_says_so(tmp_path):
    files = make_report(closed_sweep(tmp_path))
    study, report = files.study, files.markdown.read_text(encoding="utf-8")
    assert warnings(study)[0].startswith("The test split stayed closed in every run (open_test=false).")
    head = report.partition("## Results")[0]
    assert "The test split stayed closed in every run" in head
    answer = files.answer[0]
    assert "was chosen on validation; validation top-1 accuracy 0.910 ± 0.010 (mean ± sd, n = 3)" in answer
    assert "against 0.710 for the linear probe and 0.810 for full fine-tuning" in answer
    # All seeds differ by 20 of 100 images: the spread is that of rounding to one, 4.303 * 0.01 / sqrt(12) / sqrt(3).
    assert "+0.200 [+0.193, +0.207] against the linear probe" in answer
    assert "says nothing about chance" not in report
    assert "no run opened the test set" in report
    assert [column.heading for column in result_table(study).columns][-4:] == [
        "val top1",
        "95 % interval",
        "runs",
        "seconds",
    ]
    # 0.71 and the half of its t interval over 3 seeds: 4.303 * 0.01 / sqrt(3)
    assert result_table(study).lines[0].entries[-3] == "[0.685, 0.735]"
    comparison = report.partition("## How sure is that?")[2].partition("##")[0]
    assert "Validation scores, paired by seed" in comparison
    assert "There are no p values" in comparison
    assert "p sign flip" not in report
    assert "oracle" not in report.replace("need runs that open", "")
    with files.table_csv.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["val_top1_mean"][:5] for row in rows] == ["0.71", "0.91", "0.81"]
    assert not [name for name in rows[0] if name.startswith("test")]


@pytest.mark.parametrize("kind", ["depth", "strategy"])
def test_the_figure_of_a_sweep_without_test_shows_validation(tmp_path, kind):
    axes = DEPTHS if kind == "depth" else {"head": ["linear"], **DEPTHS}
    study = make_study(load_sweep(closed_sweep(tmp_path, axes)))
    figure, caption = depth_figure(study) if kind == "depth" else strategy_figure(study)
    assert "validation, mean" in texts(figure)
    assert "test" not in texts(figure) + caption
    dots = [offset for drawn in figure.axes[0].collections for offset in drawn.get_offsets().tolist()]
    shown = {round(float(dot[kind == "depth"]), 2) for dot in dots if len(dot) == 2}
    assert {value for values in VALIDATION.values() for value in values} <= shown


def test_runs_with_and_without_test_are_compared_on_validation(tmp_path):
    files = make_report(closed_sweep(tmp_path, tested=lambda place: place["freeze_policy.k"] != "0"))
    report = files.markdown.read_text(encoding="utf-8")
    assert "The test split stayed closed in 3 of 9 runs" in report.partition("## Results")[0]
    assert "validation top-1 accuracy 0.910 ± 0.010 (mean ± sd, n = 3)" in files.answer[0]
    assert "on test it has 0.810 ± 0.010 (mean ± sd, n = 3)" in files.answer[0]
    headings = [column.heading for column in result_table(files.study).columns]
    column = headings.index("test top1")
    assert headings.index("95 % interval") == headings.index("val top1") + 1
    entries = [line.entries[column] for line in result_table(files.study).lines]
    assert entries == [DASH, "0.810 ± 0.010", "0.920 ± 0.020"]
    assert "p sign flip" not in report


def test_a_run_made_again_with_test_opened_counts_once(tmp_path):
    axes = {**DEPTHS, "open_test": ["false", "true"]}
    study = make_study(load_sweep(closed_sweep(tmp_path, axes, lambda place: place["open_test"] == "true")))
    assert (study.split, study.axes.choices) == ("test", ())
    assert [len(row.runs) for row in study.rows] == [3, 3, 3]
    assert [line.entries[-2] for line in result_table(study).lines] == ["3", "3", "3"]
    assert "9 runs were made a second time with the test split opened: each counts once." in warnings(study)


MAE = {"mae": {"direction": "min", "label": "mean absolute error", "lower": 0.0}}


def less_is_better(folder: Path, scale: float, lost: bool = False) -> Path:
    """Errors around `scale`; k = 1 has the smallest."""

    def make(overrides, place):
        k, seed = int(place["freeze_policy.k"]), int(place["seed"])
        value = scale * (1.0 + 0.01 * seed + (0.0 if k == 1 else 0.5))
        metrics = {split: {"mae": None if lost and (k, seed) == (0, 2) else value} for split in ("val", "test")}
        selection = {"monitor": "val/mae", "mode": "min", "value": scale, "phase": 0, "epoch": 1}
        task = {"task": "number", "metric_definitions": MAE, "headline": "mae", "tie_break": None, "classes": []}
        return record(overrides, k=k, metrics=metrics, selection=selection, **task)

    return sweep(folder, DEPTHS, make)


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (0.0002, "0.000202 ± 0.000002"),
        (0.02, "0.0202 ± 0.0002"),
        (2.0, "2.020 ± 0.020"),
        (2000.0, "2020 ± 20"),
    ],
)
def test_numbers_have_the_digits_that_their_size_needs(tmp_path, scale, told):
    study = make_study(load_sweep(less_is_better(tmp_path, scale)))
    assert next(line.entries for line in result_table(study).lines if line.strong)[-5] == told


def test_of_a_metric_of_which_less_is_better_everything_says_so(tmp_path):
    files = make_report(less_is_better(tmp_path, 2.0, lost=True))
    assert "test mean absolute error (lower is better) 2.020 ± 0.020" in files.answer[0]
    assert "mae: mean absolute error, lower is better." in result_table(files.study).note
    report = files.markdown.read_text(encoding="utf-8")
    assert "so below zero it is the better one" in report
    assert "By class" not in report
    figure, caption = depth_figure(files.study)
    assert figure.axes[0].get_ylabel() == "mean absolute error, lower is better"
    assert "Lower is better." in caption
    # A diverged run lies where the worst ones are.
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_ydata()) for line in crosses] == [[0.97]]
