"""Options and classes of one's own: found first, found again by every printed command, and never run unasked."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.commands.test_errors import MISTAKES
from tests.conftest import TINY, records
from thawline import specs

POLICY = """
from typing import final
from thawline.freeze_policies import Phase
from thawline.specs import Spec

@final
class HeadAndStem(Spec):
    '''The stem and the head train.'''

    def phases(self, network):
        return (Phase("train", frozenset(network.groups[0].parameters) | frozenset(network.head)),)
"""


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch):
    monkeypatch.setattr(specs, "_extra_prefixes", [])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An own class in ``mine.py`` and options in ``conf``."""
    (tmp_path / "mine.py").write_text(POLICY)
    for name, text in {
        "freeze_policy/head_and_stem": "_target_: mine.HeadAndStem\n",
        "freeze_policy/deep": "defaults: [last_k]\nk: 3\n",
    }.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.mark.parametrize("flags", [["--config-dir", "conf"], ["-m", "--config-dir=conf", "data_seed=0,1"]])
@pytest.mark.parametrize(("overrides", "messages"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_every_mistake_has_its_line_beside_own_options_and_in_a_grid(thawline, own, flags, overrides, messages):
    if "-m" in flags and ("-m" in overrides or "add -m" in messages[0]):
        pytest.skip("a grid of its own")
    result = thawline("train", *TINY, *flags, *overrides)
    lines = result.err.splitlines()
    assert result.status == 2
    assert len(lines) == len(messages), result.err
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(f"error: {message}")
    assert not Path("outputs/runs").exists() and not Path("outputs/sweeps").exists()


@pytest.mark.parametrize("grid", [["-m", "seed=0,1"], ["experiments=mine"]], ids=["-m", "yaml"])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("freeze_policy=last_k,first_kk", "freeze_policy: there is no option 'first_kk'; nearest: first_k, last_k"),
        ("optimizer.lr=0.1,-3", "optimizer.lr: Input should be greater than 0 (got -3)"),
        ("trainer.max_epoch=3,4", "trainer.max_epoch: unknown field; nearest: trainer.max_epochs"),
        ("output_dir=out,'${nope}'", "output_dir: ${nope} cannot be resolved: there is no field 'nope'"),
        ("freeze_policy.k=0,99", "freeze_policy.k: k = 99 is more than the backbone's 5 layer groups"),
    ],
)
def test_a_mistake_in_the_second_cell(thawline, own, grid, mistake, message):
    (own / "conf" / "experiments").mkdir()
    (own / "conf" / "experiments" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 0,1\n"
    )
    result = thawline("train", *TINY, "--config-dir", "conf", *grid, mistake)
    (line,) = result.err.splitlines()
    assert result.status == 2
    assert line.startswith(f"error: {message}")
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output_dir=${nope}"], "output_dir: ${nope} cannot be resolved: there is no field 'nope'"),
        (
            ["dataset=image_folder", "dataset.root=${oc.env:NOPE}"],
            "dataset.root: ${oc.env:NOPE} cannot be resolved: the environment variable 'NOPE' is not set",
        ),
        (["seed=${data_seed}"], "seed: ${data_seed} cannot be resolved: it leads back to itself"),
        (["head.dropout=${a.b}"], "head.dropout: ${a.b} cannot be resolved: there is no field 'a.b'"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--config-dir", "conf"], ["-m", "trainer.batch_size=4,8"]], ids=" ".join)
def test_an_interpolation_that_leads_nowhere_is_one_line(thawline, own, flags, overrides, message):
    result = thawline("train", *flags, *overrides)
    assert (result.status, result.err) == (2, f"error: {message}\n")


def test_an_own_option_inherits_the_fields_of_a_shipped_one(train, own):
    record = train("--config-dir", "conf", "freeze_policy=deep", "freeze_policy.k=2")
    assert record.config["freeze_policy"] == {"_target_": "thawline.freeze_policies.LastK", "k": 2, "depth": None}


def test_an_own_option_with_a_shipped_name_wins_and_is_named(thawline, own):
    (own / "conf" / "head").mkdir()
    (own / "conf" / "head" / "linear.yaml").write_text("# my head\n_target_: thawline.heads.MLP\nhidden: [7]\n")
    result = thawline("train", *TINY, "--config-dir", "conf", "--cfg", "job", "--package", "head")
    assert result.out == "# @package head\n_target_: thawline.heads.MLP\nhidden:\n- 7\n"
    assert result.err == "note: used instead of thawline's own: head/linear (conf/head/linear.yaml)\n"
    assert "my head" in thawline("list", "heads", "--config-dir", "conf").out
    assert "hidden" not in thawline("train", *TINY, "--cfg", "job", "--package", "head").out


@pytest.mark.slow
def test_every_command_of_a_report_runs_with_own_code(thawline, own):
    flags = ("--allow", "mine", "--config-dir", "conf", "freeze_policy=head_and_stem")
    result = thawline("train", "-m", *TINY, *flags, "seed=0,1", "sweep.name=own", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    page = Path("outputs/sweeps/own/report/report.md").read_text()
    commands = [line.split("  # ")[0] for line in page.splitlines() if line.startswith("thawline ")]
    assert len(commands) == 3
    for command in commands:
        assert "--allow mine --config-dir conf" in command
    before = records()
    for folder in before:
        (folder / "record.json").rename(folder / "old.json")
    for command in commands[1:]:
        specs._extra_prefixes.clear()
        assert thawline(*shlex.split(command)[1:]).status == 0
    assert records() == before
    specs._extra_prefixes.clear()
    assert "--allow mine" in thawline("reproduce", before[0].name).err
    assert thawline("reproduce", before[0].name, "--allow", "mine").out.splitlines()[-1].startswith("identical")


def test_a_project_file_says_what_every_command_would(thawline, own, tmp_path):
    Path("thawline.toml").write_text('allow = ["mine"]\nconfig_dir = "conf"\noutput_dir = "my runs"\n')
    command = ("train", *TINY, "freeze_policy=head_and_stem", "trainer.max_epochs=1")
    # A file alone allows no code, however it came here.
    refused = thawline(*command)
    assert refused.status == 2
    assert "mine" not in sys.modules
    assert "note: thawline.toml asks to allow mine; a file alone allows no code: give --allow mine once" in refused.err
    assert "error: freeze_policy._target_: 'mine.HeadAndStem' lies outside the allowed packages" in refused.err
    assert thawline("list", "freeze_policies", "head_and_stem", "--allow", "mine").status == 0
    specs._extra_prefixes.clear()
    done = thawline(*command)
    assert done.status == 0, done.err
    assert done.err.splitlines()[0] == "thawline.toml: --allow mine, --config-dir conf, output_dir=my runs"
    (run,) = records("my runs")
    assert json.loads((run / "record.json").read_text())["config"]["output_dir"] == "my runs"
    assert thawline("verify", run.name).status == 0
    # In another folder with the same file it has to be said again.
    specs._extra_prefixes.clear()
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text('[tool.thawline]\nallow = "mine"\n')
    with contextlib.chdir(other):
        assert "pyproject.toml asks to allow mine" in thawline("list", "heads").err
    assert specs.allowed_extra_targets() == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alow = []", "thawline.toml.alow: unknown field; nearest: allow"),
        ("allow = [1]", "thawline.toml.allow.0: 1 is not text; with quotes around it, it is"),
        ("allow = [", "thawline.toml: cannot be read: Invalid value (at end of document)"),
        ("config_dir = 'nowhere'", "thawline.toml.config_dir: there is no folder 'nowhere'"),
    ],
)
def test_a_mistake_in_the_project_file_is_named(thawline, text, message):
    Path("thawline.toml").write_text(text)
    assert thawline("list", "heads").err == f"error: {message}\n"


@pytest.mark.parametrize("folder", ["outer/thawline.toml", "inner"])
def test_only_the_folder_one_stands_in_has_a_project_file(thawline, tmp_path, monkeypatch, folder):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "thawline.toml").write_text("nonsense = 1\n")
    monkeypatch.chdir(inner)
    assert thawline("list", "heads").err == ""
