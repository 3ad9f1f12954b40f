"""Put the table and the figure of the last ``make demo`` into the pages that show them: ``python -m tools.demo_pages``.

In a page the table stands between two comments, ``<!-- table of make demo -->`` and ``<!-- end of the table -->``.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "experiments/digits_depth/README.md")
_TABLE = re.compile(r"(?<=<!-- table of make demo -->\n).*?(?=<!-- end of the table -->)", re.DOTALL)


def table_in(page: str) -> str:
    """The table of the demo in the text of a page, with the lines below it that explain it.

    Raises:
        ValueError: the page has not exactly one.
    """
    (table,) = _TABLE.findall(page)
    return str(table)


def write_pages(root: Path, report: Path) -> None:
    """Show what `report`, the folder of a sweep's report, says in the pages below `root`."""
    table = "\n" + (report / "table.md").read_text(encoding="utf-8").strip() + "\n\n"
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        (root / page).write_text(text.replace(table_in(text), table), encoding="utf-8")
    shutil.copyfile(report / "figure.png", root / "docs" / "demo.png")


if __name__ == "__main__":
    try:
        write_pages(ROOT, ROOT / "outputs" / "sweeps" / "digits_depth" / "report")
    except FileNotFoundError as missing:
        sys.exit(f"{missing.filename} is missing: run `make demo` first")
