"""What a report gives to a paper: a LaTeX table with caption and label, and figures at the width of a column."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.text import Text

from tests.make_records import record, scores, sweep
from tests.reports.depth_sweeps import study_of
from thawline.errors import UsageError
from thawline.records import Record
from thawline.reports import make_report
from thawline.reports.figure_style import width_in_inches
from thawline.reports.figures import main_figure

NAMES = [r"50%_a&b#1", r"~^\input{x}$y$", "[opt]*", '"quoted" `tick` <|>', "étude ± 日本"]


def named_strategies(outputs: Path) -> Path:
    def make(overrides: list[str], place: dict[str, str]) -> Record:
        level = 0.5 + 0.05 * NAMES.index(place["strategy"]) + 0.01 * int(place["seed"])
        return record(overrides, metrics={"val": scores(level), "test": scores(level)})

    return sweep(outputs, {"strategy": NAMES, "seed": ["0", "1"]}, make, "odd_names & more")


def test_the_table_is_a_float_with_caption_label_and_the_columns_that_were_chosen(depths, thawline):
    assert thawline("report", str(depths), "--columns", "k", "test_top1,95_interval", "val", "--csv").status == 0
    lines = (depths / "report" / "table.tex").read_text().splitlines()
    assert lines[2:4] == [r"\begin{table}[t]", r"\centering"]
    assert lines[4].startswith(
        r"\caption{Top-{}1 accuracy, sweep depths. $\star$ best validation mean. Mean $\pm$ standard"
    )
    assert lines[5:10] == [
        r"\label{tab:depths}",
        r"\begin{tabular}{@{}lrrrr@{}}",
        r"\toprule",
        r" & k & test top1 & 95 \% interval & val top1 \\",
        r"\midrule",
    ]
    assert lines[10] == r" & 0 & 0.620 $\pm$ 0.020 & {[}0.570, 0.670{]} & 0.710 $\pm$ 0.010 \\"
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def test_the_caption_speaks_of_an_interval_only_where_one_is_shown(depths):
    assert "The interval is the 95 \\% t interval" in make_report(depths).table_tex.read_text()
    assert "interval" not in make_report(depths, columns=["k", "test"]).table_tex.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "test_top2"], "--columns: no column 'test_top2'; nearest: test_top1 (there are: k"),
        (
            ["--figure-width", "3.25"],
            "--figure-width: '3.25' is no width from 2 to 14 inches: column, text, or",
        ),
        (["--figure-width", "1cm"], "--figure-width: '1cm' is no width"),
    ],
)
def test_a_column_or_width_that_there_is_not_is_refused(depths, thawline, arguments, message):
    result = thawline("report", str(depths), *arguments)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert not (depths / "report").exists()


def test_widths_are_those_of_paper():
    assert [width_in_inches(text) for text in ("column", "text", "3.25in")] == [3.4, 7.0, 3.25]
    assert width_in_inches("8.255cm") == pytest.approx(3.25) == width_in_inches("82.55mm")
    assert width_in_inches("234.8775pt") == pytest.approx(3.25)  # points of TeX, 72.27 to the inch
    with pytest.raises(UsageError, match="'wide' is no width"):
        width_in_inches("wide")


def test_every_figure_has_the_width_that_was_asked_for(depths):
    files = make_report(depths, figure_inches=3.25)
    drawn = sorted(files.folder.glob("*.pdf"))
    assert [path.name for path in drawn] == ["curves.pdf", "figure.pdf"]
    for path in drawn:
        (box,) = set(re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", path.read_bytes()))
        assert float(box) == pytest.approx(3.25 * 72)


@pytest.mark.parametrize("inches", [3.25, 7.0])
def test_text_is_readable_and_inside_at_that_width(depths, inches):
    study = study_of(depths)
    object.__setattr__(study, "figure_inches", inches)
    figure, _ = main_figure(study)
    figure.set_dpi(300)
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in shown) >= 6.5
    assert figure.get_figwidth() == inches
    for text in shown:
        box = text.get_window_extent()
        assert (box.x0 > -1, box.x1 < figure.bbox.width + 1) == (True, True), text.get_text()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [[], ["strategy", "test"]])
def test_the_table_compiles(tmp_path, columns):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine")
    files = make_report(named_strategies(tmp_path), columns=columns)
    paper = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs}"
        rf"\begin{{document}}\input{{{files.table_tex.name}}}See Table~\ref{{tab:odd-names-more}}.\end{{document}}"
    )
    (files.folder / "paper.tex").write_text(paper, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=files.folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    log = (files.folder / "paper.log").read_text(errors="replace")
    assert "undefined" not in log
    assert "Missing character" not in log
