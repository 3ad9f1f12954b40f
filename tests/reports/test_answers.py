"""The words of a report: what was chosen on validation, and how sure that is."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np

from tests.make_records import (
    depth_sweep,
    predictions,
    record,
    scores,
    strategy_sweep,
    sweep,
)
from tests.reports.depth_sweeps import DEPTHS, rows_of, study_of
from thawline.reports import make_report
from thawline.reports.depth_figure import depth_figure
from thawline.reports.escaping import MINUS
from thawline.reports.loading import load_sweep
from thawline.reports.tables import table_rows
from thawline.reports.wording import answer


def test_the_answer_says_what_was_chosen_on_validation_and_how_sure_it_is(depths):
    told = answer(study_of(depths))
    expected = (
        "k = 9 is better on test than every other depth (3 seeds). "
        "Unfreezing k = 1 of 9 layer groups (from layer4.1 on) was chosen on validation, and another is better on "
        "test; test top-1 accuracy 0.810 ± "
        "0.010 (mean ± sd, n = 3), against 0.620 for the linear probe and 0.920 for full fine-tuning. Paired by seed "
        "that is +0.190 [+0.165, +0.215] against the linear probe and -0.110 [-0.135, -0.085] against full fine-tuning "
        "(95 % t intervals)."
    )
    # In print a minus is longer than a hyphen.
    assert told == (expected.replace(" -0", f" {MINUS}0").replace("[-", f"[{MINUS}"),)


def test_the_test_set_has_no_say_in_the_choice(depths):
    study = study_of(depths)
    assert [group.chosen.depth for group in study.conditions] == [1]
    page = make_report(depths).markdown.read_text()
    # By seed too: k = 1 three times, 0.1 below the oracle's k = 9 on the mean of 0.10, 0.11 and 0.12.
    assert "| k = 1 | k = 1 (3) | 0.810 ± 0.010 | \\[0.785, 0.835\\] | k = 9 | 0.110 ± 0.010 | 3 |" in page


def test_a_tie_on_validation_goes_to_the_fewest_trained_parameters(tmp_path):
    tied = {"val": scores(0.9), "test": scores(0.8)}
    folder = sweep(
        tmp_path, DEPTHS, lambda overrides, place: record(overrides, k=int(place["freeze_policy.k"]), metrics=tied)
    )
    assert study_of(folder).conditions[0].chosen.depth == 0
    told = answer(study_of(folder))[0]
    assert told.startswith("k = 0, 1 and 9 of 9 layer groups cannot be told apart on test (3 seeds); 0 is the cheapest")
    assert "The linear probe (k = 0 of 9 layer groups) was chosen on validation" in told


def test_one_seed_says_nothing_about_chance(tmp_path):
    folder = depth_sweep(tmp_path, depths=[0, 1], seeds=1)
    told = answer(study_of(folder))[0]
    assert told.endswith("One run of each says nothing about chance: repeat the sweep with more seeds.")
    rows = rows_of(make_report(folder).table_csv)
    assert [row["test_top1_sd"] for row in rows] == ["", ""]


def test_strategies_are_compared_with_the_plain_probe_and_plain_fine_tuning(tmp_path):
    levels = {"linear_probe": (0, 0.7), "full": (9, 0.8), "lp_ft": (9, 0.9), "l2_sp": (9, 0.85), "head_l2": (0, 0.75)}
    study = study_of(strategy_sweep(tmp_path, levels, seeds=4))
    assert [row.label for row in study.rows] == ["lp_ft", "l2_sp", "full", "head_l2", "linear_probe"]
    by_label = {row.label: row for row in study.rows}
    for row in study.rows:
        assert study.full_of(row) is (None if row.label == "full" else by_label["full"])
        assert study.probe_of(row) is (None if row.label == "linear_probe" else by_label["linear_probe"])
    told = answer(study)[0]
    assert told.startswith("lp_ft is better on test than every other setting (4 seeds). ")
    assert "lp_ft was chosen on validation among 5 strategies; " in told
    assert re.search(r"against 0\.\d{3} for the plain linear probe and 0\.\d{3} for plain full fine-tuning\.", told)
    assert "2/2^4" in make_report(study.sweep.folder).markdown.read_text()


def test_mcnemars_reference_is_the_plain_fine_tuning(tmp_path):
    levels = {"full": (9, 0.8), "lp_ft": (9, 0.9), "l2_sp": (9, 0.85)}
    folder = strategy_sweep(tmp_path, levels, seeds=1)
    for run in load_sweep(folder).runs:
        with (run.folder / "predictions.npz").open("wb") as stream:
            np.savez(stream, **predictions([0, 1], [True, False], 2))
    page = make_report(folder).markdown.read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| lp_ft |") and line.endswith("| 2 | 1 |")]
    assert line.split(" | ")[1] == "full"


def test_predictions_that_are_not_those_of_the_run_are_compared_with_nothing(tmp_path):
    folder = strategy_sweep(tmp_path, {"full": (9, 0.8), "lp_ft": (9, 0.9)}, seeds=1)
    for run in load_sweep(folder).runs:
        file, record_file = run.folder / "predictions.npz", run.folder / "record.json"
        with file.open("wb") as stream:
            np.savez(stream, **predictions([0, 1], [True, False], 2))
        said = json.loads(record_file.read_text())
        said["files"] = {"predictions.npz": hashlib.sha256(file.read_bytes()).hexdigest()}
        record_file.write_text(json.dumps(said))
    assert "McNemar" in make_report(folder).markdown.read_text()
    with file.open("wb") as stream:
        np.savez(stream, **predictions([0, 1], [False, False], 2))
    assert "McNemar" not in make_report(folder).markdown.read_text()


def test_the_reference_shares_most_settings_with_the_choice(tmp_path):
    axes = {"backbone": ["a", "b"], "regularizer": ["[]", "[l2_sp]"], "freeze_policy.k": ["1", "9"], "seed": ["0"]}

    def make(overrides, place):
        k, added = int(place["freeze_policy.k"]), place["regularizer"] != "[]"
        level = 0.6 + 0.1 * added + 0.1 * (k == 1) + 0.05 * (place["backbone"] == "a")
        metrics = {"val": scores(level), "test": scores(level)}
        return record(overrides, k=k, metrics=metrics, additions=["l2_sp"] if added else [])

    study = study_of(sweep(tmp_path, axes, make))
    for row in study.rows:
        full = study.full_of(row)
        if row.is_full and row.is_plain:
            assert full is None
        else:
            assert full.label == f"{row.choice[0]}, no regularizer, k = 9"
    told = answer(study)[0]
    assert "a, l2_sp" in told
    assert "0.650 for plain full fine-tuning (a, no regularizer)" in told


def test_a_count_from_the_input_is_reported_as_one(tmp_path):
    def make(overrides, place):
        k = int(place["freeze_policy.k"])
        level = 0.9 - 0.05 * abs(k - 3)
        metrics = {"val": scores(level), "test": scores(level)}
        return record(overrides, k=k, metrics=metrics, counted_from="input")

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "1", "3", "9"], "seed": ["0", "1"]}, make))
    told = answer(study)[0]
    assert "Unfreezing the first k = 3 of 9 layer groups (up to layer1.1) was chosen on validation" in told
    assert "stem on" not in told
    assert [row["groups_trained"] for row in table_rows(study)] == ["head only", "up to stem", "up to layer1.1", "all"]
    figure, _ = depth_figure(study)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "unfrozen layer groups k, counted from the input"
    above = [text.get_text() for child in axes.child_axes for text in child.get_xticklabels()]
    assert above == ["head only", "stem", "layer1.1", "layer4.1"]


def test_a_k_that_counts_no_layer_groups_is_a_setting(tmp_path):
    def make(overrides, place):
        level = 0.7 + 0.01 * int(place["freeze_policy.k"])
        metrics = {"val": scores(level), "test": scores(level)}
        return record(overrides, k=2, metrics=metrics, counted_from=None)

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["4", "8"], "seed": ["0", "1"]}, make))
    assert [row.label for row in study.rows] == ["k=4", "k=8"]
    assert "k=8 was chosen on validation" in answer(study)[0]
