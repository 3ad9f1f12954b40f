"""Reports by another metric, along other axes, over several data sets and further test sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.make_records import (
    predictions,
    record,
    scores,
    sweep,
)
from tests.reports.depth_sweeps import DEPTHS, by_depth, rows_of, study_of
from thawline.errors import UsageError
from thawline.records import Selection
from thawline.reports import make_report
from thawline.reports.axes import setting_labels
from thawline.reports.depth_figure import depth_figure
from thawline.reports.document import DASH
from thawline.reports.loading import load_sweep
from thawline.reports.wording import answer, warnings


def test_the_metric_is_what_the_runs_selected_by_and_its_direction_too(tmp_path):
    selection = Selection(monitor="val/loss", mode="min", value=0.1, phase=0, epoch=1)

    def make(overrides, place):
        return by_depth(overrides, place).model_copy(update={"selection": selection})

    folder = sweep(tmp_path, DEPTHS, make)
    study = study_of(folder)
    assert (study.metric, study.mode, study.conditions[0].chosen.depth) == ("loss", "min", 1)
    other = study_of(folder, metric="macro_f1")
    assert (other.metric, other.mode) == ("macro_f1", "max")
    assert "selected their checkpoint by loss; this report compares them by macro_f1" in warnings(other)[0]
    assert study_of(folder, metric="calibration_error").mode == "min"


def test_another_task_brings_its_own_metric(tmp_path):
    selection = {"monitor": "val/miou", "mode": "max", "value": 0.5, "phase": 0, "epoch": 1}

    def make(overrides, place):
        metrics = {"val": {"miou": 0.5}, "test": {"miou": 0.4 + int(place["seed"]) / 10}}
        defined = {"miou": {"direction": "max", "label": "mean IoU", "lower": 0.0, "upper": 1.0}}
        task = {"task": "semantic_segmentation", "metric_definitions": defined, "headline": "miou", "tie_break": None}
        return record(overrides, metrics=metrics, selection=selection, **task)

    files = make_report(sweep(tmp_path, {"seed": ["0", "1"]}, make))
    assert float(rows_of(files.table_csv)[0]["test_miou_mean"]) == pytest.approx(0.45)
    assert "test mean IoU 0.450" in files.answer[0]


@pytest.mark.parametrize(("scale", "told"), [(1e-6, "mAP 0.0000 ±"), (1e-1, "mAP 0.0450 ±")])
def test_a_share_has_four_digits_at_most_and_a_name_keeps_its_small_letter(tmp_path, scale, told):
    selection = {"monitor": "val/map", "mode": "max", "value": 0.5, "phase": 0, "epoch": 1}

    def make(overrides, place):
        metrics = {"val": {"map": scale * 0.5}, "test": {"map": scale * (0.4 + int(place["seed"]) / 10)}}
        defined = {"map": {"direction": "max", "label": "mAP", "lower": 0.0, "upper": 1.0}}
        task = {"task": "detection", "metric_definitions": defined, "headline": "map", "tie_break": None}
        return record(overrides, metrics=metrics, selection=selection, **task)

    files = make_report(sweep(tmp_path, {"freeze_policy.k": ["0", "1"], "seed": ["0", "1"]}, make))
    assert f"test {told}" in files.answer[0]
    assert "MAP" not in files.markdown.read_text()


def test_options_of_a_group_are_told_by_their_names():
    axes = ["backbone", "regularizer", "optimizer.lr"]
    assert setting_labels(axes, ["resnet18", "[l2_sp, bss]", "0.1"]) == ["resnet18", "l2_sp + bss", "lr=0.1"]
    assert setting_labels(axes, ["resnet18", "[]", "0.1"]) == ["resnet18", "no regularizer", "lr=0.1"]


# Names that a word in them would give the wrong direction: what the record says counts.
DEFINED = {
    "nll": {"direction": "min", "label": "negative log-likelihood", "lower": 0.0},
    "brier": {"direction": "min", "label": "Brier score", "lower": 0.0, "upper": 2.0},
    "hausdorff": {"direction": "min", "label": "Hausdorff distance (mm)", "lower": 0.0},
    "lossless": {"direction": "max", "label": "share of lossless pixels", "lower": 0.0, "upper": 1.0},
    "psnr_error_free": {"direction": "max", "label": "PSNR (dB)"},
}


def defined_sweep(tmp_path: Path, definitions=DEFINED) -> Path:
    """Two depths with values 0.2 and 0.8 of every metric."""

    def make(overrides, place):
        values = dict.fromkeys(DEFINED, {"0": 0.2, "1": 0.8}[place["freeze_policy.k"]])
        selection = {"monitor": "val/nll", "mode": "min", "value": 0.2, "phase": 0, "epoch": 1}
        task = {"metric_definitions": definitions, "headline": "brier", "tie_break": None, "selection": selection}
        metrics = {"val": values, "test": values}
        return record(overrides, k=int(place["freeze_policy.k"]), metrics=metrics, **task)

    return sweep(tmp_path, {"freeze_policy.k": ["0", "1"], "seed": ["0", "1"]}, make)


@pytest.mark.parametrize("metric", DEFINED)
def test_a_metric_is_read_as_its_record_says(tmp_path, metric):
    study = study_of(defined_sweep(tmp_path), metric=metric)
    assert study.mode == DEFINED[metric]["direction"]
    assert study.conditions[0].chosen.depth == {"min": 0, "max": 1}[study.mode]
    assert [study.rows[index].depth for index in study.conditions[0].per_replicate.chosen] == [study.mode == "max"] * 2
    assert DEFINED[metric]["label"] in answer(study)[0]
    better = ", lower is better" if study.mode == "min" else ""
    assert depth_figure(study)[0].axes[0].get_ylabel() == DEFINED[metric]["label"] + better


def test_a_record_that_does_not_define_its_metrics_is_damaged(tmp_path):
    with pytest.raises(ValueError, match="metric_definitions lacks psnr_error_free"):
        defined_sweep(tmp_path, {name: DEFINED[name] for name in list(DEFINED)[:-1]})


def test_records_that_do_not_agree_on_a_metric_are_not_compared_by_it(tmp_path):
    folder = defined_sweep(tmp_path)
    path = next((tmp_path / "runs").glob("*/record.json"))
    values = json.loads(path.read_text())
    values["metric_definitions"]["nll"]["direction"] = "max"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="the records define 'nll' in different ways"):
        study_of(folder)


def test_a_record_from_before_metrics_were_defined_in_it_is_classifications(tmp_path):
    made = record([], metrics={"val": scores(0.8), "test": {**scores(0.7), "top3": 0.9}})
    for field in ("metric_definitions", "headline", "tie_break"):
        assert field not in made.model_fields_set - {"metric_definitions"}
    assert made.metric_definitions["top3"].label == "top-3 accuracy"
    directions = {name: found.direction for name, found in made.metric_definitions.items()}
    less = {"loss": "min", "calibration_error": "min"}
    assert directions == dict.fromkeys(("top1", "top3", "top5", "macro_accuracy", "macro_f1"), "max") | less
    assert (made.headline, made.tie_break) == ("top1", "loss")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metric": "topp1"}, "metric: no run has a metric 'topp1'; nearest: top1"),
        ({"axis": "freeze_policy.kk"}, "axis: the sweep has no axis 'freeze_policy.kk'; nearest: freeze_policy.k"),
        ({"axis": "seed"}, "axis: the sweep has no axis 'seed'"),
    ],
)
def test_an_unknown_metric_or_axis_is_one_message_with_the_nearest(depths, options, told):
    with pytest.raises(UsageError) as error:
        study_of(depths, **options)
    assert str(error.value).startswith(told)


def test_data_seeds_are_replicates_like_seeds(tmp_path):
    axes = {"freeze_policy.k": ["0", "1"], "seed": ["0", "1"], "dataset.data_seed": ["0", "1", "2"]}
    study = study_of(sweep(tmp_path, axes, lambda o, p: record(o, k=int(p["freeze_policy.k"]))))
    assert study.axes.replicates == ("seed", "dataset.data_seed")
    assert [len(row.runs) for row in study.rows] == [6, 6]


def test_data_sets_are_conditions_with_a_choice_each_and_are_ranked_not_averaged(tmp_path):
    level = {"a": 0.9, "b": 0.5, "c": 0.3}
    better = {"linear_probe": 0.0, "last_k": 0.02, "full": 0.01}

    def make(overrides, place):
        shift = -better[place["freeze_policy"]] if place["dataset"] == "c" else better[place["freeze_policy"]]
        value = level[place["dataset"]] + shift + int(place["seed"]) / 1000
        return record(overrides, k=3, metrics={"val": scores(value), "test": scores(value)})

    axes = {"dataset": list(level), "freeze_policy": list(better), "seed": ["0", "1"]}
    files = make_report(sweep(tmp_path, axes, make))
    assert [group.chosen.label for group in files.study.conditions] == ["a, last_k", "b, last_k", "c, linear_probe"]
    assert [text.split(":")[0] for text in files.answer[:3]] == ["On a", "On b", "On c"]
    page = files.markdown.read_text()
    # Ranks of last_k: 1, 1, 3; of full: 2, 2, 2; of linear_probe: 3, 3, 1.
    assert "| last\\_k | 1.67 | a |" in page.replace("last_k", "last\\_k")
    assert "| full | 2.00 | a |" in page
    assert "| linear_probe | 2.33 | a |" in page
    assert "Over 3 data sets the smallest two-sided p of a pair is 0.25 (2/2^3)" in page


def test_further_test_sets_get_columns_or_a_table_of_their_own(tmp_path):
    def make(names):
        def with_tests(overrides, place):
            tests = {f"test/{name}": scores(0.5) for name in names}
            return record(overrides, metrics={"val": scores(0.9), "test": scores(0.8), **tests})

        return with_tests

    few = make_report(sweep(tmp_path / "few", {"seed": ["0", "1"]}, make(["noise", "blur"])))
    assert "test/blur top1" in few.table_md.read_text()
    many = make_report(sweep(tmp_path / "many", {"seed": ["0", "1"]}, make("abcde")))
    assert "test/a" not in many.table_md.read_text()
    assert "| all runs | 0.800 ± 0.000 | 0.500 ± 0.000 |" in many.markdown.read_text().replace("**", "")
    assert float(rows_of(many.table_csv)[0]["test/e_top1_mean"]) == 0.5


def test_the_copy_before_tuning_is_told(tmp_path):
    def make(overrides, place):
        before = {"before/target": scores(0.2), "before/source": scores(0.95)}
        return record(overrides, metrics={"val": scores(0.9), "test": scores(0.8), **before})

    page = make_report(sweep(tmp_path, {"seed": ["0", "1"]}, make)).markdown.read_text()
    assert "| all runs | 0.950 ± 0.000 | 0.200 ± 0.000 | 2 |" in page


def test_classes_are_told_by_recall_and_what_they_are_taken_for(tmp_path):
    matrix = [[8, 2, 0], [0, 10, 0], [5, 1, 4]]

    def make(overrides, place):
        return record(overrides, classes=["ant", "bee", "cat"], confusion_matrix=matrix)

    page = make_report(sweep(tmp_path, {"seed": ["0", "1"]}, make)).markdown.read_text()
    rows = [
        "| cat | 20 | 0.400 | ant (50.0 %) |",
        "| ant | 20 | 0.800 | bee (20.0 %) |",
        f"| bee | 20 | 1.000 | {DASH} |",
    ]
    assert "\n".join(rows) in page


def test_runs_that_take_every_test_image_for_one_class_are_named_with_it(tmp_path):
    matrices = {
        ("same", "0"): [[0, 10, 0], [0, 10, 0], [0, 3, 0]],
        ("same", "1"): [[0, 0, 10], [0, 0, 10], [0, 0, 3]],
        ("once", "0"): [[10, 0, 0], [10, 0, 0], [3, 0, 0]],
        ("once", "1"): [[9, 1, 0], [10, 0, 0], [3, 0, 0]],
        ("no other class", "0"): [[0, 0, 0], [0, 23, 0], [0, 0, 0]],
        ("no other class", "1"): [],
    }

    def make(overrides, place):
        matrix = matrices[place["setting"], place["seed"]]
        return record(overrides, classes=["ant", "b*e", "cat"], confusion_matrix=matrix)

    settings = list(dict.fromkeys(setting for setting, _ in matrices))
    study = study_of(sweep(tmp_path, {"setting": settings, "seed": ["0", "1"]}, make))
    assert warnings(study) == (
        "Runs took every test image for one and the same class (same: 2 of 2, 'b*e' or 'cat'; once: 1 of 2, 'ant').",
    )


def test_models_are_compared_sample_by_sample_where_predictions_are_kept(depths):
    runs = depths.parent.parent / "runs"
    labels = [0, 1, 2, 3, 4] * 4
    right = {"0": [True] * 10 + [False] * 10, "1": [True] * 19 + [False], "9": [True] * 20}
    for cell in load_sweep(depths).cells:
        if cell.values["seed"] == "0":
            arrays = predictions(labels, right[cell.values["freeze_policy.k"]], 5)
            # Each run may have written its samples in an order of its own.
            order = np.random.default_rng(int(cell.values["freeze_policy.k"])).permutation(20)
            arrays = {name: values[order] for name, values in arrays.items()}
            np.savez_compressed(runs / cell.identity / "predictions.npz", **arrays)
    page = make_report(depths).markdown.read_text()
    assert "| k = 1 | k = 0 | 0 | 9 | 0 | 20 | 0.00391 |" in page  # 2 / 2^9
    assert "| k = 1 | k = 9 | 0 | 0 | 1 | 20 | 1 |" in page


def test_a_damaged_predictions_file_stops_nothing(depths):
    for folder in (depths.parent.parent / "runs").iterdir():
        (folder / "predictions.npz").write_bytes(b"not a zip file")
    assert "Sample by sample" not in make_report(depths).markdown.read_text()
