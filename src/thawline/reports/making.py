"""The report of a sweep, from its folder to the files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thawline.files import atomic_write
from thawline.reports.document import capital
from thawline.reports.escaping import plain
from thawline.reports.figures import draw, shows_layers
from thawline.reports.joining import load_sweeps
from thawline.reports.kept_files import are_kept, note_files, sources_of, stamps_of
from thawline.reports.latex import latex_table, with_columns
from thawline.reports.page import html_page
from thawline.reports.rendering import csv_text, markdown_report, markdown_table
from thawline.reports.sections import make_document
from thawline.reports.study import Study, make_study
from thawline.reports.tables import layer_rows, note_of, result_table, run_rows, table_rows
from thawline.reports.wording import answer

REPORT_FOLDER = "report"
REPORTS_FOLDER = "reports"
_LONGEST_NAME = 100


@dataclass(frozen=True)
class ReportFiles:
    """Where the report's files are, and the study that they show."""

    folder: Path
    runs_csv: Path
    table_csv: Path
    table_md: Path
    table_tex: Path
    figure_png: Path
    figure_pdf: Path
    markdown: Path
    html: Path
    study: Study
    kept: bool = False
    """Whether these are the files of an earlier report, made from the same."""

    @property
    def answer(self) -> tuple[str, ...]:
        """The result in plain words, one paragraph per condition."""
        return answer(self.study)


def report_folder(sweep_folders: Sequence[Path], outputs: Path) -> Path:
    """Where a report goes that is told nothing else: into its sweep, or under `outputs` by the names of several."""
    if len(sweep_folders) == 1:
        return sweep_folders[0] / REPORT_FOLDER
    names = "+".join(folder.absolute().name for folder in sweep_folders)
    if len(names) > _LONGEST_NAME:
        digest = hashlib.sha256(names.encode("utf-8", errors="surrogateescape")).hexdigest()[:8]
        names = f"{names[: _LONGEST_NAME - 9]}-{digest}"
    return outputs / REPORTS_FOLDER / names


def make_report(
    sweep_folder: Path | Sequence[Path],
    output: Path | None = None,
    metric: str | None = None,
    axis: str | None = None,
    margin: float | None = None,
    *,
    columns: Sequence[str] = (),
    figure_inches: float | None = None,
    keep: bool = False,
    reload_seconds: float | None = None,
) -> ReportFiles:
    """Make the report of a sweep, or of several as one study, from its records alone.

    Everything is made before anything is written, and each file is written whole: an error leaves an earlier report as
    it was.

    Args:
        sweep_folder: a folder with a ``sweep.json``, or a folder of runs; several of them give one study.
        output: where the files go; by default ``report`` inside the sweep's folder, for several ``reports/<names>``
            beside the folder of sweeps.
        metric: what the runs are evaluated by; by default what they selected their checkpoint by.
        axis: the axis of the figure; by default the one that counts layer groups.
        margin: the difference that does not matter; see `make_study`.
        columns: of ``table.tex``, by name; by default all.
        figure_inches: the width that every figure is drawn for; by default a paper's column or its text, as each needs.
        keep: leave the files of an earlier report as they are where they would be made from the same.
        reload_seconds: how often the page reloads itself, of a report that will be made again; None: it does not.

    Raises:
        UsageError: there is nothing to report, no such metric, axis or column, or the margin is not above 0.
    """
    folders = [sweep_folder] if isinstance(sweep_folder, Path) else list(dict.fromkeys(sweep_folder))
    stamps = stamps_of(folders)
    study = replace(make_study(load_sweeps(folders), metric, axis, margin), figure_inches=figure_inches)
    folder = output if output is not None else report_folder(folders, folders[0].absolute().parent.parent)
    files = ReportFiles(
        folder=folder,
        runs_csv=folder / "runs.csv",
        table_csv=folder / "table.csv",
        table_md=folder / "table.md",
        table_tex=folder / "table.tex",
        figure_png=folder / "figure.png",
        figure_pdf=folder / "figure.pdf",
        markdown=folder / "report.md",
        html=folder / "report.html",
        study=study,
    )
    asked = [metric, axis, margin, tuple(columns), figure_inches, reload_seconds]
    sources = sources_of(stamps, study.sweep, asked)
    if keep and are_kept(folder, sources):
        return replace(files, kept=True)
    contents = _contents(study, files, columns, reload_seconds)
    for path, content in contents.items():
        with atomic_write(path) as stream:
            stream.write(content if isinstance(content, bytes) else content.encode("utf-8", errors="replace"))
    note_files(folder, sources, list(contents))
    return files


def _contents(
    study: Study, files: ReportFiles, columns: Sequence[str], reload_seconds: float | None
) -> Mapping[Path, bytes | str]:
    drawing = draw(study)
    document = make_document(study, drawing.caption)
    further = [each for section in document.sections for each in section.drawings]
    images = [each for section in document.sections for each in section.images]
    table = result_table(study)
    return {
        files.runs_csv: csv_text(run_rows(study.sweep)),
        files.table_csv: csv_text(table_rows(study)),
        files.table_md: markdown_table(table),
        files.table_tex: _latex(study, columns),
        files.figure_png: drawing.png,
        files.figure_pdf: drawing.pdf,
        files.markdown: markdown_report(document),
        files.html: html_page(study, document, drawing, files.folder, reload_seconds),
        **{files.folder / f"{each.name}.png": each.png for each in further},
        **{files.folder / f"{each.name}.pdf": each.pdf for each in further},
        **{files.folder / f"{each.name}.jpg": each.content for each in images},
        **({files.folder / "layers.csv": csv_text(layer_rows(study))} if any(map(shows_layers, further)) else {}),
    }


def _latex(study: Study, columns: Sequence[str]) -> str:
    table = with_columns(result_table(study), columns)
    what = f"{'sweep' if len(study.sweep.names) == 1 else 'sweeps'} {plain(study.sweep.name, 80)}"
    caption = f"{capital(study.metric_label)}, {what}. {note_of(table.columns, table.note)}"
    return latex_table(table, what, caption, "-".join(study.sweep.names))
