"""The terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from thawline.reports.document import Table

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_table(table: Table) -> None:
    """Print a report's table, and below it how it is to be read."""
    grid = RichTable(box=None, pad_edge=False, header_style="bold")
    # Names come from outside: as Text they are shown as they are, as a string they would be read as markup.
    for column in table.columns:
        grid.add_column(Text(column.heading), justify=column.align, overflow="fold", no_wrap=column.align == "right")
    for line in table.lines:
        grid.add_row(*(Text(entry) for entry in line.entries), style="bold" if line.strong else None)
    console.print(grid)
    if table.note:
        console.print(Text(table.note, style="dim"))
