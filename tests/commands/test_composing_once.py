"""The one configuration that a command composes is the one that Hydra composes twice."""

from __future__ import annotations

import contextlib
import re
import sys

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tests.conftest import REPOSITORY, TINY
from thawline.commands.composing_once import composing_once
from thawline.config_paths import conf_folder

COMMANDS = [
    ["seed=3", "optimizer.lr=0.5"],
    ["hydra.job.name=other", "hydra.mode=RUN"],
    ["--multirun", "hydra/sweeper=basic", "seed=1,2", "trainer.max_epochs=range(1,3)"],
    ["hydra/sweeper=basic", "hydra.mode=MULTIRUN", "seed=1,2"],
    ["experiments=digits_depth/sweep", "hydra/sweeper=basic", "seed=1"],
    ["head={_target_: thawline.heads.Linear, dropout: 0.1}", "transform.size=[32,48]"],
]


@pytest.fixture(autouse=True)
def _as_a_command(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


def seen(monkeypatch, arguments, once):
    """What every job of a command gets: its whole configuration, Hydra's own part too; and how many were composed."""
    found, composed = [], []
    load = ConfigLoaderImpl.load_configuration

    def counted(*given, **named):
        composed.append(1)
        return load(*given, **named)

    def job(config):
        own = OmegaConf.to_container(HydraConfig.instance().cfg, resolve=False)
        found.append((OmegaConf.to_container(config, resolve=False), own))

    main = hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)
    monkeypatch.setattr(sys, "argv", ["thawline train", *arguments])
    with monkeypatch.context() as patch, composing_once(multirun="--multirun" in arguments) if once else nothing():
        patch.setattr(ConfigLoaderImpl, "load_configuration", counted)
        main()
    return found, len(composed)


nothing = contextlib.nullcontext


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(command, marks=pytest.mark.slow) if command[0].startswith("experiments=") else command
        for command in COMMANDS
    ],
    ids=" ".join,
)
def test_a_job_gets_what_hydra_gives(monkeypatch, arguments):
    (ours, composed), (expected, composed_twice) = (seen(monkeypatch, arguments, once) for once in (True, False))
    assert ours == expected
    assert len(ours) == {0: 1, 2: 4, 3: 2}.get(COMMANDS.index(arguments), len(expected))
    asked_by_file = "--multirun" not in arguments and len(ours) > 1
    assert composed == composed_twice - (not asked_by_file and arguments[0] != "experiments=digits_depth/sweep")


@pytest.mark.parametrize(
    "arguments",
    [["seed=1,2"], ["seed=range(0,2)"], ["sed=1"], ["optimizer=none_such"], ["--multirun", "hydra.job.name=a,b"]],
    ids=" ".join,
)
def test_what_hydra_refuses_is_refused_in_its_words(monkeypatch, arguments):
    said = []
    for once in (True, False):
        with pytest.raises(Exception) as error:
            seen(monkeypatch, arguments, once)
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


def test_a_command_composes_once(monkeypatch, thawline):
    composed = []
    load = ConfigLoaderImpl.load_configuration

    def counted(*given, **named):
        composed.append(1)
        return load(*given, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert thawline("train", *TINY, "trainer.max_epochs=1", "cache.mode=off").status == 0
    assert len(composed) == 1
    # A sweep composes its own configuration, and one for all cells that differ in values alone.
    thawline("train", "-m", *TINY, "trainer.max_epochs=1", "cache.mode=off", "seed=0,0.5")
    assert len(composed) == 3


def test_help_lists_the_groups_and_nothing_else_of_a_checkout(thawline, capsys):
    with pytest.raises(SystemExit):
        thawline("train", "--help")
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"[\w./-]+: ", line)]
    listed = {line.partition(": ")[0].partition("/")[0] for line in lines}
    groups = {path.name for path in (REPOSITORY / "conf").iterdir() if path.is_dir()}
    assert groups - {"hydra"} | {"experiments"} <= listed
    # Other files of YAML lie beside the experiments: breakages, and whatever a virtual environment holds.
    assert not listed & {"conf", "tests", "src", ".venv"}
