"""Learning rates by depth: their factors, that schedules keep them, and the measured ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.execution.test_train import folder_of, numbers
from tests.freeze_policies.test_freeze_policies import BLOCK, HEAD, NETWORK, STEM, TOP
from thawline.execution.weights import build_model
from thawline.optimization.learning_rates import AutoRGN, AutoSNR, Discriminative, LayerDecay, Uniform
from thawline.optimization.optimizers import Optimizer
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.specs import validate
from thawline.training.measured_rates import set_weights

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


def built(rates, **fields) -> torch.optim.Optimizer:
    parameters = {name: nn.Parameter(torch.ones(2)) for name in NETWORK.parameters}
    optimizer = validate(Optimizer, {**SGD, **fields}, "optimizer")
    return optimizer.build(parameters, NETWORK, by_depth=rates.by_depth(3), head=rates.head)


# Fixed rates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "by_depth", "head"),
    [
        (Uniform(), None, 1.0),
        (LayerDecay(decay=0.5), (0.125, 0.25, 0.5), 1.0),
        (LayerDecay(decay=1.0), (1.0, 1.0, 1.0), 1.0),
        (Discriminative(), (2.6**-3, 2.6**-2, 2.6**-1), 10.0),
        (Discriminative(factor=1.0, head=1.0), (1.0, 1.0, 1.0), 1.0),
    ],
)
def test_factors(rates, by_depth, head):
    assert rates.by_depth(3) == (None if by_depth is None else pytest.approx(by_depth))
    assert rates.head == head


def test_each_layer_group_has_its_rate_in_the_optimizer():
    groups = built(LayerDecay(decay=0.5, head=3.0)).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("stem", pytest.approx(0.0125)),
        ("block", pytest.approx(0.025)),
        ("fc", pytest.approx(0.05)),
        ("head", pytest.approx(0.3)),
    ]
    assert [len(group["params"]) for group in groups] == [len(STEM), len(BLOCK), len(TOP), len(HEAD)]


def test_layer_decay_reaches_the_rate_under_a_torch_schedule():
    """timm writes ``lr_scale``, which torch's schedules do not read: there each group would step alike."""
    optimizer = built(LayerDecay(decay=0.5))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
    moves = []
    for _ in range(2):
        before = [group["params"][0].detach().clone() for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        schedule.step()
        pairs = zip(optimizer.param_groups, before, strict=True)
        moves.append([float((old - group["params"][0].detach())[0]) for group, old in pairs])
    assert moves[0] == pytest.approx([0.0125, 0.025, 0.05, 0.1], rel=1e-5)
    assert moves[1] == pytest.approx([0.00625, 0.0125, 0.025, 0.05], rel=1e-5)


def test_the_rates_are_in_the_record(train):
    record = train("freeze_policy=full", "learning_rates=layer_decay", "learning_rates.decay=0.5", "optimizer.lr=0.1")
    (phase,) = record.phases
    rates = {group.name.removesuffix(" (no decay)"): group.lr for group in phase.optimizer_groups}
    n = len(record.layer_groups)
    expected = {group.name: 0.1 * 0.5 ** (n - group.index) for group in record.layer_groups}
    assert rates == pytest.approx({**expected, "head": 0.1})


def test_no_decay_is_full_fine_tuning(train):
    plain = train("freeze_policy=full")
    decayed = train("freeze_policy=full", "learning_rates=layer_decay", "learning_rates.decay=1")
    discriminative = ("learning_rates=discriminative", "learning_rates.factor=1", "learning_rates.head=1")
    assert numbers(decayed) == numbers(plain)
    assert numbers(train("freeze_policy=full", *discriminative)) == numbers(plain)


@pytest.mark.parametrize(
    "rates", ["learning_rates.decay=1e-30", pytest.param("learning_rates.factor=1e30", marks=pytest.mark.slow)]
)
def test_towards_no_rate_at_all_it_tends_to_the_probe(train, rates):
    kind = "layer_decay" if "decay" in rates else "discriminative"
    phases = "freeze_policy.phases=[{train: all, running_statistics: frozen}]"
    tuned = train("freeze_policy=phases", phases, f"learning_rates={kind}", rates, "learning_rates.head=1")
    probe = train("freeze_policy=linear_probe")
    for one, other in zip(tuned.history, probe.history, strict=True):
        assert one["val/loss"] == pytest.approx(other["val/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("rates", "problem"),
    [
        ({"_target_": "LayerDecay", "decay": 1.5}, "Input should be less than or equal to 1"),
        ({"_target_": "LayerDecay", "decay": 0.0}, "Input should be greater than 0"),
        ({"_target_": "Discriminative", "factor": 0.5}, "Input should be greater than or equal to 1"),
        ({"_target_": "AutoSNR", "batches": 0}, "Input should be greater than or equal to 1"),
        ({"_target_": "AutoRGN", "batch": 1}, "unknown field; nearest: batches"),
    ],
)
def test_wrong_values_are_named(rates, problem):
    from thawline.errors import UsageError
    from thawline.specs import resolve

    with pytest.raises(UsageError) as caught:
        resolve({**rates, "_target_": f"thawline.optimization.learning_rates.{rates['_target_']}"}, "learning_rates")
    assert problem in str(caught.value)


# Measured rates -------------------------------------------------------------------------------------------------------

PLACES = {"low": ("a", "b"), "high": ("c",)}
PARAMETERS = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0]), "c": torch.tensor([1.0, 0.0])}
GRADIENTS = [
    {"a": torch.tensor([0.0]), "b": torch.tensor([1.0]), "c": torch.tensor([0.0, 2.0])},
    {"a": torch.tensor([3.0]), "b": torch.tensor([0.0]), "c": torch.tensor([4.0, 0.0])},
]


