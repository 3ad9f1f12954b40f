"""The table of strategies names every option that there is, and nothing that there is not."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, TINY, records
from thawline.config_paths import options
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.planning.statements import recipe_of, strategy_of
from thawline.records import Strategy, load_record

TABLE = (REPOSITORY / "docs" / "strategies.md").read_text(encoding="utf-8")
GROUPS = ("freeze_policy", "adapter", "learning_rates", "regularizer", "probe")


@pytest.fixture
def plain_config(thawline):
    """The resolved configuration of a tiny run without any addition."""
    shown = thawline("train", "--cfg", "job", "--resolve", *TINY)
    return yaml.safe_load(shown.out)


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


@pytest.mark.slow
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
    stated = {item: load_record(folder).strategy for folder in records() for item in load_record(folder).overrides}
    assert stated["strategy=linear_probe"] == Strategy(trains="head")
    assert stated["strategy=l2_sp"] == Strategy(trains="all", additions=["l2_sp", "l2_head"])
    assert stated["strategy=layer_decay"] == Strategy(trains="all", additions=["LayerDecay"])


@pytest.mark.parametrize(
    ("policy", "stated"),
    [
        ({"_target_": "FullFineTuning"}, Strategy(trains="all")),
        ({"_target_": "LastK", "k": "all"}, Strategy(trains="all", counted_from="output")),
        ({"_target_": "LastK", "k": 0}, Strategy(trains="head", counted_from="output")),
        ({"_target_": "FirstK", "k": 2}, Strategy(trains="part", counted_from="input")),
        ({"_target_": "LPFT"}, Strategy(trains="all", additions=["2 phases"])),
        ({"_target_": "NormOnly"}, Strategy(trains="part")),
    ],
    ids=lambda value: value["_target_"] if isinstance(value, dict) else "",
)
def test_a_plan_states_what_it_is(policy, stated, plain_config):
    node = {**policy, "_target_": f"thawline.freeze_policies.{policy['_target_']}"}
    assert strategy_of(plan_run({**plain_config, "freeze_policy": node}, (), Session())) == stated


def test_a_plan_states_its_recipe(plain_config):
    optimizer = {**plain_config["optimizer"], "lr": 0.3, "weight_decay": 0.01}
    flip = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 0.25}
    changes = {
        "optimizer": optimizer,
        "head": {"_target_": "thawline.heads.MLP", "hidden": [16]},
        "scheduler": {"_target_": "thawline.optimization.schedulers.Cosine", "warmup": 0.1},
        "transform": {**plain_config["transform"], "augmentation": [flip]},
    }
    recipe = recipe_of(plan_run({**plain_config, **changes}, (), Session()))
    assert (recipe.optimizer, recipe.lr) == ("SGD(momentum=0.9, nesterov=True)", 0.3)
    assert recipe.weight_decay == "0.01 (not norms and biases)"
    assert (recipe.head, recipe.schedule) == ("MLP(hidden=[16])", "Cosine(warmup=0.1)")
    assert (recipe.epochs, recipe.batch_size, recipe.input_size) == (2, 16, [32, 32])
    assert recipe.augmentation == ["RandomHorizontalFlip(p=0.25)"]
