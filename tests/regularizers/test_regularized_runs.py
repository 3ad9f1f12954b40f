"""Regularizers beside the store, adapters, devices and resumed runs: nothing is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.execution.test_train import folder_of, numbers
from tests.regularizers.bench import (
    VIT,
    bench,
)
from thawline.records import ThawLineRecord, load_record
from thawline.regularizers import (
    BSS,
    DELTA,
    FeatureMatching,
    StochNorm,
)
from thawline.training.module import FitModule
from thawline.training.penalties import Penalties, Penalty


def test_parameters_alone_leave_the_stored_values_usable(train):
    on = ("cache.mode=on", "freeze_policy.k=1")
    stored = train(*on, "regularizer=l2_sp")
    assert stored.phases[0].thaw_line.stored is True
    whole = train("cache.mode=off", "freeze_policy.k=1", "regularizer=l2_sp", "metrics.top_k=3")
    for one, other in zip(stored.history, whole.history, strict=True):
        assert one["train/l2_sp"] == pytest.approx(other["train/l2_sp"], rel=1e-4)
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
    forward = train(*on, "regularizer=bss")
    assert forward.phases[0].thaw_line == ThawLineRecord(
        stored=False, reason="regularizers that need the whole model's forward pass: bss"
    )


def test_nothing_stays_on_the_model_for_the_next_run(train, thawline):
    """The runs of a process share one model where they start alike."""
    fixed = ("freeze_policy=full", "cache.mode=off")
    alone = train(*fixed)
    shutil.rmtree("outputs")
    many = "regularizer=[stoch_norm,bss,feature_matching,l2_sp],[]"
    assert thawline("train", "-m", *TINY, *fixed, many, "sweep.report=false").status == 0
    again = load_record(folder_of(alone))
    assert numbers(again) == numbers(alone)


def test_closing_takes_every_hook_off():
    model, _ = bench()
    specs = {"a": BSS(weight=1.0), "b": FeatureMatching(weight=1.0), "c": StochNorm(),
             "d": DELTA(weight=1.0, importance="uniform")}  # fmt: skip
    attached = {name: Penalty(spec.weight, spec.attach(model.context)) for name, spec in specs.items()}
    penalties = Penalties(attached, model.observers[0], model.observers[1:])
    hooked = [m for o in model.observers for m in o.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked
    penalties.close()
    left = [m for o in model.observers for m in o.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert left == []
    assert model.observers[0].activations == {}


def test_regularizers_go_with_adapters_and_measured_rates(train):
    record = train(*VIT, "adapter=bottleneck", "learning_rates=auto_rgn", "regularizer=[l2_sp,feature_matching,bss]",
                   "regularizer.feature_matching.layers={blocks.0: blocks.1.mlp.fc1}",
                   "regularizer.feature_matching.relu=false")  # fmt: skip
    assert record.history[-1]["train/objective"] > 0
    assert record.phases[0].regularizers["feature_matching"].companion_parameters > 0
    assert record.phases[0].optimizer_groups[-1].name == "regularizers"


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one(train):
    fixed = (*VIT, "freeze_policy=full", "regularizer=[bss,l2_sp,delta,feature_matching]", "regularizer.bss.k=2",
             "regularizer.bss.weight=0.01", "regularizer.delta.importance=uniform", "trainer.batch_size=15",
             "regularizer.l2_sp.weight={schedule: linear, start: 0, end: 1}",
             "regularizer.feature_matching.weight={ratio_to_loss: 0.1}",
             "regularizer.feature_matching.layers={blocks.0: blocks.1.mlp.fc1}",
             "regularizer.feature_matching.relu=false")  # fmt: skip
    one = train(*fixed)
    shutil.move("outputs", "one")
    two = train(*fixed, "trainer.devices=2", "trainer.strategy=ddp")
    for ours, theirs in zip(one.history, two.history, strict=True):
        for key in ours:
            if key.startswith(("train/", "val/")):
                assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-5), key


@pytest.mark.slow
def test_a_run_that_dies_goes_on_with_what_its_regularizers_had_trained(train, thawline, monkeypatch):
    overrides = ("freeze_policy=lp_ft", "trainer.max_epochs=5", "trainer.checkpoint_seconds=0",
                 "regularizer=[feature_matching,l2_sp,stoch_norm]", "optimizer=adamw", "optimizer.lr=0.001",
                 "regularizer.feature_matching.layers={layer1: layer2, layer4: layer4}")  # fmt: skip
    start = FitModule.on_train_epoch_start

    def dying(at):
        def on_train_epoch_start(self):
            if self._first_epoch + self.current_epoch == at:
                raise RuntimeError("the power is gone")
            start(self)

        return on_train_epoch_start

    for at in (1, 4):
        monkeypatch.setattr(FitModule, "on_train_epoch_start", dying(at))
        assert thawline("train", *TINY, *overrides).status == 1
    monkeypatch.setattr(FitModule, "on_train_epoch_start", start)
    broken = train(*overrides)
    Path("outputs").rename("broken")
    whole = train(*overrides)
    assert numbers(broken) == numbers(whole)
    assert [phase.regularizers for phase in broken.phases] == [phase.regularizers for phase in whole.phases]
