"""A sweep over depths, for the tests of reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.make_records import (
    sweep,
)
from tests.reports.depth_sweeps import DEPTHS, by_depth


@pytest.fixture
def depths(tmp_path: Path) -> Path:
    return sweep(tmp_path, DEPTHS, by_depth, "depths")
