"""The statistics of a report hold what docs/statistics.md says that they do, by simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.statistics.coverage import TABLE, lines

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


def _percent(entry: str) -> float:
    return float(entry.split()[0])


@pytest.mark.slow
def test_intervals_and_tests_hold_what_they_promise_and_the_page_says_what_was_observed():
    found = [simulate() for simulate in TABLE]
    wrong = [one for one in found if not one.least <= one.observed <= one.most]
    assert not wrong
    page = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    written = {tuple(entries[:2]): entries for entries in page}
    for line in lines(found):
        entries = line.split(" | ")
        # Another version of NumPy may draw other numbers.
        assert _percent(written[tuple(entries[:2])][3]) == pytest.approx(_percent(entries[3]), abs=1.5)
