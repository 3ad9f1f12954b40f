"""Policies with several phases: what trains when, what is handed from phase to phase, and the classic traps."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import TINY
from tests.execution.test_train import folder_of, numbers
from tests.freeze_policies.test_freeze_policies import BLOCK, HEAD, NETWORK, STEM, TOP
from thawline.errors import UsageError
from thawline.execution.weights import build_model
from thawline.freeze_policies import LPFT, Blocks, FreezeThenUnfreeze, GradualUnfreezing, OneBlock
from thawline.network.model import TransferModel
from thawline.optimization.optimizers import Optimizer, states_of
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.specs import resolve, validate
from thawline.training.module import FitModule

ALL = {*STEM, *BLOCK, *TOP, *HEAD}
PACKAGE = "thawline.freeze_policies"


def trained(policy) -> list[set[str]]:
    return [set(phase.trainable) for phase in policy.phases(NETWORK)]


# Which parameters, when -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "sets"),
    [
        (LPFT(), [{*HEAD}, ALL]),
        (GradualUnfreezing(), [{*HEAD}, {*TOP, *HEAD}, {*BLOCK, *TOP, *HEAD}, ALL]),
        (GradualUnfreezing(groups_per_step=2), [{*HEAD}, {*BLOCK, *TOP, *HEAD}, ALL]),
        (GradualUnfreezing(k="block"), [{*HEAD}, {*TOP, *HEAD}, {*BLOCK, *TOP, *HEAD}]),
        (GradualUnfreezing(k=0), [{*HEAD}]),
        (FreezeThenUnfreeze(), [{*HEAD}, ALL]),
        (FreezeThenUnfreeze(k=1), [{*HEAD}, {*TOP, *HEAD}]),
        (FreezeThenUnfreeze(depth=0.5), [{*HEAD}, {*BLOCK, *TOP, *HEAD}]),
        (OneBlock(block=1), [{*BLOCK, *HEAD}]),
        (OneBlock(block="stem", train_head=False), [{*STEM}]),
        (Blocks(blocks=[0, -1], train_head=False), [{*STEM, *TOP}]),
    ],
)
def test_trained_names_of_each_phase(policy, sets):
    assert trained(policy) == sets


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_sets_of_gradual_unfreezing_are_nested(step):
    sets = trained(GradualUnfreezing(groups_per_step=step))
    assert all(earlier < later for earlier, later in itertools.pairwise(sets))
    assert sets[0] == {*HEAD}
    assert sets[-1] == ALL


def test_the_rates_of_gradual_unfreezing():
    phases = GradualUnfreezing(lr_decay=0.5, last={"lr_multiplier": 3.0}).phases(NETWORK)
    assert [phase.lr_multiplier for phase in phases] == [1.0, 0.5, 0.25, 0.375]
    assert [phase.epochs for phase in phases] == [1, 1, 1, None]


def written(*phases, **fields):
    return resolve({"_target_": f"{PACKAGE}.Phases", "phases": list(phases), **fields}, "freeze_policy")


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ("head", HEAD),
        ("all", ALL),
        ("norms", (*STEM[1:], *BLOCK[2:], *HEAD)),
        ("biases", (STEM[2], BLOCK[1], BLOCK[3], TOP[1], *HEAD)),
        ({"last_k": 1}, (*TOP, *HEAD)),
        ({"last_k": "block"}, (*BLOCK, *TOP, *HEAD)),
        ({"first_k": 1}, (*STEM, *HEAD)),
        ({"depth": 0.5}, (*BLOCK, *TOP, *HEAD)),
        ({"blocks": [0, "fc"]}, (*STEM, *TOP, *HEAD)),
        (["stem", -1], (*STEM, *TOP, *HEAD)),
        ({"patterns": [r"\.conv\."]}, (*BLOCK[:2], *HEAD)),
        ({"_target_": f"{PACKAGE}.NormOnly", "running_statistics": "frozen"}, (*STEM[1:], *BLOCK[2:], *HEAD)),
    ],
)
def test_written_phases(train, names):
    (phase,) = written({"train": train}).phases(NETWORK)
    assert phase.trainable == {*names}


def test_a_written_phase_has_its_length_rate_and_statistics():
    one, two, three = written(
        {"train": "head", "epochs": 3, "patience": 2},
        {
            "name": "middle",
            "train": {"last_k": 2},
            "epochs": 0.25,
            "lr_multiplier": 0.1,
            "running_statistics": "frozen",
        },
        {"train": {"_target_": f"{PACKAGE}.NormOnly", "running_statistics": "frozen"}},
        optimizer_state="keep",
    ).phases(NETWORK)
    assert (one.name, one.epochs, one.fraction, one.patience, one.lr_multiplier) == ("phase 0", 3, None, 2, 1.0)
    assert (two.name, two.epochs, two.fraction, two.lr_multiplier) == ("middle", None, 0.25, 0.1)
    assert [phase.running_statistics for phase in (one, two, three)] == ["follow", "frozen", "frozen"]
    assert {phase.optimizer_state for phase in (one, two, three)} == {"keep"}


@pytest.mark.parametrize(
    ("phase", "problem"),
    [
        ({"train": "hed"}, "freeze_policy.phases.0.train: there is no 'hed'; nearest: head"),
        ({"train": {"lastk": 2}}, "freeze_policy.phases.0.train: {'lastk': 2} does not say what trains"),
        ({"train": {"last_k": -1}}, "freeze_policy.phases.0.train: last_k: must be 0 or more"),
        ({"train": "all", "epochs": 0}, "freeze_policy.phases.0.epochs: must be 1 or more"),
        (
            {"train": "all", "epochs": 1.0},
            "freeze_policy.phases.0.epochs: a fraction of trainer.max_epochs lies between",
        ),
        ({"train": "all", "epoch": 1}, "freeze_policy.phases.0.epoch: unknown field"),
        ({}, "freeze_policy.phases.0.train: Field required"),
    ],
)
def test_a_wrong_phase_is_named(phase, problem):
    with pytest.raises(UsageError) as caught:
        written(phase)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ({"last_k": 4}, "freeze_policy.phases[1].train: k = 4 is more than the backbone's 3 layer groups"),
        ({"patterns": ["layer9"]}, "freeze_policy.phases[1].train: 'layer9' matches no parameter"),
        ({"_target_": f"{PACKAGE}.LPFT"}, "freeze_policy.phases[1].train: LPFT has 2 phases itself; one is wanted"),
    ],
)
def test_a_phase_that_does_not_fit_the_network_is_named(train, problem):
    with pytest.raises(UsageError) as caught:
        written({"train": "head"}, {"train": train}).phases(NETWORK)
    assert str(caught.value) == problem


def test_two_phases_of_one_name_are_refused():
    with pytest.raises(UsageError, match="two phases have the name 'a'"):
        written({"name": "a", "train": "head"}, {"name": "a", "train": "all"})


# Lengths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "lengths"),
    [
        (("freeze_policy=lp_ft", "trainer.max_epochs=3"), [("probe", 2), ("fine-tuning", 1)]),
        (("freeze_policy=lp_ft", "freeze_policy.probe.epochs=1"), [("probe", 1), ("fine-tuning", 1)]),
        (
            ("freeze_policy=gradual_unfreezing", "freeze_policy.k=2", "trainer.max_epochs=4"),
            [("k = 0", 1), ("k = 1", 1), ("k = 2", 2)],
        ),
        (
            ("freeze_policy=gradual_unfreezing", "freeze_policy.k=1", "freeze_policy.step.epochs=null"),
            [("k = 0", 1), ("k = 1", 1)],
        ),
        (("freeze_policy=phases", "trainer.max_epochs=5"), [("head", 1), ("top", 2), ("all", 2)]),
    ],
)
def test_the_lengths_of_phases_in_the_record(train, overrides, lengths):
    record = train(*overrides)
    assert [(phase.name, phase.epochs) for phase in record.phases] == lengths
    assert [row["epoch"] for row in record.history] == list(range(sum(epochs for _, epochs in lengths)))


def test_too_few_epochs_for_the_phases_are_refused(thawline):
    result = thawline("train", *TINY, "freeze_policy=gradual_unfreezing")
    assert result.status == 2
    assert "trainer.max_epochs: 2 epochs are too few for the policy's 6 phases: they take at least 6" in result.err


def test_a_phase_ends_when_validation_stops_to_improve(train):
    still = ("freeze_policy.frozen.lr_multiplier=1e-30", "freeze_policy.frozen.patience=2", "metrics.monitor=loss")
    record = train("freeze_policy=freeze_then_unfreeze", "trainer.max_epochs=12", *still)
    assert [(phase.name, phase.epochs) for phase in record.phases] == [("frozen", 3), ("thawed", 6)]
    assert [row["epoch"] for row in record.history] == list(range(9))


# From phase to phase --------------------------------------------------------------------------------------------------


def test_fine_tuning_starts_from_the_probe(train):
    """Its first loss is the probe's best one: the same head on the same features."""
    still = ("freeze_policy.fine_tuning.lr_multiplier=1e-30", "freeze_policy.fine_tuning.running_statistics=frozen")
    record = train("freeze_policy=lp_ft", "trainer.max_epochs=4", "metrics.monitor=loss", "optimizer.lr=0.1", *still)
    probe = [row["val/loss"] for row in record.history if row["phase"] == "probe"]
    tuned = [row["val/loss"] for row in record.history if row["phase"] == "fine-tuning"]
    assert len(set(probe)) == 2
    assert tuned == pytest.approx([min(probe)] * 2, rel=1e-6)


