"""Reports of sweeps in which runs are missing, diverged or damaged."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.make_records import (
    predictions,
    record,
    scores,
    sweep,
    write_sweep,
)
from tests.reports.depth_sweeps import DEPTHS, by_depth, rows_of, study_of
from thawline.errors import UsageError
from thawline.records import write_record
from thawline.reports import make_report
from thawline.reports.changes import mean_change
from thawline.reports.document import DASH
from thawline.reports.findings import sample_comparisons
from thawline.reports.per_class import class_recalls
from thawline.reports.wording import warnings


def test_an_incomplete_sweep_says_how_much_is_missing_and_shows_dashes(tmp_path):
    def make(overrides, place):
        return None if place["freeze_policy.k"] == "9" else by_depth(overrides, place)

    files = make_report(sweep(tmp_path, DEPTHS, make))
    assert warnings(files.study)[0] == (
        "The sweep is not complete: 3 of 9 cells have no valid record (3 missing). Everything here is made of "
        "the other 6."
    )
    assert "|  | 9 | - | - | - | - | - | - | 0 of 3 | - |".replace("-", DASH) in files.table_md.read_text()
    row = rows_of(files.table_csv)[2]
    assert (row["test_top1_mean"], row["test_top1_n"], row["missing"]) == ("", "0", "3")
    run = rows_of(files.runs_csv)[8]
    assert (run["status"], run["test_top1"], run["total_seconds"]) == ("missing", "", "")


def test_a_row_with_fewer_seeds_is_not_chosen_and_is_paired_on_the_common_ones(tmp_path):
    def make(overrides, place):
        return None if (place["freeze_policy.k"], place["seed"]) == ("1", "0") else by_depth(overrides, place)

    study = study_of(sweep(tmp_path, DEPTHS, make))
    assert study.conditions[0].chosen.depth == 9
    assert any(
        "1 row has fewer runs that did not diverge" in text and "common seeds" in text for text in warnings(study)
    )
    page = make_report(study.sweep.folder).markdown.read_text()
    # Against k = 1 on the seeds 1 and 2: (0.92 - 0.81 + 0.94 - 0.82) / 2.
    assert re.search(r"\| k = 1 \| \+0\.115 \| .* \| 2 \|", page)
    assert "only the common ones are compared" in page


def test_diverged_runs_are_counted_and_their_mean_is_labelled(tmp_path):
    def make(overrides, place):
        if (place["freeze_policy.k"], place["seed"]) == ("9", "2"):
            return record(overrides, k=9, metrics={"val": scores(None), "test": scores(None)}, diverged=True)
        return by_depth(overrides, place)

    files = make_report(sweep(tmp_path, DEPTHS, make))
    assert "0.910 ± 0.014 (1 of 3 diverged)" in files.table_md.read_text()
    assert "3, 1 diverged" in files.table_md.read_text()
    assert any("Runs diverged (k = 9: 1 of 3)" in text for text in warnings(files.study))
    assert "0.900 0.920 diverged" in files.markdown.read_text()
    assert "0.910 (1 of 3 diverged) for full fine-tuning" in files.answer[0]
    assert [row["diverged"] for row in rows_of(files.runs_csv)].count("true") == 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_text("{"), "damaged record: "),
        (lambda path: path.write_text('{"schema_version": 1}'), "damaged record: identity: Field required"),
        (
            lambda path: path.write_text(path.read_text().replace(path.parent.name, "0" * 20)),
            "is the record of run 0000",
        ),
    ],
)
def test_a_damaged_record_is_no_record(depths, damage, told):
    path = sorted((depths.parent.parent / "runs").glob("*/record.json"))[0]
    damage(path)
    study = study_of(depths)
    assert study.missing == 1
    assert "(1 damaged)" in warnings(study)[0]
    assert told in next(cell.problem for cell in study.sweep.cells if cell.run is None)


def test_nothing_done_is_an_error_and_leaves_nothing_behind(tmp_path):
    folder = sweep(tmp_path, DEPTHS, lambda overrides, place: None)
    with pytest.raises(UsageError, match="no finished run yet"):
        make_report(folder)
    assert [path.name for path in folder.iterdir()] == ["sweep.json"]


def test_a_run_that_two_seeds_share_is_one_run(tmp_path):
    one = record(["freeze_policy.k=0"], k=0)
    write_record(tmp_path / "runs" / one.identity, one)
    cells = [{"identity": one.identity, "overrides": ["freeze_policy.k=0", f"data_seed={seed}"]} for seed in (0, 1)]
    study = study_of(write_sweep(tmp_path, {"data_seed": ["0", "1"]}, cells))
    assert (len(study.rows), len(study.rows[0].runs)) == (1, 1)
    assert "1 cell resolves to a run that the row already has" in warnings(study)[-1]


def test_an_identity_cannot_leave_the_runs_folder(tmp_path):
    outside = record(["seed=0"])
    write_record(tmp_path / "elsewhere" / outside.identity, outside)
    inside = record(["seed=1"])
    write_record(tmp_path / "runs" / inside.identity, inside)
    cells = [
        {"identity": f"../elsewhere/{outside.identity}", "overrides": ["seed=0"]},
        {"identity": inside.identity, "overrides": ["seed=1"]},
    ]
    study = study_of(write_sweep(tmp_path, {"seed": ["0", "1"]}, cells))
    assert [cell.problem for cell in study.sweep.cells] == ["not the identity of a run", ""]


def test_rows_stand_in_the_order_of_depth_also_where_one_is_missing(tmp_path):
    def make(overrides, place):
        return None if place["freeze_policy.k"] == "4" else record(overrides, k=int(place["freeze_policy.k"]))

    folder = sweep(tmp_path, {"freeze_policy.k": ["9", "0", "4", "2"], "seed": ["0"]}, make)
    assert [row.depth_value for row in study_of(folder).rows] == ["0", "2", "4", "9"]

    def named(overrides, place):
        return record(overrides, k={"all": 9, "layer4": 2, "head": 0}[place["freeze_policy.k"]])

    folder = sweep(tmp_path, {"freeze_policy.k": ["all", "head", "layer4"], "seed": ["0"]}, named, "named")
    assert [row.depth_value for row in study_of(folder).rows] == ["head", "layer4", "all"]


def test_a_diverged_run_enters_no_mean_and_no_comparison_of_images(tmp_path):
    changes = {"groups": [{"distance": 2.0, "relative": 0.2}] * 9}
    lost = {"groups": [{"distance": 2000.0, "relative": 200.0}] * 9}

    def make(overrides, place):
        k, diverged = int(place["freeze_policy.k"]), place["seed"] == "1"
        level = scores(None if diverged else 0.5 + k / 100)
        made = record(
            overrides,
            k=k,
            diverged=diverged,
            metrics={"val": level, "test": level},
            classes=["ant", "bee"],
            confusion_matrix=[[0, 9], [0, 9]] if diverged else [[6, 3], [0, 9]],
            diagnostics={"drift": lost if diverged else changes},
        )
        folder = tmp_path / "runs" / made.identity
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", **predictions([0, 1], [not diverged, k == 9], 2))
        return made

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "9"], "seed": ["0", "1"]}, make))
    chosen, other = study.conditions[0].chosen, study.rows[0]
    assert chosen is study.rows[1]
    assert mean_change(chosen, 8, lambda change: change.drift) == 2.0
    assert [(item.samples, item.recall) for item in class_recalls(chosen)] == [(9, 6 / 9), (9, 1.0)]
    assert [item.replicate for item in sample_comparisons(study, chosen, [other])] == [("0",)]
    assert "on the test set, of its one run." in make_report(study.sweep.folder).markdown.read_text()
