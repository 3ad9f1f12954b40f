"""The table of strategies names every option that there is, and nothing that there is not."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, TINY, records
from thawline.config_paths import options
from thawline.records import load_record

TABLE = (REPOSITORY / "docs" / "strategies.md").read_text(encoding="utf-8")
GROUPS = ("freeze_policy", "adapter", "learning_rates", "regularizer", "probe")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_one_row_and_every_row_an_option(group):
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")]
    named = [match for row in rows for match in re.findall(rf"^\| [^|]+ \| `{group}=(\w+)`", row)]
    assert sorted(named) == sorted(set(options(group)) - {"none"})


@pytest.mark.parametrize("strategy", options("strategy"))
def test_every_strategy_chooses_options_that_there_are(thawline, strategy):
    shown = thawline("train", "--cfg", "job", f"strategy={strategy}")
    assert shown.status == 0, shown.err
    plain = thawline("train", "--cfg", "job").out
    # Of last_k, the default, none is made.
    assert shown.out != plain


def test_strategies_are_one_axis_of_a_sweep(thawline):
    grid = ("strategy=linear_probe,l2_sp,layer_decay", "seed=0,1", "sweep.name=compared", "trainer.max_epochs=1")
    result = thawline("train", "-m", *TINY, *grid)
    assert result.status == 0, result.err
    seen = {}
    for folder in records():
        record = load_record(folder)
        (strategy,) = [item.partition("=")[2] for item in record.overrides if item.startswith("strategy=")]
        rates = record.config["learning_rates"]["_target_"].rpartition(".")[2]
        seen.setdefault(strategy, set()).add(
            (len(record.config.get("regularizer", {})), rates, record.parameters.frozen > 0)
        )
    assert seen == {
        "linear_probe": {(0, "Uniform", True)},
        "l2_sp": {(2, "Uniform", False)},
        "layer_decay": {(0, "LayerDecay", False)},
    }
    with Path("outputs/sweeps/compared/report/table.csv").open(newline="") as stream:
        assert {row["strategy"] for row in csv.DictReader(stream)} == set(seen)
