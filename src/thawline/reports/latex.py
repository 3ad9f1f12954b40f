"""The table of a report as a LaTeX float: booktabs rules, caption, label, and the columns that a paper has room for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from thawline.errors import nearest, usage_error
from thawline.reports.document import Line, Table
from thawline.reports.escaping import latex, plain
from thawline.reports.rendering import shown

_LONGEST_LABEL = 60


def latex_table(table: Table, comment: str, caption: str, label: str) -> str:
    r"""The table as a LaTeX ``table`` that a paper takes in by ``\input``.

    Args:
        table: what it shows.
        comment: what it is of, for who opens the file.
        caption: in words, not yet escaped.
        label: what ``\ref`` names it by; what no label can hold becomes a hyphen.
    """
    sides = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [
        f"% {plain(comment)}",
        r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
        rf"\label{{tab:{_label(label)}}}",
        rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}",
        r"\toprule",
        " & ".join(latex(shown(column.heading)) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for line in table.lines:
        entries = [latex(shown(entry)) for entry in line.entries]
        if line.strong:
            entries = [rf"\textbf{{{entry}}}" if entry else entry for entry in entries]
        lines.append(" & ".join(entries) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def with_columns(table: Table, names: Sequence[str]) -> Table:
    """The table with the columns of these names alone, in their order, and with the mark of what was chosen.

    A name is a heading in small letters with underscores for everything else (``groups_trained``, ``test_top1``,
    ``95_interval``), or its first or last word where that is clear (``test``, ``interval``). `table` itself for none.

    Raises:
        UsageError: there is no such column; the message has the nearest names.
    """
    if not names:
        return table
    places = [place for place, column in enumerate(table.columns) if not column.heading]
    known = {_slug(column.heading): place for place, column in enumerate(table.columns) if column.heading}
    places += [_place(name, known) for name in names]
    lines = [Line(tuple(line.entries[place] for place in places), line.strong) for line in table.lines]
    return Table(tuple(table.columns[place] for place in places), tuple(lines), table.caption, table.note)


def _place(name: str, known: dict[str, int]) -> int:
    wanted = _slug(name)
    if wanted in known:
        return known[wanted]
    near = [slug for slug in known if wanted and wanted in (slug.partition("_")[0], slug.rpartition("_")[2])]
    if len(near) == 1:
        return known[near[0]]
    raise usage_error("--columns", f"no column {name!r}{nearest(wanted, known)} (there are: {', '.join(known)})")


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text.lower()).strip("_")


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-")[:_LONGEST_LABEL] or "runs"