def test_relative_gradient_norms_are_a_mean_over_batches_and_the_largest_is_1():
    # low: ‖theta‖ = 5, ‖g‖ = 1 and 3; high: ‖theta‖ = 1, ‖g‖ = 2 and 4
    weights = AutoRGN().weights(iter(GRADIENTS), PARAMETERS, PLACES)
    assert weights == pytest.approx({"low": (1 / 5 + 3 / 5) / (2 + 4), "high": 1.0})


def test_doubling_the_parameters_at_the_same_gradient_halves_the_weight():
    doubled = {**PARAMETERS, "a": 2 * PARAMETERS["a"], "b": 2 * PARAMETERS["b"]}
    rgn = AutoRGN()
    before = rgn.weights(GRADIENTS, PARAMETERS, PLACES)
    assert rgn.weights(GRADIENTS, doubled, PLACES)["low"] == pytest.approx(before["low"] / 2)


def test_parameters_that_are_zero_take_the_whole_rate():
    zero = {**PARAMETERS, "c": torch.zeros(2)}
    assert AutoRGN().weights(GRADIENTS, zero, PLACES) == {"low": 0.0, "high": 1.0}
    still = [{name: torch.zeros_like(g) for name, g in gradient.items()} for gradient in GRADIENTS]
    assert AutoRGN().weights(still, PARAMETERS, PLACES) == {"low": 1.0, "high": 1.0}


SNR_PLACES = {"low": ("w", "b"), "high": ("v",), "one": ("scale",)}


def snr_gradients() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        {
            "w": torch.randn(4, 3, 2, 2),
            "b": torch.randn(4),
            "v": torch.randn(5, 2) + 3,
            "scale": torch.randn(1),
        }
        for _ in range(3)
    ]


def test_the_signal_to_noise_ratio_is_that_of_the_authors_code():
    """Squared gradient over its variance along the first dimension plus 1e-8, a mean over entries and batches."""
    gradients = snr_gradients()
    ratio = {
        name: torch.stack([g[name] ** 2 / (torch.var(g[name], dim=0, keepdim=True) + 1e-8) for g in gradients])
        for name in ("w", "b", "v")
    }
    low = torch.cat([ratio["w"].reshape(3, -1), ratio["b"].reshape(3, -1)], dim=1).mean().item()
    expected = {"low": low, "high": ratio["v"].mean().item(), "one": math.inf}
    assert AutoSNR().ratios(gradients, SNR_PLACES) == pytest.approx(expected)


