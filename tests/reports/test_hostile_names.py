"""Hostile names are inert in every format of a report and on the terminal."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import subprocess

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.make_records import (
    PROVENANCE,
    RESNET18,
    record,
    scores,
    sweep,
)
from tests.reports.depth_sweeps import rows_of
from tests.reports.pages import data_of, policy_of, scripts_of
from thawline.cli import main
from thawline.reports import make_report
from thawline.reports.document import DASH
from thawline.reports.escaping import MINUS, command_line, csv_field, latex, markdown, plain
from thawline.reports.kept_files import MADE_FILE

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "../../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "| a | b |\n|---|",
    "[click](javascript:alert(1))",
    "``` $x_{1}$ \\input{/etc/passwd} % & # ~ ^ {{ 7*7 }} {% raw %}",
    "\x1b[31mred\x00\u202eevil",
    "日本語 \N{GRINNING FACE} ñ",
    "x" * 300,
)


class Tags(html.parser.HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def hostile(tmp_path):
    """A sweep whose name, overrides, classes, groups, splits, notes and provenance are all hostile."""

    def make(overrides, place):
        name = place["+what"]
        groups = tuple((f"{name} {index}", size) for index, (_, size) in enumerate(RESNET18))
        metrics = {"val": scores(0.8), "test": scores(0.7), f"test/{name}": scores(0.5), f"before/{name}": scores(0.1)}
        return record(
            overrides,
            k=2,
            groups=groups,
            metrics=metrics,
            classes=HOSTILE,
            confusion_matrix=np.ones((len(HOSTILE), len(HOSTILE)), dtype=int).tolist(),
            provenance={**PROVENANCE, "packages": {name: name}, "command": name},
            notes=[name],
        )

    axes = {"+what": list(HOSTILE), "seed": ["0", "1"]}
    (tmp_path / "sweeps").mkdir()
    return make_report(sweep(tmp_path, axes, make, name=" ".join(HOSTILE)))


def test_hostile_names_are_inert_in_html(hostile):
    page = hostile.html.read_text(encoding="utf-8")
    seen = Tags(page)
    plain_page = {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "div", "p", "main", "figure"),
        *("figcaption", "img", "section", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre"),
        *("code", "footer", "script", "nav", "ol", "ul", "li", "a"),
    }
    assert seen.tags <= plain_page
    assert seen.attributes <= {
        *("lang", "charset", "http-equiv", "content", "name", "class", "style", "alt", "src", "scope", "tabindex"),
        *("id", "hidden", "href", "type", "aria-label", "aria-live"),
    }
    # The scripts are the page's own: no name is in them, and the browser is told to run no other.
    assert page.count("<script") == page.count("</script>") == 1 + len(scripts_of(hostile.html))
    for script in scripts_of(hostile.html):
        assert not any(name in script for name in HOSTILE)
    assert "'unsafe-inline'" not in policy_of(hostile.html)["script-src"]
    block = page.partition('id="data">')[2].partition("</script>")[0]
    assert block.isascii()
    assert not set("<>&") & set(block)
    names = data_of(hostile.html)["lines"]
    assert names[0] == "</script><script>alert(1)</script>"
    assert all(name.isprintable() and len(name) <= 80 for name in names)
    assert "</script><script>alert(1)</script>" in "".join(seen.text)
    assert "{{ 7*7 }}" in "".join(seen.text)
    assert not {"\x1b", "\x00", "\u202e"} & set(page)


def test_hostile_names_are_inert_in_markdown(hostile):
    for path in (hostile.markdown, hostile.table_md):
        text = path.read_text(encoding="utf-8")
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
        seen = Tags(rendered)
        assert not seen.tags & {"script", "a", "iframe", "svg"}
        assert not {name for name in seen.attributes if name.startswith("on")}
        assert re.findall(r"<img src=\"(.*?)\"", rendered) == (
            ["figure.png", "curves.png"] if path == hostile.markdown else []
        )
    # A pipe or a line end in a name opens no further cell: every line of the table has the same number of cells.
    lines = [line for line in hostile.table_md.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert len(lines) == 2 + len(HOSTILE)


def test_hostile_names_are_inert_in_latex(hostile):
    tex = hostile.table_tex.read_text(encoding="utf-8")
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert not re.search(r"\\(input|write|include|def|immediate)", tex)
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert not re.search(r"(?<!\\)~|(?<!\\text)\^", body)
    unescaped = re.sub(r"\\[{}]", "", body)
    assert unescaped.count("{") == unescaped.count("}")
    assert all(len(re.findall(r"(?<!\\)&", line)) == tex.split(r"\toprule")[1].split(r"\midrule")[0].count(" & ")
               for line in body.strip().splitlines())  # fmt: skip
    assert len(body.strip().splitlines()) == len(HOSTILE)


def test_hostile_names_are_no_formulas_in_csv(hostile):
    for path in (hostile.runs_csv, hostile.table_csv):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        assert len({len(row) for row in rows}) == 1
        for field in (field for row in rows for field in row if field):
            assert field[0] not in "=+-@|%\t\r" or re.fullmatch(r"-?[\d.e+-]+", field), field
    values = {row["what"] for row in rows_of(hostile.table_csv)}
    assert "'=cmd|' /C calc'!A0" in values
    assert "x" * 300 in values  # cut for reading, whole for computing


def test_hostile_names_stay_inside_the_report_folder(hostile, tmp_path):
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"runs", "sweeps"}
    assert len([path for path in hostile.folder.iterdir() if path.name != MADE_FILE]) == 10


def test_hostile_names_are_inert_on_the_terminal(tmp_path, capsys):
    axes = {"+what": ["[bold]x[/]", "[/nope]", "\x1b[31m"], "seed": ["0", "1"]}
    folder = sweep(tmp_path, axes, lambda overrides, place: record(overrides))
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[bold]x[/]" in out
    assert "\x1b" not in out


def test_every_character_of_latex_is_spelt_out():
    assert latex(r"\{}$&#%_~^<>|") == (
        r"\textbackslash{}\{\}\$\&\#\%\_\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"
    )
    assert latex(f"{MINUS}0.5 ± 0.1 [1{DASH}2] é 日") == r"$-$0.5 $\pm$ 0.1 {[}1--2{]} é {[}U+65E5{]}"


@pytest.mark.parametrize(
    "name", [*HOSTILE, "1. item", "- item", "+ item", "# title", "_a_ b_c", "www.x.y", "<http://x>"]
)
def test_markdown_shows_a_name_as_it_is(name):
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown(name))
    assert Tags(rendered).tags == {"p"}
    assert "".join(Tags(rendered).text).strip() == plain(name)


def test_names_are_shortened_in_the_middle_and_kept_on_one_line():
    assert plain("a\n b\t\tc") == "a b c"
    assert plain("abcdefghij", 7) == "abcd…ij"
    assert plain("a\x00b\u202e") == "a\ufffdb\ufffd"


def test_numbers_are_no_formulas():
    assert [csv_field(value) for value in ("-0.5", "-x", "+1", " =1", -3, "a=b")] == [
        "-0.5",
        "'-x",
        "+1",
        "' =1",
        -3,
        "a=b",
    ]


def test_commands_survive_the_shell():
    words = ["thawline", "train", "a='x y'", 'b="$HOME"', "c=`id`", "d=1\n2", "e=\x1b\u202e", "f=\\n'"]
    line = command_line(words)
    assert line.isprintable()
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert shown.decode().split("\0")[:-1] == words
