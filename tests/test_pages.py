"""The pages: links that lead somewhere, a drawing of the floors that is that of the source, commands that exist."""

from __future__ import annotations

import ast
import contextlib
import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from tools.architecture import DRAWING, description, drawing, imports
from tools.docs_site import OUTSIDE

from tests.conftest import REPOSITORY
from tests.test_floors import FLOOR_OF, SOURCE
from thawline.cli import main
from thawline.specs import Spec
from thawline.tasks import SpatialTask, Task

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "experiments/**/*.md", "tests/README.md")
    for page in REPOSITORY.glob(pattern)
)


def names(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def links(page: Path) -> list[str]:
    """What the links and images of a page point to."""
    waiting, found = list(MarkdownIt("commonmark").parse(page.read_text())), []
    while waiting:
        token = waiting.pop()
        waiting += token.children or []
        found += [str(token.attrs[key]) for key in ("href", "src") if key in token.attrs]
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    headings = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_link_leads_to_a_file_and_its_heading(page):
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_picture_of_the_floors_is_that_of_the_source():
    assert DRAWING.read_text() == drawing(), "run `make architecture`"


def test_the_picture_has_a_dot_for_every_import():
    imported = imports()
    assert imported["thaw_line"] == {"errors", "store"}
    assert {"planning", "training", "thaw_line"} <= imported["execution"]
    assert drawing().count("<circle") == sum(map(len, imported.values()))
    assert description("heads") == "What is put on the backbone's features for the target task"


def defined(file: Path) -> set[str]:
    """The functions, classes and methods of a module, as ``Class.method``."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_what_the_page_of_the_architecture_names_is_in_the_source():
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", text)
    assert len(named) > 25
    wrong = [(file, name) for file, name in named if name not in defined(SOURCE / file)]
    assert wrong == []


def test_the_way_of_k_climbs_between_floors_once():
    """From the command line down to the plan, and from execution down to `requires_grad`."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    way = text.partition("<!-- the way of k -->")[2].partition("<!-- end of the way -->")[0]
    steps = re.findall(r"^\| \d+ \| ([^|]*) \|", way, re.MULTILINE)
    places = [file for step in steps for file in re.findall(r"`([\w/]+)\.py:", step)]
    floors = [FLOOR_OF[file.partition("/")[0]] for file in places]
    assert (places[0], places[-1]) == ("__main__", "network/model")
    assert len(steps) > 8
    climbs = [places[index + 1] for index in range(len(places) - 1) if floors[index + 1] > floors[index]]
    assert climbs == ["execution/run"]


def test_the_page_of_own_tasks_names_all_that_a_task_has():
    text = (REPOSITORY / "docs" / "own_task.md").read_text()
    named = {match[1] for match in re.finditer(r"^\| `(\w+)", text, re.MULTILINE)}
    inherited = set(Spec.__annotations__) | set(vars(Spec))
    members = {*Task.__annotations__, *vars(Task), *vars(SpatialTask)} - inherited
    own = {name for name in members if not name.startswith(("_", "model_"))}
    assert named == own


def parameters(place: Path) -> set[tuple[str, ...]]:
    """The functions and methods of a file or package, each as its name and its parameters."""
    files = place.rglob("*.py") if place.is_dir() else [place]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    taken = (
        (node.name, [*node.args.args, *node.args.kwonlyargs]) for node in nodes if isinstance(node, ast.FunctionDef)
    )
    return {(name, *(each.arg for each in given if each.arg != "self")) for name, given in taken}


def test_the_table_of_parts_has_the_methods_of_the_source():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| ([^|]*) \| `(src/thawline/[\w/.]+)` \|", text, re.MULTILINE)
    wrong, methods = [], 0
    for does, where in rows:
        there = parameters(REPOSITORY / where)
        for name, listed in re.findall(r"`(\w+)\(([^)]*)\)", does):
            methods += 1
            if (name, *re.findall(r"\w+", listed)) not in there:
                wrong.append((where, name, listed))
    assert wrong == []
    assert methods > 15


def test_the_map_names_every_page():
    index = REPOSITORY / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index) if "://" not in link}
    assert {page for page in (REPOSITORY / "docs").rglob("*.md") if page != index} <= linked


def test_the_documentation_lists_every_page():
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    listed = {page for entry in site["nav"] for page in _pages_of(entry)}
    docs = {str(page.relative_to(REPOSITORY / "docs")) for page in (REPOSITORY / "docs").rglob("*.md")}
    # The reference is put into the navigation by tools/docs_site.py.
    assert listed | {"api.md"} == docs | {page for page in OUTSIDE.values() if page.endswith(".md")}


def _pages_of(entry: object) -> list[str]:
    if isinstance(entry, dict):
        return [page for value in entry.values() for page in _pages_of(value)]
    return [page for item in entry for page in _pages_of(item)] if isinstance(entry, list) else [str(entry)]


def test_the_map_of_the_tests_names_every_file():
    tests = REPOSITORY / "tests"
    files = {path.relative_to(tests).as_posix() for path in tests.rglob("*.py") if path.name != "__init__.py"}
    named = set(re.findall(r"`([\w/]+\.py)`", (tests / "README.md").read_text()))
    assert named == {name for name in files if not name.startswith("breakages/")}


def test_the_folders_of_the_tests_are_those_of_the_source():
    folders = {path.parent.name for path in (REPOSITORY / "tests").glob("*/test_*.py")}
    # A device is no package.
    assert folders - {path.stem for path in SOURCE.iterdir()} == {"gpu"}


def test_the_readme_names_every_folder():
    text = (REPOSITORY / "README.md").read_text()
    packages = {path.parent.name for path in (REPOSITORY / "src" / "thawline").glob("*/__init__.py")}
    assert {name for name in packages if f"{name}/" not in text} == set()


def test_the_citation_has_the_version():
    from thawline import __version__

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    changes = (REPOSITORY / "CHANGELOG.md").read_text()
    assert f"## [{__version__}]" in changes
    assert "## [Unreleased]" in changes


def test_every_target_of_make_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:`|^\s*)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
        assert named <= targets, page


OPTIONS_OF_EVERY_VERB = {"--allow", "--config-dir", "--traceback", "--version", "--help"}
HYDRA = {"--cfg", "--resolve", "--package"}


def commands(page: Path) -> list[list[str]]:
    """The words of each thawline command in the code of a page."""
    waiting, texts = list(MarkdownIt("commonmark").parse(page.read_text())), []
    while waiting:
        token = waiting.pop()
        waiting += token.children or []
        if token.type in ("code_inline", "fence", "code_block"):
            texts += token.content.replace("\\\n", " ").splitlines()
    found = [re.match(r"\s*thawline ([^#|;]*)", text) for text in texts]
    return [match[1].split() for match in found if match]


def shown(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help of a verb."""
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
    return capsys.readouterr().out


def test_every_command_of_a_page_exists_with_its_flags(thawline, capsys):
    named = {(page.name, words[0], tuple(words[1:])) for page in PAGES for words in commands(page) if words}
    assert len(named) > 25
    verbs = set(re.findall(r"^  ([a-z-]+)  ", thawline("--help").out, re.MULTILINE))
    helps = {verb: shown(verb, capsys) for verb in verbs - {"train"}}
    for page, verb, words in sorted(named):
        assert verb in verbs or verb in OPTIONS_OF_EVERY_VERB | {"-sc", "VERB"}, (page, verb)
        flags = {word.partition("=")[0] for word in words if word.startswith("--")} - OPTIONS_OF_EVERY_VERB
        for flag in flags:
            assert flag in HYDRA if verb == "train" else flag in helps[verb], (page, verb, flag)