def test_the_threshold_is_held_against_the_ratio_itself():
    gradients = snr_gradients()
    low = AutoSNR().ratios(gradients, SNR_PLACES)["low"]
    assert low < 2.0 < AutoSNR().ratios(gradients, SNR_PLACES)["high"]
    for threshold, trains in ((low * 0.99, 1.0), (low * 1.01, 0.0)):
        weights = AutoSNR(threshold=threshold).weights(gradients, {}, SNR_PLACES)
        assert weights == {"low": trains, "high": 1.0, "one": 1.0}
    every = [{name: torch.zeros_like(g) for name, g in gradient.items()} for gradient in gradients]
    assert AutoSNR().weights(every, {}, SNR_PLACES) == {"low": 0.0, "high": 0.0, "one": 1.0}


def test_set_weights_change_the_optimizer_and_what_its_schedule_goes_on_from():
    optimizer = built(AutoRGN())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    for weights in (
        {"stem": 0.2, "block": 0.0, "fc": 1.0, "head": 0.5},
        {"stem": 1.0, "block": 0.3, "fc": 0.1, "head": 1},
    ):
        set_weights(optimizer, schedule, weights)
        expected = [0.1 * weights[group["part"]] for group in optimizer.param_groups]
        assert schedule.base_lrs == pytest.approx(expected)
        assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        factor = 0.5**schedule.last_epoch
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor * lr for lr in expected])
        optimizer.step()
        schedule.step()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor / 2 * lr for lr in expected])


@pytest.mark.parametrize("kind", ["auto_rgn", "auto_snr"])
def test_measured_rates_are_renewed_applied_and_recorded_in_each_epoch(train, kind):
    record = train("freeze_policy=full", f"learning_rates={kind}", "optimizer.lr=0.05", "scheduler=constant")
    rates = [row["learning_rates"] for row in record.history]
    places = {group.name for group in record.layer_groups} | {"head"}
    assert all(row.keys() == places for row in rates)
    if kind == "auto_rgn":
        assert all(max(row.values()) == pytest.approx(0.05) for row in rates)
        assert rates[0] != rates[1]
        assert len(set(rates[0].values())) == len(places)
    else:
        assert all(value in (0.0, pytest.approx(0.05)) for row in rates for value in row.values())
    last = {group.name.removesuffix(" (no decay)"): group.lr for group in record.phases[0].optimizer_groups}
    assert last == pytest.approx(rates[-1])


def test_what_auto_snr_holds_does_not_move(train):
    overrides = (
        "learning_rates=auto_snr",
        "learning_rates.threshold=1.1",
        "optimizer=adamw",
        "optimizer.lr=0.001",
        "optimizer.weight_decay=0.5",
    )
    record = train("freeze_policy=full", *overrides, "+backbone.arguments.zero_init_last=false")
    plan = plan_run(record.config, (), Session())
    start = build_model(RunContext(plan, Session())).state_dict()
    moved = load_file(folder_of(record) / "best.safetensors")
    ever = {name for row in record.history for name, rate in row["learning_rates"].items() if rate > 0.0}
    for group in plan.network.groups:
        still = all(torch.equal(moved[name], start[name]) for name in group.parameters)
        assert still == (group.name not in ever)
    assert ever < {group.name for group in plan.network.groups} | {"head"}


def test_measuring_changes_no_statistics_and_no_randomness(train, monkeypatch):
    """With all weights 1 the run is that of plain fine-tuning, bit for bit."""
    monkeypatch.setattr(AutoRGN, "weights", lambda self, gradients, parameters, places: _read(gradients, places))
    measured = train("freeze_policy=full", "learning_rates=auto_rgn", "head.dropout=0.3")
    plain = train("freeze_policy=full", "head.dropout=0.3")
    for row in measured.history:
        del row["learning_rates"]
    assert numbers(measured) == numbers(plain)


def _read(gradients, places) -> dict[str, float]:
    assert len(list(gradients)) == 3  # 40 samples in batches of 16
    return dict.fromkeys(places, 1.0)


@pytest.mark.slow
def test_two_devices_measure_the_same_rates(train):
    overrides = ("freeze_policy=full", "learning_rates=auto_rgn", "trainer.max_epochs=1", "cache.mode=off")
    one = train(*overrides)
    Path("outputs").rename("one")
    two = train(*overrides, "trainer.devices=2", "trainer.strategy=ddp")
    assert two.history[0]["learning_rates"] == pytest.approx(one.history[0]["learning_rates"], rel=1e-4)
