"""What a command makes for good is not looked through for garbage; what a run makes is."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from tests.conftest import TINY
from thawline.execution import run as experiment
from thawline.network.model import TransferModel
from thawline.runtime.memory import collecting_in_runs_only, freeing


class Knot:
    """Holds itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_looked_for_in_runs_alone():
    usual = gc.get_threshold()
    with collecting_in_runs_only():
        assert gc.get_threshold()[0] >= 1_000_000
        with freeing():
            assert gc.get_threshold() == usual
            of_the_run = weakref.ref(Knot())
            assert of_the_run() is not None
        assert of_the_run() is None
        assert gc.get_threshold()[0] >= 1_000_000
    assert gc.get_threshold() == usual


def test_a_run_gives_back_what_lightning_knots_together(train):
    def trainers() -> list[object]:
        return [found for found in gc.get_objects() if type(found).__name__ == "Trainer"]

    of_other_tests = trainers()
    with collecting_in_runs_only():
        train("freeze_policy.k=1")
        left = [found for found in trainers() if not any(found is other for other in of_other_tests)]
    assert left == []


def test_a_command_ends_without_taking_apart_what_it_imported(tmp_path):
    code = """
import atexit, sys
atexit.register(print, "exit handlers are run")
class Imported:
    def __del__(self):
        print("taken apart")
imported = Imported()
sys.argv = ["thawline", "list", "freeze_policies", "no such policy"]
from thawline.__main__ import run
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "exit handlers are run"
    assert "taken apart" not in done.stdout


@pytest.mark.slow
def test_a_sweep_over_networks_keeps_few_of_them(thawline, monkeypatch):
    made, alive = weakref.WeakSet(), []
    build, finish = TransferModel.__init__, experiment.finish

    def noted(model, *arguments):
        build(model, *arguments)
        made.add(model)

    def counted(*arguments):
        alive.append(sum(model.pixel_mean.device.type != "meta" for model in made))
        return finish(*arguments)

    monkeypatch.setattr(TransferModel, "__init__", noted)
    monkeypatch.setattr(experiment, "finish", counted)
    # Random weights: a network of its own for each seed.
    grid = ("freeze_policy.k=1", "seed=range(0,6)", "backbone.weights=null", "sweep.report=false")
    result = thawline("train", "-m", *TINY, *grid, "trainer.max_epochs=1")
    assert result.status == 0, result.err
    assert len(alive) == 6
    assert max(alive) <= 2