@pytest.mark.slow
def test_the_probe_saves_the_features_from_the_random_head(train):
    """‖w - w0‖ of LP-FT is smaller than that of plain fine-tuning for as many epochs (Kumar et al. 2022)."""
    source = (
        "source=digits_low",
        "source.trainer.max_epochs=6",
        "source.dataset.n_per_class=40",
        "dataset=digits_high",
    )
    common = (*source, "dataset.n_per_class=8", "metrics.monitor=loss", "optimizer.lr=0.002")

    def drift(*overrides: str) -> float:
        record = train(*common, *overrides)
        start = build_model(RunContext(plan_run(record.config, (), Session()), Session())).state_dict()
        moved = load_file(folder_of(record) / "best.safetensors")
        weights = [name for name in moved if name.startswith("backbone.") and moved[name].dim() > 1]
        return sum(float((moved[name] - start[name]).square().sum()) for name in weights) ** 0.5

    whole = "freeze_policy.phases=[{train: all, running_statistics: frozen}]"
    plain = drift("freeze_policy=phases", whole, "trainer.max_epochs=4")
    statistics = "freeze_policy.fine_tuning.running_statistics=frozen"
    probed = drift("freeze_policy=lp_ft", "freeze_policy.probe.epochs=20", statistics, "trainer.max_epochs=24")
    assert 0.0 < probed < plain


