"""Reports: from records that lie as real ones do to tables, words, a figure and a page."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.make_records import (
    PROVENANCE,
    RECIPE,
    RESNET18,
    depth_sweep,
    predictions,
    record,
    scores,
    strategy_sweep,
    sweep,
    write_sweep,
)
from thawline.cli import main
from thawline.errors import UsageError
from thawline.records import Record, Selection, write_record
from thawline.reports import find_sweep, make_report
from thawline.reports.curve_figure import curve_figure
from thawline.reports.depth_figure import depth_figure
from thawline.reports.document import DASH
from thawline.reports.escaping import MINUS, command_line, csv_field, latex, markdown, plain
from thawline.reports.loading import load_sweep
from thawline.reports.strategy_figure import strategy_figure
from thawline.reports.study import make_study
from thawline.reports.tables import fitted, result_table, table_rows
from thawline.reports.wording import answer, warnings

DEPTHS = {"freeze_policy.k": ["0", "1", "9"], "seed": ["0", "1", "2"]}
# Validation prefers k = 1, the test set would have preferred k = 9.
VALIDATION = {"0": (0.70, 0.71, 0.72), "1": (0.90, 0.91, 0.92), "9": (0.80, 0.81, 0.82)}
TEST = {"0": (0.60, 0.62, 0.64), "1": (0.80, 0.81, 0.82), "9": (0.90, 0.92, 0.94)}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "../../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "| a | b |\n|---|",
    "[click](javascript:alert(1))",
    "``` $x_{1}$ \\input{/etc/passwd} % & # ~ ^ {{ 7*7 }} {% raw %}",
    "\x1b[31mred\x00\u202eevil",
    "日本語 \N{GRINNING FACE} ñ",
    "x" * 300,
)


def by_depth(overrides: list[str], place: dict[str, str]) -> Record:
    k, seed = place["freeze_policy.k"], int(place["seed"])
    metrics = {"val": scores(VALIDATION[k][seed]), "test": scores(TEST[k][seed])}
    return record(overrides, k=int(k), metrics=metrics)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def study_of(folder: Path, **options: str):
    return make_study(load_sweep(folder), **options)


@pytest.fixture
def depths(tmp_path: Path) -> Path:
    return sweep(tmp_path, DEPTHS, by_depth, "depths")


# Tables


def test_table_has_a_row_per_depth_with_the_numbers_of_the_records(depths):
    rows = rows_of(make_report(depths).table_csv)
    assert [row["k"] for row in rows] == ["0", "1", "9"]
    assert [row["groups_trained"] for row in rows] == ["head only", "from layer4.1", "all"]
    assert [row["trainable_parameters"] for row in rows] == ["2565", "4723205", "11179077"]
    assert [float(row["test_top1_mean"]) for row in rows] == pytest.approx([0.62, 0.81, 0.92])
    assert [float(row["test_top1_sd"]) for row in rows] == pytest.approx([0.02, 0.01, 0.02])
    assert float(rows[1]["test_top1_low"]) == pytest.approx(0.81 - 4.302652729911275 * 0.01 / 3**0.5)
    assert [row["runs"] for row in rows] == ["3", "3", "3"]
    assert [float(row["total_seconds_mean"]) for row in rows] == [12.0, 14.5, 34.5]
    assert [row["chosen"] for row in rows] == ["false", "true", "false"]


def test_runs_csv_has_every_run_with_its_identity_and_command(depths):
    rows = rows_of(make_report(depths).runs_csv)
    assert len(rows) == 9
    assert rows[4]["freeze_policy.k"] == rows[4]["seed"] == "1"
    assert (float(rows[4]["val_top1"]), float(rows[4]["test_top1"])) == (0.91, 0.81)
    assert rows[4]["command"] == "thawline train freeze_policy.k=1 seed=1"
    assert (depths.parent.parent / "runs" / rows[4]["identity"] / "record.json").is_file()


def test_markdown_and_latex_tables_show_the_same(depths):
    files = make_report(depths)
    assert (
        "| **★** | **1** | **from layer4.1** | **4,723,205** | **42.3** | **0.910 ± 0.010** | **0.810 ± 0.010** | "
        "**\\[0.785, 0.835\\]** | **3** | **14.5** |"
    ) in files.table_md.read_text()
    tex = files.table_tex.read_text()
    assert r"\toprule" in tex
    assert (
        r" & 0 & head only & 2,565 & 0.023 & 0.710 $\pm$ 0.010 & 0.620 $\pm$ 0.020 & {[}0.570, 0.670{]} & 3 & 12.0 \\"
        in tex
    )
    assert tex.count(r"\\") == 4


def test_every_format_tells_the_identity_and_the_command_of_every_run(depths):
    files = make_report(depths)
    page = files.html.read_text()
    for row in rows_of(files.runs_csv):
        line = f"{row['command']}  # {row['identity']}"
        assert line in files.markdown.read_text()
        assert line in page
    assert "thawline train -m freeze_policy.k=0,1,9 seed=0,1,2" in page


def test_the_same_records_give_the_same_bytes(depths, tmp_path):
    first = make_report(depths, tmp_path / "one")
    second = make_report(depths, tmp_path / "two")
    names = sorted(path.name for path in first.folder.iterdir())
    assert names == sorted(
        [
            *("runs.csv", "table.csv", "table.md", "table.tex", "report.md", "report.html"),
            *("figure.png", "figure.pdf", "curves.png", "curves.pdf"),
        ]
    )
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


# The answer


def test_the_answer_says_what_was_chosen_on_validation_and_how_sure_it_is(depths):
    told = answer(study_of(depths))
    expected = (
        "Unfreezing k = 1 of 9 layer groups (from layer4.1 on) was chosen on validation; test top-1 accuracy 0.810 ± "
        "0.010 (mean ± sd, n = 3), against 0.620 for the linear probe and 0.920 for full fine-tuning. Paired by seed "
        "that is +0.190 [+0.165, +0.215] against the linear probe and -0.110 [-0.135, -0.085] against full fine-tuning "
        "(95 % t intervals). With 3 pairs of seeds no difference can reach p < 0.25 (2/2^3), so none can be called "
        "significant at 0.05, however large it is."
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
    assert answer(study_of(folder))[0].startswith("The linear probe (k = 0 of 9 layer groups) was chosen on validation")


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
    assert told.startswith("lp_ft was chosen on validation among 5 strategies; ")
    assert re.search(r"against 0\.\d{3} for the plain linear probe and 0\.\d{3} for plain full fine-tuning\.", told)
    assert "2/2^4" in told


def test_mcnemars_reference_is_the_plain_fine_tuning(tmp_path):
    levels = {"full": (9, 0.8), "lp_ft": (9, 0.9), "l2_sp": (9, 0.85)}
    folder = strategy_sweep(tmp_path, levels, seeds=1)
    for run in load_sweep(folder).runs:
        with (run.folder / "predictions.npz").open("wb") as stream:
            np.savez(stream, **predictions([0, 1], [True, False], 2))
    page = make_report(folder).markdown.read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| lp_ft |") and line.endswith("| 2 | 1 |")]
    assert line.split(" | ")[1] == "full"


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
            assert full.label == f"{row.choice[0]}, [], k = 9"
    told = answer(study)[0]
    assert "a, [l2_sp]" in told
    assert "0.650 for plain full fine-tuning (a, [])" in told


def test_a_count_from_the_input_is_reported_as_one(tmp_path):
    def make(overrides, place):
        k = int(place["freeze_policy.k"])
        level = 0.9 - 0.05 * abs(k - 3)
        metrics = {"val": scores(level), "test": scores(level)}
        return record(overrides, k=k, metrics=metrics, counted_from="input")

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "1", "3", "9"], "seed": ["0", "1"]}, make))
    told = answer(study)[0]
    assert told.startswith("Unfreezing the first k = 3 of 9 layer groups (up to layer1.1) was chosen on validation")
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
    assert answer(study)[0].startswith("k=8 was chosen on validation")


# Bounds and labels of the figures


def near_one(overrides, place):
    level = (0.995, 1.0, 0.94)[int(place["seed"])]
    groups = tuple((f"blocks.{index}", 1_000) for index in range(60))
    metrics = {"val": scores(level), "test": scores(level)}
    return record(overrides, k=int(place.get("freeze_policy.k", 3)), groups=groups, metrics=metrics)


def test_intervals_and_axes_stay_inside_the_metrics_bounds(tmp_path):
    seeds = ["0", "1", "2"]
    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["1", "2"], "seed": seeds}, near_one))
    # The t interval of 0.995, 1 and 0.94 is 0.9783 +- 4.3027 * 0.03329 / sqrt(3).
    assert study.rows[0].summary("test", "top1").interval == (pytest.approx(0.8956, abs=1e-4), 1.0)
    (axes,) = depth_figure(study)[0].axes[:1]
    low, high = axes.get_ylim()
    assert 0.0 <= low < 0.8956
    assert high == 1.0
    study = study_of(sweep(tmp_path, {"head": ["a", "b"], "seed": seeds}, near_one, name="heads"))
    assert strategy_figure(study)[0].axes[0].get_xlim()[1] == 1.0


def test_the_labels_of_a_sparse_axis_have_room(tmp_path):
    depths = ["0", "1", "2", "3", "30", "59", "60"]
    study = study_of(sweep(tmp_path, {"freeze_policy.k": depths, "seed": ["0", "1", "2"]}, near_one))
    axes = depth_figure(study)[0].axes[0]
    assert list(axes.get_xticks()) == [0, 30, 60]
    (above,) = axes.child_axes
    assert [text.get_text() for text in above.get_xticklabels()] == ["head only", "blocks.30", "blocks.0"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_the_terminal_and_folds_no_name(tmp_path, width):
    sets = ["digits_low_resolution_and_noise", "digits_low"]
    axes = {"dataset": sets, "freeze_policy.k": ["0", "9"], "seed": ["0", "1", "2"]}
    study = study_of(sweep(tmp_path, axes, by_depth))
    table = fitted(result_table(study), width)
    headings = [column.heading for column in table.columns]
    widths = [max(len(heading), *(len(line.entries[i]) for line in table.lines)) for i, heading in enumerate(headings)]
    assert sum(widths) + 2 * (len(widths) - 1) <= width
    names = {line.entries[1] for line in table.lines}
    assert "digits_low" in names
    assert len(names) == 2
    if width == 200:
        assert table == result_table(study)
    else:
        assert "95 % interval" not in headings
        assert "interval" not in table.note
        assert "runs" not in headings
        assert "In every row: runs 3" in table.note


# How the runs were trained, and by what


def curve(*losses, best):
    """A history whose validation accuracy is best in the epoch `best`, and the selection of that epoch."""
    rows = [
        {"phase": "main", "epoch": epoch, "train/loss": loss, "val/top1": 0.8 - 0.01 * abs(best - epoch)}
        for epoch, loss in enumerate(losses)
    ]
    return {
        "history": rows,
        "selection": {"monitor": "val/top1", "mode": "max", "value": 0.8, "phase": 0, "epoch": best},
    }


def test_runs_that_were_not_trained_to_the_end_are_no_finding(tmp_path):
    def make(overrides, place):
        k = int(place["freeze_policy.k"])
        return record(overrides, k=k, **curve(2.0, 1.0, 0.5, best=2 if k == 9 else 1))

    files = make_report(sweep(tmp_path, {"freeze_policy.k": ["0", "9"], "seed": ["0", "1"]}, make))
    expected = (
        "The last epoch was the best one by validation (k = 9: 2 of 2): these runs may not have been trained to the "
        "end. Full fine-tuning is among them, and every run was trained at the same learning rate (0.01): how it "
        "compares with the others here is no finding about the strategies. Train longer, and tune each one's rate."
    )
    assert warnings(files.study) == (expected,)
    assert f"> **Note.** {expected}" in files.markdown.read_text()


def test_a_training_loss_that_rose_is_told(tmp_path):
    def make(overrides, place):
        losses = (0.5, 0.4, 0.9) if place["seed"] == "1" else (2.0, 3.0, 0.5)
        return record(overrides, k=1, **curve(*losses, best=1))

    study = study_of(sweep(tmp_path, {"seed": ["0", "1"]}, make))
    assert warnings(study) == (
        "The training loss rose from the first epoch to the last (all runs: 1 of 2): the learning rate is too high.",
    )


def test_the_report_has_the_recipe_and_the_curves_of_every_run(tmp_path):
    def make(overrides, place):
        recipe = {**RECIPE, "lr": float(place["optimizer.lr"])}
        return record(overrides, k=1, recipe=recipe, **curve(2.0, 1.0, 0.5, best=1))

    files = make_report(sweep(tmp_path, {"optimizer.lr": ["0.1", "0.01"], "seed": ["0", "1"]}, make))
    page = files.markdown.read_text()
    assert "| lr | 0.1 (2), 0.01 (2) |" in page
    for line in ("batch size | 64", "schedule | Cosine(warmup=0.1)", "input size | 224 x 224", "head | Linear",
                 "augmentation | RandomHorizontalFlip(p=0.5)", "regularizers | none"):  # fmt: skip
        assert f"| {line} |" in page
    assert "](curves.png)" in page
    figure, _ = curve_figure(files.study)
    loss, validation = figure.axes
    lines = [line for line in loss.lines if len(line.get_ydata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [[2.0, 1.0, 0.5]] * 4
    kept = [line.get_xdata()[0] for line in validation.lines if len(line.get_xdata()) == 1]
    assert kept == [1] * 4


def test_versions_that_share_a_sweep_are_told_in_the_terminal_and_at_the_head(tmp_path, capsys):
    def make(overrides, place):
        packages = {**PROVENANCE["packages"], "thawline": "0.2.0" if place["seed"] == "1" else "0.1.0"}
        return record(overrides, provenance={**PROVENANCE, "packages": packages})

    folder = sweep(tmp_path, {"seed": ["0", "1", "2"]}, make)
    expected = (
        "The runs were made by 2 versions of thawline, which may give other numbers: 0.1.0 at commit 0000000000 "
        "(2 runs), 0.2.0 at commit 0000000000 (1 run)."
    )
    assert main(["report", str(folder)]) == 0
    assert f"note: {expected}" in " ".join(capsys.readouterr().out.split())
    head, _, _ = (folder / "report" / "report.md").read_text().partition("## ")
    assert expected in head


def test_groups_that_train_in_part_are_no_whole_groups(tmp_path):
    groups = [{"index": i, "name": name, "parameters": size, "trained": 2} for i, (name, size) in enumerate(RESNET18)]
    folder = sweep(tmp_path, {"seed": ["0"]}, lambda overrides, place: record(overrides, layer_groups=groups))
    assert "| **9 in part** | **all** |" in make_report(folder).table_md.read_text()


# What is missing, diverged, damaged


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
    assert "1 cells resolve to a run that their row already has" in warnings(study)[-1]


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


# Metrics and axes


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


# The figure


def drawn(axes) -> dict[str, int]:
    points = [len(dots.get_offsets()) for dots in axes.collections if "Path" in type(dots).__name__]
    return {"groups": len(points), "points": sum(points)}


def test_every_seed_is_a_dot_and_the_choice_a_ring(depths):
    figure, caption = depth_figure(study_of(depths))
    axes = figure.axes[0]
    # Three depths, each with its test and its validation scores.
    assert drawn(axes) == {"groups": 6, "points": 18}
    ring = next(line for line in axes.lines if line.get_markerfacecolor() == "none" and line.get_marker() == "o")
    assert [float(ring.get_xdata()[0]), float(ring.get_ydata()[0])] == pytest.approx([1, 0.81])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0\nlinear\nprobe", "1", "9\nfull fine-\ntuning"]
    assert axes.get_ylabel() == "top-1 accuracy"
    assert "Ring: chosen on validation" in caption


def test_a_row_whose_runs_differ_in_depth_is_still_drawn(tmp_path):
    def make(overrides, place):
        return record(overrides, k=int(place["freeze_policy.k"]) + int(place["seed"] == "1"))

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "4"], "seed": ["0", "1"]}, make))
    assert drawn(depth_figure(study)[0].axes[0])["points"] == 2 * 2 * 2
    assert [row["k"] for row in rows_of(make_report(study.sweep.folder).table_csv)] == ["0.5", "4.5"]


def test_a_second_axis_gets_a_colour_each_and_their_names(tmp_path):
    study = study_of(depth_sweep(tmp_path, depths=[0, 4, 9], seeds=2, axes={"backbone": ["resnet18", "vit", "vgg"]}))
    figure, _ = depth_figure(study)
    assert drawn(figure.axes[0])["points"] == 3 * 3 * 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:3] == ["resnet18", "vit", "vgg"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == 3


def test_diverged_runs_are_crosses(tmp_path):
    def make(overrides, place):
        if place["seed"] == "1":
            return record(
                overrides,
                k=int(place["freeze_policy.k"]),
                metrics={"val": scores(None), "test": scores(None)},
                diverged=True,
            )
        return by_depth(overrides, place)

    figure, _ = depth_figure(study_of(sweep(tmp_path, DEPTHS, make)))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 3
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_strategies_stand_in_the_order_of_validation(tmp_path):
    levels = {"linear_probe": (0, 0.7), "lp_ft": (9, 0.9), "last_k": (3, 0.8)}
    figure, _ = strategy_figure(study_of(strategy_sweep(tmp_path, levels)))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lp_ft", "last_k", "linear_probe"]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["bold", "normal", "normal"]
    assert drawn(axes)["points"] == 9


def test_the_figure_fits_a_column_and_embeds_its_fonts(depths):
    files = make_report(depths)
    with Image.open(files.figure_png) as image:
        assert image.size[0] == round(3.4 * 300)
        assert image.info["dpi"][0] == pytest.approx(300, abs=1)
    pdf = files.figure_pdf.read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_any_axis_can_be_the_one_of_the_figure(tmp_path):
    axes = {"optimizer.lr": ["0.001", "0.01", "0.1"], "seed": ["0", "1"]}
    folder = sweep(tmp_path, axes, lambda overrides, place: record(overrides, k=9))
    assert study_of(folder).axes.depth is None
    figure, _ = depth_figure(study_of(folder, axis="optimizer.lr"))
    assert figure.axes[0].get_xscale() == "log"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0.001", "0.01", "0.1"]


# Hostile names


class Tags(html.parser.HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def hostile(tmp_path):
    """A sweep whose name, overrides, classes, groups, splits, notes and provenance are all hostile."""

    def make(overrides, place):
        name = place["+what"]
        groups = tuple((f"{name} {index}", size) for index, (_, size) in enumerate(RESNET18))
        metrics = {"val": scores(0.8), "test": scores(0.7), f"test/{name}": scores(0.5), f"before/{name}": scores(0.1)}
        return record(
            overrides,
            k=2,
            groups=groups,
            metrics=metrics,
            classes=HOSTILE,
            confusion_matrix=np.ones((len(HOSTILE), len(HOSTILE)), dtype=int).tolist(),
            provenance={**PROVENANCE, "packages": {name: name}, "command": name},
            notes=[name],
        )

    axes = {"+what": list(HOSTILE), "seed": ["0", "1"]}
    (tmp_path / "sweeps").mkdir()
    return make_report(sweep(tmp_path, axes, make, name=" ".join(HOSTILE)))


def test_hostile_names_are_inert_in_html(hostile):
    page = hostile.html.read_text(encoding="utf-8")
    seen = Tags(page)
    plain_page = {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "div", "p", "main", "figure"),
        *("figcaption", "img", "section", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre"),
        *("code", "footer"),
    }
    assert seen.tags <= plain_page
    assert seen.attributes <= {
        *("lang", "charset", "http-equiv", "content", "name", "class", "style", "alt", "src", "scope", "tabindex")
    }
    assert "default-src 'none'" in page
    assert "</script><script>alert(1)</script>" in "".join(seen.text)
    assert "{{ 7*7 }}" in "".join(seen.text)
    assert not {"\x1b", "\x00", "\u202e"} & set(page)


def test_hostile_names_are_inert_in_markdown(hostile):
    for path in (hostile.markdown, hostile.table_md):
        text = path.read_text(encoding="utf-8")
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
        seen = Tags(rendered)
        assert not seen.tags & {"script", "a", "iframe", "svg"}
        assert not {name for name in seen.attributes if name.startswith("on")}
        assert re.findall(r"<img src=\"(.*?)\"", rendered) == (
            ["figure.png", "curves.png"] if path == hostile.markdown else []
        )
    # A pipe or a line end in a name opens no further cell: every line of the table has the same number of cells.
    lines = [line for line in hostile.table_md.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert len(lines) == 2 + len(HOSTILE)


def test_hostile_names_are_inert_in_latex(hostile):
    tex = hostile.table_tex.read_text(encoding="utf-8")
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert not re.search(r"\\(input|write|include|def|immediate)", tex)
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert not re.search(r"(?<!\\)~|(?<!\\text)\^", body)
    unescaped = re.sub(r"\\[{}]", "", body)
    assert unescaped.count("{") == unescaped.count("}")
    assert all(len(re.findall(r"(?<!\\)&", line)) == tex.split(r"\toprule")[1].split(r"\midrule")[0].count(" & ")
               for line in body.strip().splitlines())  # fmt: skip
    assert len(body.strip().splitlines()) == len(HOSTILE)


def test_hostile_names_are_no_formulas_in_csv(hostile):
    for path in (hostile.runs_csv, hostile.table_csv):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        assert len({len(row) for row in rows}) == 1
        for field in (field for row in rows for field in row if field):
            assert field[0] not in "=+-@|%\t\r" or re.fullmatch(r"-?[\d.e+-]+", field), field
    values = {row["what"] for row in rows_of(hostile.table_csv)}
    assert "'=cmd|' /C calc'!A0" in values
    assert "x" * 300 in values  # cut for reading, whole for computing


def test_hostile_names_stay_inside_the_report_folder(hostile, tmp_path):
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"runs", "sweeps"}
    assert len(list(hostile.folder.iterdir())) == 10


def test_hostile_names_are_inert_on_the_terminal(tmp_path, capsys):
    axes = {"+what": ["[bold]x[/]", "[/nope]", "\x1b[31m"], "seed": ["0", "1"]}
    folder = sweep(tmp_path, axes, lambda overrides, place: record(overrides))
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[bold]x[/]" in out
    assert "\x1b" not in out


def test_every_character_of_latex_is_spelt_out():
    assert latex(r"\{}$&#%_~^<>|") == (
        r"\textbackslash{}\{\}\$\&\#\%\_\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"
    )
    assert latex(f"{MINUS}0.5 ± 0.1 [1{DASH}2] é 日") == r"$-$0.5 $\pm$ 0.1 {[}1--2{]} é {[}U+65E5{]}"


@pytest.mark.parametrize(
    "name", [*HOSTILE, "1. item", "- item", "+ item", "# title", "_a_ b_c", "www.x.y", "<http://x>"]
)
def test_markdown_shows_a_name_as_it_is(name):
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown(name))
    assert Tags(rendered).tags == {"p"}
    assert "".join(Tags(rendered).text).strip() == plain(name)


def test_names_are_shortened_in_the_middle_and_kept_on_one_line():
    assert plain("a\n b\t\tc") == "a b c"
    assert plain("abcdefghij", 7) == "abcd…ij"
    assert plain("a\x00b\u202e") == "a\ufffdb\ufffd"


def test_numbers_are_no_formulas():
    assert [csv_field(value) for value in ("-0.5", "-x", "+1", " =1", -3, "a=b")] == [
        "-0.5",
        "'-x",
        "+1",
        "' =1",
        -3,
        "a=b",
    ]


def test_commands_survive_the_shell():
    words = ["thawline", "train", "a='x y'", 'b="$HOME"', "c=`id`", "d=1\n2", "e=\x1b\u202e", "f=\\n'"]
    line = command_line(words)
    assert line.isprintable()
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert shown.decode().split("\0")[:-1] == words


# The verb


def test_the_verb_prints_the_table_the_answer_and_the_files(depths, capsys):
    assert main(["report", str(depths)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "★ 1 from layer4.1 4,723,205 42.3 0.910 ± 0.010 0.810 ± 0.010 14.5" in out
    assert "Unfreezing k = 1 of 9 layer groups" in out
    assert str(depths / "report" / "report.html") in out


def test_the_verb_finds_a_sweep_by_name_and_writes_where_it_is_told(depths, tmp_path, monkeypatch, capsys):
    (tmp_path / "outputs").mkdir()
    depths.parent.rename(tmp_path / "outputs" / "sweeps")
    (tmp_path / "runs").rename(tmp_path / "outputs" / "runs")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "depths", "--output", "here", "--csv", "--metric", "macro_f1"]) == 0
    assert capsys.readouterr().out == (tmp_path / "here" / "table.csv").read_text()
    assert "test_macro_f1_mean" in (tmp_path / "here" / "table.csv").read_text()
    assert not (tmp_path / "outputs" / "sweeps" / "depths" / "report").exists()


def test_an_unknown_sweep_is_one_message_with_the_nearest_names(depths, capsys):
    assert main(["report", "depthz", "--outputs", str(depths.parent.parent)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sweep: no sweep 'depthz'; nearest: depths")
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["", "../..", "\x00", "y" * 5000, "no/such/folder"])
def test_a_name_that_is_no_sweep_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="sweep"):
        find_sweep(name, tmp_path)


def test_a_damaged_sweep_file_is_named(depths):
    (depths / "sweep.json").write_text('{"schema_version": 2}')
    with pytest.raises(UsageError, match=r"sweep\.json: not a valid sweep: schema_version: Input should be 1"):
        make_report(depths)


def test_a_folder_of_runs_is_a_sweep_of_what_differs_in_it(depths, tmp_path):
    study = study_of(tmp_path / "runs")
    assert study.axes.depth == "freeze_policy.k"
    assert study.axes.replicates == ("seed",)
    assert [(row.depth, len(row.runs)) for row in study.rows] == [(0, 3), (1, 3), (9, 3)]


def test_reports_import_neither_torch_nor_a_framework(depths):
    code = (
        "import sys; from pathlib import Path; from thawline.reports import make_report;"
        f"make_report(Path({str(depths)!r}));"
        "print(sorted({'torch', 'torchvision', 'timm', 'pytorch_lightning', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sweep_file_that_the_helper_writes_is_the_one_that_is_read(depths):
    described = json.loads((depths / "sweep.json").read_text())
    assert list(described["axes"]) == list(DEPTHS)
    assert [cell.identity for cell in load_sweep(depths).cells] == [cell["identity"] for cell in described["cells"]]
