"""L2 and L2-SP: weight decay, and the pull towards the source."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.execution.test_train import folder_of
from tests.regularizers.bench import (
    ONE_STEP,
    VIT,
    bench,
    move,
)
from thawline.regularizers import (
    L2,
    L2SP,
)


@pytest.mark.slow
def test_l2_with_sgd_is_its_weight_decay(train):
    fixed = (*VIT, "freeze_policy=full", "optimizer.weight_decay_on_norm_and_bias=true")
    by_optimizer = train(*fixed, "optimizer.weight_decay=0.1")
    by_term = train(*fixed, "optimizer.weight_decay=0", "regularizer=l2", "regularizer.l2.weight=0.1")
    assert by_optimizer.history[1]["train/loss"] == pytest.approx(by_term.history[1]["train/loss"], rel=1e-4)
    ours, theirs = (load_file(folder_of(record) / "best.safetensors") for record in (by_term, by_optimizer))
    for name, tensor in ours.items():
        assert torch.allclose(tensor.float(), theirs[name].float(), atol=1e-5), name


def test_l2_counts_what_it_is_told_to():
    model, _ = bench()
    context, network = model.context, model.context.network
    parameters = dict(model.model.named_parameters())
    kinds = {
        ("all", True): network.parameters,
        ("head", True): network.head,
        ("backbone", True): network.backbone,
        ("all", False): [name for name in network.parameters if name not in network.norms | network.biases],
    }
    for (over, norms), names in kinds.items():
        term = L2(weight=1.0, over=over, norms_and_biases=norms).attach(context)
        expected = 0.5 * sum(parameters[name].detach().square().sum() for name in names)
        assert term.value(model.step(torch.zeros(1, 3, 32, 32))).item() == pytest.approx(expected.item(), rel=1e-5)
    model.model.set_trainable(network.head)
    assert L2(weight=1.0, over="backbone").attach(context).value(model.step(torch.zeros(1, 3, 32, 32))).item() == 0.0


def test_l2_sp_has_no_gradient_at_the_source_and_pulls_back_elsewhere():
    model, images = bench()
    term = L2SP(weight=0.1).attach(model.context)
    backbone = {name: p for name, p in model.model.named_parameters() if name.startswith("backbone.")}
    value = term.value(model.step(images))
    value.backward()
    assert value.item() == 0.0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in backbone.values())
    start = {name: p.detach().clone() for name, p in backbone.items()}
    move(model.model)
    model.model.zero_grad()
    value = term.value(model.step(images))
    value.backward()
    apart = {name: p.detach() - start[name] for name, p in backbone.items()}
    assert value.item() == pytest.approx(0.5 * sum(d.square().sum() for d in apart.values()).item(), rel=1e-5)
    assert all(torch.allclose(p.grad, apart[name], atol=1e-7) for name, p in backbone.items())
    assert all(p.grad is None for p in model.model.head.parameters())


@pytest.mark.slow
def test_l2_sp_with_a_large_weight_tends_to_the_probe(train):
    """A step takes the gradient's part of lr, and alpha pulls all of it back where lr * alpha = 1."""
    fixed = (*VIT, *ONE_STEP, "optimizer.lr=0.0001", "learning_rates.head=50", "optimizer.momentum=0",
             "optimizer.nesterov=false", "optimizer.weight_decay=0", "trainer.max_epochs=20", "cache.mode=off",
             "scheduler=constant")  # fmt: skip
    probe = train(*fixed, "freeze_policy=linear_probe").history[-1]
    apart, from_probe = [], []
    for alpha in (0, 1000, 10000):
        tuned = train(*fixed, "freeze_policy=full", "regularizer=l2_sp", f"regularizer.l2_sp.weight={alpha}",
                      "regularizer.l2_head.weight=0")  # fmt: skip
        apart.append(tuned.history[-1]["train/l2_sp"])
        from_probe.append(abs(tuned.history[-1]["val/loss"] - probe["val/loss"]))
    assert apart[0] > 3 * apart[1] > 60 * apart[2] > 0.0
    assert from_probe[0] > 1.5 * from_probe[1] > 6 * from_probe[2]


@pytest.mark.slow
def test_l2_sp_pulls_towards_the_source_in_every_phase(train):
    record = train("freeze_policy=gradual_unfreezing", "regularizer=l2_sp", "trainer.max_epochs=8", "optimizer.lr=0.1")
    assert len(record.phases) > 1
    firsts = [next(row for row in record.history if row["phase"] == phase.name) for phase in record.phases]
    # The first phase trains the head alone; what the second has moved is not forgotten by the third.
    assert firsts[0]["train/l2_sp"] == 0.0
    assert firsts[2]["train/l2_sp"] > firsts[1]["train/l2_sp"] > 0.0
    assert record.phases[0].regularizers.keys() == {"l2_sp", "l2_head"}