SPLIT = (
    "freeze_policy=phases",
    "freeze_policy.phases=[{train: head, epochs: 2}, {train: head, epochs: 2}]",
)
STEADY = (
    "scheduler=constant", "metrics.monitor=loss", "trainer.max_epochs=4", "trainer.threads=1", "optimizer.lr=0.001",
    "cache.mode=off",
)  # fmt: skip


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "adamw"])
def test_with_its_state_kept_a_fit_in_two_phases_is_one_fit(train, optimizer):
    def history(*overrides: str) -> list[tuple[float, float]]:
        record = train(*STEADY, f"optimizer={optimizer}", *overrides)
        rows = [(row["train/loss"], row["val/loss"]) for row in record.history]
        # What is handed on is the best epoch's; the comparison holds where that is the last one of each phase.
        assert [loss for _, loss in rows] == sorted((loss for _, loss in rows), reverse=True)
        return rows

    whole = history("freeze_policy=linear_probe")
    kept = history(*SPLIT, "freeze_policy.optimizer_state=keep")
    dropped = history(*SPLIT, "freeze_policy.optimizer_state=drop")
    assert kept == whole
    assert dropped[:2] == whole[:2]
    assert dropped[2:] != whole[2:]


def test_kept_state_is_that_of_the_parameters_that_trained_before():
    spec = validate(Optimizer, {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}, "optimizer")
    old, new = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    first = spec.build({HEAD[0]: old}, NETWORK)
    old.sum().backward()
    first.step()
    states = states_of(first, {HEAD[0]: old, TOP[0]: new})
    assert states.keys() == {HEAD[0]}
    second = spec.build({HEAD[0]: old, TOP[0]: new}, NETWORK, states=states)
    assert torch.equal(second.state[old]["momentum_buffer"], torch.ones(2))
    assert new not in second.state
    (old.sum() + new.sum()).backward()
    second.step()
    assert torch.equal(second.state[new]["momentum_buffer"], torch.ones(3))
    first.state[old]["momentum_buffer"].zero_()
    assert second.state[old]["momentum_buffer"].abs().sum() > 0  # a copy, not the other's own


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        ("lp_ft", "keep"),
        *(
            pytest.param(policy, state, marks=pytest.mark.slow)
            for policy, state in (
                ("gradual_unfreezing", "drop"),
                ("lp_ft", "drop"),
                ("gradual_unfreezing", "keep"),
                ("freeze_then_unfreeze", "keep"),
                ("freeze_then_unfreeze", "drop"),
                ("phases", "keep"),
                ("phases", "drop"),
            )
        ),
    ],
)
def test_a_run_that_dies_in_any_phase_goes_on_to_the_same_numbers(train, thawline, monkeypatch, policy, state):
    overrides = (
        f"freeze_policy={policy}",
        f"freeze_policy.optimizer_state={state}",
        "trainer.max_epochs=7",
        "trainer.checkpoint_seconds=0",
        "optimizer=adamw",
        "optimizer.lr=0.001",
    )
    epochs = {"lp_ft": (1, 5), "gradual_unfreezing": (3, 6), "freeze_then_unfreeze": (4, 5), "phases": (2, 5)}[policy]
    start = FitModule.on_train_epoch_start

    def dying(at: int):
        def on_train_epoch_start(self) -> None:
            if self._first_epoch + self.current_epoch == at:
                raise RuntimeError("the power is gone")
            start(self)

        return on_train_epoch_start

    for at in epochs:
        monkeypatch.setattr(FitModule, "on_train_epoch_start", dying(at))
        assert thawline("train", *TINY, *overrides).status == 1
    monkeypatch.setattr(FitModule, "on_train_epoch_start", start)
    broken = train(*overrides)
    (Path("outputs/runs") / broken.identity).rename("broken")
    whole = train(*overrides)
    assert numbers(broken) == numbers(whole)
    assert [p.model_dump(exclude={"thaw_line"}) for p in broken.phases] == [
        p.model_dump(exclude={"thaw_line"}) for p in whole.phases
    ]
    # Nothing was frozen again on the way: in each phase all that trains has moved.
    assert [c.trainable_tensors for c in broken.freeze_contract.phases] == [
        c.trainable_tensors for c in whole.freeze_contract.phases
    ]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lp_ft", "gradual_unfreezing"])
