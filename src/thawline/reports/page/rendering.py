"""The page of a report: its words, tables and figures by a template, its data as one block, its scripts inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

from thawline.reports.document import Column, Document, Drawing
from thawline.reports.escaping import plain
from thawline.reports.page.data import page_data
from thawline.reports.page.libraries import inside_script, libraries
from thawline.reports.rendering import shown
from thawline.reports.study import Study

_SCRIPTS = ("charts.js", "page.js")


def html_page(
    study: Study, document: Document, figure: Drawing, folder: Path, reload_seconds: float | None = None
) -> str:
    """The report as one HTML page that loads nothing and runs nothing but the scripts inside it.

    Without them it is whole: text, tables and figures; they add charts and a table that answer.

    Args:
        study: what the charts show.
        document: the words, tables and further figures.
        figure: the main figure.
        folder: where the page will lie; links to records start there.
        reload_seconds: how often it reloads itself, keeping what the reader has chosen; None: it does not.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("thawline.reports", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "shown": shown, "side": _side, "data": _data}
    code = libraries()
    own = "\n".join(_text(name) for name in _SCRIPTS)
    scripts = [f"\n{script}\n" for script in (code.charts, code.tables, inside_script(own))]
    data = {**page_data(study, folder), "reload": reload_seconds}
    page = environment.get_template("page.html")
    return (
        page.render(
            document=document,
            figure=figure,
            style=f"{code.tables_style}\n{_text('page.css')}",
            data=json_block(data),
            reload=reload_seconds,
            states=Counter(run["state"] for run in data["runs"]).most_common(),
            scripts=scripts,
            allowed=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        )
        + "\n"
    )


def json_block(value: Any) -> str:
    """`value` as JSON in ASCII that an HTML parser reads as mere text, whatever names are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _text(name: str) -> str:
    return files("thawline.reports.page").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _data(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _side(column: Column) -> str:
    return "n" if column.align == "right" else "t"
