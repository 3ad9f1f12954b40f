"""The rule of `IDENTITY_FORMAT`: it is raised whenever an unchanged configuration gives other numbers."""

from __future__ import annotations

import json

import pytest

from tests.reference_numbers import FILE, RUNS, numbers
from thawline.planning.plan import IDENTITY_FORMAT

RULE = (
    "an unchanged configuration gives other numbers than with identity format {}: if that is meant, raise "
    "IDENTITY_FORMAT by one and run `python -m tests.reference_numbers`"
)


def test_the_reference_numbers_are_those_of_this_format():
    assert json.loads(FILE.read_text())["identity_format"] == IDENTITY_FORMAT


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_change_with_the_format_only(train, name):
    reference = json.loads(FILE.read_text())
    found = numbers(train(*RUNS[name]))
    # Other processors add in another order: over these few steps that moves a loss by some millionths.
    assert found == pytest.approx(reference["runs"][name], rel=2e-4), RULE.format(reference["identity_format"])
