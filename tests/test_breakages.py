"""The list of breakages does not rot: each can be applied, and its tests are there. ``make breakages`` runs them."""

from __future__ import annotations

import ast
import functools
from collections import Counter

import pytest

from tests.breakages.breakage import NotApplied, load
from tests.conftest import REPOSITORY

BREAKAGES = load()


@functools.cache
def functions(file: str) -> set[str]:
    tree = ast.parse((REPOSITORY / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_breakage_can_be_applied_and_leaves_code_that_compiles():
    problems = []
    for breakage in BREAKAGES:
        try:
            compile(breakage.broken((REPOSITORY / breakage.file).read_text()), breakage.file, "exec")
        except (OSError, NotApplied, SyntaxError) as error:
            problems.append(f"{breakage.name}: {error}")
    assert problems == []


def test_every_breakage_names_tests_that_are_there():
    wrong = []
    for breakage in BREAKAGES:
        for test in breakage.tests:
            file, _, name = test.partition("::")
            if not (REPOSITORY / file).is_file() or name.partition("[")[0] not in functions(file):
                wrong.append(f"{breakage.name}: {test}")
        if not breakage.tests or not breakage.why:
            wrong.append(f"{breakage.name}: names no test, or no reason")
    assert wrong == []


def test_every_case_that_a_breakage_names_is_there(request):
    """As far as this session has collected the cases of its test."""
    if request.config.option.keyword or any("::" in argument for argument in request.config.args):
        pytest.skip("some cases are not collected")
    collected = {item.nodeid for item in request.session.items}
    functions = {name.partition("[")[0] for name in collected}
    named = {test for breakage in BREAKAGES for test in breakage.tests if "[" in test}
    assert {test for test in named if test.partition("[")[0] in functions} - collected == set()


def test_no_two_breakages_have_one_name():
    assert [name for name, count in Counter(b.name for b in BREAKAGES).items() if count > 1] == []


def test_every_package_has_a_breakage():
    source = REPOSITORY / "src" / "thawline"
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    broken = {breakage.file.removeprefix("src/thawline/").partition("/")[0] for breakage in BREAKAGES}
    assert packages - broken == set()


def test_a_text_that_is_not_there_once_is_an_error():
    first = BREAKAGES[0]
    for source in ("", first.old * 2):
        with pytest.raises(NotApplied, match="times in"):
            first.broken(source)
