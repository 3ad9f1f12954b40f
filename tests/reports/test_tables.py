"""The tables of a report, in each of its formats, with the numbers of the records."""

from __future__ import annotations

import pytest

from tests.reports.depth_sweeps import rows_of
from thawline.reports import make_report
from thawline.reports.kept_files import MADE_FILE


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
    # What is noted of the files, such as their times, is not theirs.
    names = sorted(path.name for path in first.folder.iterdir() if path.name != MADE_FILE)
    assert names == sorted(
        [
            *("runs.csv", "table.csv", "table.md", "table.tex", "report.md", "report.html"),
            *("figure.png", "figure.pdf", "curves.png", "curves.pdf"),
        ]
    )
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name