def test_phases_on_two_devices_give_the_numbers_of_one(train, policy):
    overrides = (
        f"freeze_policy={policy}",
        "freeze_policy.optimizer_state=keep",
        "trainer.max_epochs=7",
        "optimizer.lr=0.001",
    )
    norms = ("freeze_policy.last.running_statistics=frozen",) if policy == "gradual_unfreezing" else ()
    one = train(*overrides, *norms, "cache.mode=off")
    Path("outputs").rename("one")
    two = train(*overrides, *norms, "cache.mode=off", "trainer.devices=2", "trainer.strategy=ddp")
    assert one.identity == two.identity
    first = [row["train/loss"] for row in one.history if row["phase"] in ("probe", "k = 0")]
    assert [row["train/loss"] for row in two.history][: len(first)] == pytest.approx(first, rel=1e-4)
    assert [phase.trainable_tensors for phase in one.phases] == [phase.trainable_tensors for phase in two.phases]
    assert one.metrics["test"]["loss"] == pytest.approx(two.metrics["test"]["loss"], rel=0.05)


def test_the_probe_phase_runs_on_stored_features_with_the_same_numbers(train):
    overrides = ("freeze_policy=lp_ft", "trainer.max_epochs=4", "freeze_policy.fine_tuning.running_statistics=frozen")
    stored = train(*overrides, "cache.mode=on")
    Path("outputs").rename("stored")
    computed = train(*overrides, "cache.mode=off")
    assert [phase.thaw_line.stored for phase in stored.phases] == [True, False]
    assert [phase.thaw_line.stored for phase in computed.phases] == [False, False]
    for one, other in zip(stored.history, computed.history, strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
        assert one["val/loss"] == pytest.approx(other["val/loss"], rel=1e-5)


@pytest.mark.slow
def test_another_source_is_never_given_the_stored_values_of_the_first(train):
    overrides = ("freeze_policy.k=1", "data_seed=0", "trainer.max_epochs=1", "backbone.weights=weights.safetensors")

    def weights(seed: int) -> None:
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), "weights.safetensors")

    weights(0)
    first = train(*overrides, "cache.mode=on")
    weights(1)
    second = train(*overrides, "cache.mode=on")
    Path("outputs").rename("stored")
    computed = train(*overrides, "cache.mode=off")
    assert [record.phases[0].thaw_line.stored for record in (first, second, computed)] == [True, True, False]
    assert second.history[0]["train/loss"] == pytest.approx(computed.history[0]["train/loss"], rel=1e-5)
    assert first.history[0]["train/loss"] != pytest.approx(second.history[0]["train/loss"], rel=1e-3)


