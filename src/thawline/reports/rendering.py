"""A report in its formats but for the page and LaTeX: Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from thawline.reports.document import Document, Section, Table
from thawline.reports.escaping import code_fence, csv_field, markdown, plain

# The longest name that a table shows whole; the CSV files always do.
_LONGEST_ENTRY = 60


def shown(text: str) -> str:
    """A table entry on one line and not longer than a table can take."""
    return plain(text, _LONGEST_ENTRY)


def markdown_table(table: Table) -> str:
    """The table in GitHub's Markdown, caption before and note behind."""
    parts = []
    if table.caption:
        parts.append(f"**{markdown(table.caption)}**")
    rows = [[markdown(shown(column.heading)) for column in table.columns]]
    rows.append(["---:" if column.align == "right" else ":---" for column in table.columns])
    for line in table.lines:
        entries = [markdown(shown(entry)) for entry in line.entries]
        rows.append([f"**{entry}**" if line.strong and entry else entry for entry in entries])
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if table.note:
        parts.append(markdown(table.note))
    return "\n\n".join(parts) + "\n"


def markdown_report(document: Document) -> str:
    """The report in Markdown; the figure is the file ``figure.png`` beside it."""
    parts = [f"# {markdown(plain(document.title, 120))}", *(markdown(text) for text in document.answer)]
    parts.extend(f"> **Note.** {markdown(text)}" for text in document.warnings)
    parts.append(f"![{markdown(document.figure_caption)}](figure.png)")
    parts.append(f"*{markdown(document.figure_caption)}*")
    for section in document.sections:
        parts.extend(_markdown_section(section))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _markdown_section(section: Section) -> Iterable[str]:
    yield f"## {markdown(section.title)}"
    for paragraph in section.paragraphs:
        yield markdown(paragraph)
    for drawing in section.drawings:
        yield f"![{markdown(drawing.caption)}]({drawing.name}.png)"
        yield f"*{markdown(drawing.caption)}*"
    for image in section.images:
        yield f"![{markdown(image.alt)}]({image.name}.jpg)"
        yield f"*{markdown(image.caption)}*"
    for table in section.tables:
        yield markdown_table(table)
    if section.code:
        fence = code_fence(section.code)
        yield f"{fence}sh\n{section.code}\n{fence}"


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV with a heading, numbers in full precision, missing ones empty, text safe in a spreadsheet."""
    # The fullest row knows the order of the columns; a shorter one (a missing run) lacks some of them.
    headings = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([csv_field(heading) for heading in headings])
    for row in rows:
        writer.writerow([csv_field(_csv_value(row.get(heading))) for heading in headings])
    return stream.getvalue()


def _csv_value(value: object) -> object:
    if value is None or value != value:
        return ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
