"""The libraries that the page carries: Vega-Lite for the charts, DataTables for the table of runs.

Both come with their JavaScript inside a wheel without dependencies, and take 1.7 MB together where Plotly alone takes
4.9. Vega draws SVG that says to a screen reader what each mark is, stays sharp in print, and interprets its
expressions: with no `eval` anywhere the page can forbid it. Bokeh draws on a canvas, which has none of this. DataTables
sorts and filters a true table, by keyboard too.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

from thawline.files import atomic_write

_EXPORTS = re.compile(r"export\s*\{([^}]*)\}\s*;?")


@dataclass(frozen=True)
class Libraries:
    """Their code, safe inside a ``script`` element, and the style of the tables."""

    charts: str
    tables: str
    tables_style: str


@cache
def libraries() -> Libraries:
    """The libraries: the first gives ``window.vegaEmbed``, the second ``window.DataTables``, in any order."""
    # Importing itables would import pandas; only its files are wanted.
    bundle = Path(str(distribution("itables").locate_file("itables/html")))
    return Libraries(
        charts=inside_script(_charts()),
        tables=inside_script(_as_global(bundle.joinpath("dt_bundle.js").read_text(encoding="utf-8"), "DataTables")),
        tables_style=bundle.joinpath("dt_bundle.css").read_text(encoding="utf-8").replace("</", r"<\/"),
    )


def inside_script(code: str) -> str:
    """JavaScript that no HTML parser takes for the end of its element; in strings and patterns it means the same."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3c", code, flags=re.IGNORECASE)


def _charts() -> str:
    """Vega-Lite, Vega and Vega-Embed as one script; putting it together takes seconds, so it is kept for this user."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thawline")
    file = kept / f"vega-{version('vl-convert-python')}.js"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8")
    import vl_convert

    code = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    with contextlib.suppress(OSError), atomic_write(file) as stream:
        stream.write(code.encode())
    return code


def _as_global(module: str, name: str) -> str:
    """A module's code with its exports as the fields of a global object: a page's own module cannot be imported.

    Raises:
        ValueError: the module does not name its exports once, in one list.
    """
    (exports,) = _EXPORTS.findall(module)
    pairs = [part.split(" as ") for part in exports.split(",") if part.strip()]
    fields = ", ".join(f"{pair[-1].strip()}: {pair[0].strip()}" for pair in pairs)
    # As a function, since the text of a replacement has escapes of its own.
    return _EXPORTS.sub(lambda _: f"window.{name} = {{{fields}}};", module)