# What a policy leaves alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "group"),
    [
        (("freeze_policy=first_k", "freeze_policy.k=1"), 0),
        (("freeze_policy=one_block", "freeze_policy.block=2"), 2),
        (("freeze_policy=blocks", "freeze_policy.blocks=[-1]"), -1),
    ],
)
def test_a_chosen_group_trains_and_its_complement_is_bit_equal(train, overrides, group):
    record = train(
        *overrides,
        "optimizer=adamw",
        "optimizer.lr=0.001",
        "optimizer.weight_decay=0.5",
        "+backbone.arguments.zero_init_last=false",
    )
    plan = plan_run(record.config, (), Session())
    moved = load_file(folder_of(record) / "best.safetensors")
    chosen = plan.network.groups[group]
    start = build_model(RunContext(plan, Session()))
    sizes = {name: parameter.numel() for name, parameter in start.named_parameters()}
    assert {name for name in moved if name in sizes} == {*chosen.parameters, *plan.network.head}
    assert all(not torch.equal(moved[name], start.state_dict()[name]) for name in moved)
    assert record.parameters.trainable == sum(sizes[name] for name in (*chosen.parameters, *plan.network.head))
    assert [entry.trained > 0 for entry in record.layer_groups] == [g is chosen for g in plan.network.groups]


