"""The table of strategies names every option that there is, and nothing that there is not."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from thawline.config_paths import options

TABLE = (REPOSITORY / "docs" / "strategies.md").read_text(encoding="utf-8")
GROUPS = ("freeze_policy", "adapter", "learning_rates", "regularizer", "probe")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_one_row_and_every_row_an_option(group):
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")]
    named = [match for row in rows for match in re.findall(rf"^\| [^|]+ \| `{group}=(\w+)`", row)]
    assert sorted(named) == sorted(set(options(group)) - {"none"})
