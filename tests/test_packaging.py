"""What the project says of itself: its dependencies, their versions, its types, and the files that its texts name."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import sys
import tomllib
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tools.constraints import constraints
from tools.demo_pages import PAGES, table_in, write_pages
from tools.docs_site import OUTSIDE
from tools.floors import floors
from tools.requirements import requirements

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# With the modules that tests write.
OWN = {"thawline", "hydra_plugins", "tests", "benchmarks", "tools", "mine", "heavy_models", "user_of_models"}
# Packages whose modules have other names.
PACKAGES = {
    "PIL": "pillow",
    "hydra": "hydra-core",
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


@functools.cache
def imported(*folders: str) -> set[str]:
    """The packages, by their names in a registry, that the files of some folders import."""
    modules = set()
    for file in [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).split(".")[0])
    modules -= OWN | set(sys.stdlib_module_names)
    return {canonicalize_name(PACKAGES.get(module, module)) for module in modules}


def test_what_the_library_imports_is_what_it_declares():
    extras = PROJECT["optional-dependencies"]
    optional = set().union(*(names(lines) for extra, lines in extras.items() if extra not in ("dev", "docs")))
    # Lightning's TensorBoard logger and torch's ONNX exporter import these; of itables only files are read.
    by_others = {"tensorboard", "onnx", "onnxscript"}
    assert imported("src") | {"itables"} == names(PROJECT["dependencies"]) | optional - by_others


def test_what_the_tests_import_is_declared():
    extras = set().union(*map(names, PROJECT["optional-dependencies"].values()))
    assert imported("tests", "benchmarks", "tools") - imported("src") <= extras


def test_the_lowest_versions_are_those_of_every_requirement(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("""
        [project]
        name = "mine"
        dependencies = ["NumPy>=1.26", "hydra_core>=1.3.2,<1.4", "torch>=2.6; python_version > '3'"]
        [project.optional-dependencies]
        more = ["numpy>=2.1,!=2.2", "ray[default]~=2.50.1"]
    """)
    assert floors(pyproject) == ["hydra-core==1.3.2", "numpy==2.1", "ray==2.50.1", "torch==2.6"]
    pyproject.write_text(pyproject.read_text().replace("NumPy>=1.26", "numpy<3"))
    with pytest.raises(ValueError, match="numpy<3: no lowest version"):
        floors(pyproject)


def test_every_requirement_of_the_project_has_a_lowest_version_that_its_pin_keeps_to():
    pins = dict(line.split("  #")[0].split("==") for line in pinned())
    lowest = dict(line.split("==") for line in floors())
    for lines in requirements().values():
        for line in lines:
            name = canonicalize_name(line.name)
            assert line.specifier.contains(pins[name], prereleases=True)
            assert line.specifier.contains(lowest[name])


def pinned() -> list[str]:
    text = (REPOSITORY / "constraints.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def install(site: Path, name: str, version: str, *requires: str) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def test_constraints_say_who_asks_for_what(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    install(site, "Top_One", "1.0", "under[fast]>=2", "never; python_version < '3'", "unasked; extra == 'more'")
    install(site, "other", "3.1+cpu", "under; extra == 'all'", "top-one")
    install(site, "under", "2.5", "deep; extra == 'fast'", "deeper")
    install(site, "deep", "0.1", "under")
    install(site, "deeper", "0.2")
    install(site, "unneeded", "9")
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("""
        [project]
        name = "mine"
        dependencies = ["top.one>=1"]
        [project.optional-dependencies]
        more = ["other[all]"]
    """)
    assert constraints(pyproject).splitlines()[1:] == [
        "deep==0.1  # via under",
        "deeper==0.2  # via under",
        "other==3.1  # via mine[more]",
        "top-one==1.0  # via mine, other",
        "under==2.5  # via deep, other, top-one",
    ]


def test_constraints_pin_all_that_is_needed_and_nothing_else():
    askers = {line.split("==")[0]: line.partition("  # via ")[2].split(", ") for line in pinned()}
    ours = {who: {canonicalize_name(line.name) for line in lines} for who, lines in requirements().items()}
    for name, who in askers.items():
        assert set(who) - set(askers) == {asker for asker, asked in ours.items() if name in asked}, name
    # Every pin is asked for, directly or not, by thawline.
    reached, waiting = set(), set().union(*ours.values())
    while waiting:
        reached |= waiting
        waiting = {name for name, who in askers.items() if reached & set(who)} - reached
    assert reached == set(askers)


def test_every_pin_installs_on_the_oldest_python_that_is_promised():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    for line in pinned():
        name = line.split("==")[0]
        needs = metadata(name)["Requires-Python"] or ""
        assert SpecifierSet(needs).contains(f"{oldest}.0"), f"{name} needs Python {needs}"


def test_types_are_shipped():
    assert (files("thawline") / "py.typed").is_file()


def test_both_pages_show_the_same_table_of_the_demo():
    tables = [table_in((REPOSITORY / page).read_text()) for page in PAGES]
    assert "head only" in tables[0]
    assert tables[0] == tables[1]


def test_the_demo_is_put_into_its_pages(tmp_path):
    for page in PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / page, tmp_path / page)
    (tmp_path / "docs").mkdir()
    (tmp_path / "table.md").write_text("| k |\n| :--- |\n| 0 |\n\nBest: 0.\n")
    (tmp_path / "figure.png").write_bytes(b"figure")
    write_pages(tmp_path, tmp_path)
    for page in PAGES:
        before, after = ((root / page).read_text() for root in (REPOSITORY, tmp_path))
        assert after == before.replace(table_in(before), "\n| k |\n| :--- |\n| 0 |\n\nBest: 0.\n\n")
    assert (tmp_path / "docs" / "demo.png").read_bytes() == b"figure"


# Files that a run, `make bench` or `make docs` writes.
WRITTEN = {"performance_gpu.md", "report.md", "table.md", *OUTSIDE.values()}


def test_texts_cite_files_that_are_there():
    folders = ("src", "tests", "tools", "benchmarks", "conf", "experiments", "docs")
    texts = [*REPOSITORY.glob("*.*"), *(path for folder in folders for path in (REPOSITORY / folder).rglob("*.*"))]
    known = {path.name for path in texts} | WRITTEN
    missing = {
        (str(path.relative_to(REPOSITORY)), name)
        for path in texts
        if path.suffix in {".py", ".md", ".yaml", ".toml"}
        for name in re.findall(r"[\w.-]+\.md\b" + r"|\btest_\w+\.py\b" * (path.suffix == ".md"), path.read_text())
        if name not in known
    }
    assert missing == set()
