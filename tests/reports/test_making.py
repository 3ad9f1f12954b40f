"""Making a report: what the verb finds, prints and refuses, and that it needs no framework."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.reports.depth_sweeps import DEPTHS, study_of
from thawline.cli import main
from thawline.errors import UsageError
from thawline.reports import find_sweep, kept_files, make_report
from thawline.reports.kept_files import note_files, sources_of, stamps_of
from thawline.reports.loading import load_sweep
from thawline.reports.study import make_study


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


def test_files_of_a_report_are_kept_while_they_would_be_made_of_the_same(depths, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thawline.reports.kept_files.program", lambda: "this version")
    assert not make_report(depths, keep=True).kept
    made = {path: path.stat().st_ino for path in (depths / "report").iterdir()}
    files = [path for path in made if path.name != kept_files.MADE_FILE]
    again = make_report(depths, keep=True)
    assert again.kept
    assert {path: path.stat().st_ino for path in (depths / "report").iterdir()} == made

    def are_kept(*arguments):
        sources = sources_of(stamps_of([depths]), load_sweep(depths), arguments)
        return kept_files.are_kept(depths / "report", sources)

    as_made = (None, None, None, (), None, None)
    assert are_kept(*as_made)
    assert not are_kept(None, None, 0.2, (), None, None)
    for file in (again.html, again.figure_png, load_sweep(depths).runs[0].folder / "record.json"):
        content = file.read_bytes()
        file.unlink()
        assert not are_kept(*as_made)
        file.write_bytes(content)
        assert not are_kept(*as_made)
        note_files(depths / "report", sources_of(stamps_of([depths]), load_sweep(depths), as_made), files)
        assert are_kept(*as_made)
    (tmp_path / "matplotlibrc").write_text("font.size: 20\n")
    assert not are_kept(*as_made)
    (tmp_path / "matplotlibrc").unlink()
    (depths / "protocol.json").touch()
    assert not are_kept(*as_made)
    (depths / "protocol.json").unlink()
    assert are_kept(*as_made)
    monkeypatch.setattr("thawline.reports.kept_files.program", lambda: "another version")
    assert not are_kept(*as_made)
    # The verb makes the files again, whatever is there, and they are those that a command would make.
    assert main(["report", str(depths)]) == 0
    assert (depths / "report" / "figure.png").stat().st_ino != made[depths / "report" / "figure.png"]
    assert make_report(depths, keep=True).kept


def test_a_report_whose_record_is_edited_while_it_is_made_is_made_again(depths, monkeypatch):
    record = load_sweep(depths).runs[0].folder / "record.json"

    def edited_after_it_was_read(*read):
        record.write_bytes(record.read_bytes())
        return make_study(*read)

    monkeypatch.setattr("thawline.reports.kept_files.program", lambda: "this version")
    with monkeypatch.context() as patch:
        patch.setattr("thawline.reports.making.make_study", edited_after_it_was_read)
        make_report(depths)
    assert not make_report(depths, keep=True).kept
    assert make_report(depths, keep=True).kept


def test_the_sweep_file_that_the_helper_writes_is_the_one_that_is_read(depths):
    described = json.loads((depths / "sweep.json").read_text())
    assert list(described["axes"]) == list(DEPTHS)
    assert [cell.identity for cell in load_sweep(depths).cells] == [cell["identity"] for cell in described["cells"]]


def test_the_margin_is_that_of_the_command_line(depths, capsys):
    assert main(["report", str(depths), "--margin", "0.2"]) == 0
    page = (depths / "report" / "report.md").read_text()
    assert "lies within ±0.2" in page
    # 0.11 ± 0.01 over three seeds: within 0.2 of one another with 90 % confidence.
    assert next(line for line in page.splitlines() if line.startswith("| k = 9 | ")).endswith("| 3 | equivalent |")
    assert main(["report", str(depths), "--margin", "-1"]) == 2
    assert "a difference that does not matter is above 0 (got -1)" in capsys.readouterr().err