@pytest.mark.parametrize("statistics", ["follow", "frozen"])
def test_norm_only_moves_norms_and_their_statistics_as_it_says(train, statistics):
    record = train("freeze_policy=norm_only", f"freeze_policy.running_statistics={statistics}")
    plan = plan_run(record.config, (), Session())
    moved = set(load_file(folder_of(record) / "best.safetensors"))
    norms = plan.network.norms & set(plan.network.backbone)
    buffers = {name for name in moved if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert moved - buffers == norms | set(plan.network.head)
    assert {name.rpartition(".")[0] for name in buffers} == (
        {name.rpartition(".")[0] for name in norms} if statistics == "follow" else set()
    )


def test_bias_only_leaves_every_weight_and_statistic(train):
    record = train("freeze_policy=bias_only", "optimizer=adamw", "optimizer.lr=0.001", "optimizer.weight_decay=0.5")
    moved = set(load_file(folder_of(record) / "best.safetensors"))
    assert {name for name in moved if not name.endswith(".bias")} == {"head.weight"}


# Traps that bit others ------------------------------------------------------------------------------------------------


def test_a_newly_thawed_parameter_equal_in_value_to_another_is_not_dropped(train):
    """Lightning's BaseFinetuning compares values: of two zero biases it keeps one."""
    spec = validate(Optimizer, {"_target_": "torch.optim.SGD", "lr": 0.1}, "optimizer")
    parameters = {TOP[1]: nn.Parameter(torch.zeros(3)), HEAD[1]: nn.Parameter(torch.zeros(3))}
    built = spec.build(parameters, NETWORK)
    held = {id(parameter) for group in built.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in parameters.values()}
    record = train("freeze_policy=freeze_then_unfreeze", "head.init=zeros", "optimizer.lr=0.1")
    thawed = record.phases[1]
    plan = plan_run(record.config, (), Session())
    assert thawed.trainable_tensors == len(plan.network.parameters)
    assert sum(group.tensors for group in thawed.optimizer_groups) == thawed.trainable_tensors


def model_with_norms() -> TransferModel:
    module = timm.create_model("test_resnet", num_classes=0)
    return TransferModel(module, nn.Linear(module.num_features, 3), (0.0,) * 3, (1.0,) * 3)


def test_a_zeroed_gradient_cannot_move_a_frozen_parameter():
    """AdamW moves whatever has a gradient, by its decay and its momentum, even one of zeros."""
    model = model_with_norms()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.set_trainable({"head.weight", "head.bias"})
    assert all(p.grad is None for p in model.parameters())
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable.keys() == {"head.weight", "head.bias"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.1, weight_decay=0.5)
    model.train()
    model(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert all(p.grad is None for name, p in model.named_parameters() if name not in moved)


def test_freezing_and_thawing_keep_the_same_parameter_objects():
    """timm's freeze() makes buffers of batch norms' parameters, and its unfreeze() makes new ones."""
    model = model_with_norms()
    before = {name: id(p) for name, p in model.named_parameters()}
    keys = list(model.state_dict())
    for names in ((), before, {"head.bias"}, before):
        model.set_trainable(names)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(names)
        assert {name: id(p) for name, p in model.named_parameters()} == before
        assert list(model.state_dict()) == keys


def test_freezing_reaches_every_parameter_and_not_only_an_attribute_of_the_module():
    """``module.requires_grad = False`` on a module freezes nothing."""
    model = model_with_norms()
    model.backbone.requires_grad = False
    assert all(p.requires_grad for p in model.backbone.parameters())
    model.set_trainable({"head.weight"})
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight"]
    model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.weight"]


def test_a_frozen_norm_stays_in_evaluation_whatever_train_is_called():
    """Lightning's BaseFinetuning makes a frozen batch norm normalise by its batch; its BackboneFinetuning trains it."""
    model = model_with_norms()
    model.set_trainable({name for name, _ in model.named_parameters() if not name.startswith("backbone.bn1")})
    for call in (model.train, lambda: model.train(True), lambda: (model.eval(), model.train())):
        call()
        assert model.training
        assert not model.backbone.bn1.training
        assert model.backbone.bn1.track_running_stats
        assert model.backbone.layer1[0].bn1.training
    before = model.backbone.bn1.running_mean.clone()
    model(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    assert torch.equal(model.backbone.bn1.running_mean, before)
