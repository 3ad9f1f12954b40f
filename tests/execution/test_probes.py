"""Probes on stored features: the exact path equals scikit-learn's, many at once equal each one alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from tests.conftest import TINY, records
from thawline.execution.weights import build_model
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record
from thawline.training.probes import ManyProbes, ProbeRates, regularisation_path

PATH = ("probe=lbfgs_path", "freeze_policy=linear_probe", "probe.c_min=1e-3", "probe.c_max=1e3", "probe.steps=4")


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (120,), generator=numbers)
    return torch.randn(120, 8, generator=numbers) + labels.unsqueeze(1), labels


def test_the_path_is_scikit_learns_solution_with_no_gradient_left():
    features, labels = problem()
    path = list(regularisation_path(features, labels, 4, (1e-3, 1.0, 1e2), max_iterations=2000, tolerance=1e-9))
    assert [solution.c for solution in path] == [1e-3, 1.0, 1e2]
    for solution in path:
        reference = LogisticRegression(C=solution.c, tol=1e-10, max_iter=20000).fit(
            features.double().numpy(), labels.numpy()
        )
        np.testing.assert_allclose(solution.weight, reference.coef_, rtol=1e-4, atol=1e-4)
        assert solution.gradient_norm < 1e-7


def test_with_two_classes_the_path_is_scikit_learns_solution_at_the_same_c():
    features, labels = problem()
    labels = labels // 2
    for solution in regularisation_path(features, labels, 2, (1e-3, 1.0, 1e2), max_iterations=2000, tolerance=1e-9):
        reference = LogisticRegression(C=solution.c, tol=1e-10, max_iter=20000).fit(
            features.double().numpy(), labels.numpy()
        )
        weight, bias = solution.weight[1] - solution.weight[0], solution.bias[1] - solution.bias[0]
        np.testing.assert_allclose(weight, reference.coef_[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(bias, reference.intercept_[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "make", "arguments"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", torch.optim.SGD, {"momentum": 0.5, "dampening": 0.1}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-7}),
    ],
)
def test_many_probes_are_each_the_one_trained_alone(kind, make, arguments):
    features, labels = problem()
    rates = [
        ProbeRates(kind, lr, decay, 0.0, smoothing, **arguments)
        for lr in (0.1, 0.01) for decay in (0.0, 0.1) for smoothing in (0.0, 0.1)
    ]  # fmt: skip
    numbers = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(8, 4, 8, generator=numbers), torch.randn(8, 4, generator=numbers)
    many = ManyProbes(weight, bias, rates)
    alone = [(weight[p].clone().requires_grad_(), bias[p].clone().requires_grad_()) for p in range(8)]
    optimizers = [
        make(
            [{"params": [w], "weight_decay": rate.weight_decay}, {"params": [b], "weight_decay": 0.0}],
            lr=rate.lr,
            **arguments,
        )
        for (w, b), rate in zip(alone, rates, strict=True)
    ]
    for step in range(12):
        rows = slice(step * 10, step * 10 + 10)
        losses, _ = many.step(features[rows], labels[rows], torch.full((8,), 0.9**step))
        for (w, b), optimizer, rate, seen in zip(alone, optimizers, rates, losses, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate.lr * 0.9**step
            optimizer.zero_grad()
            loss = F.cross_entropy(features[rows] @ w.t() + b, labels[rows], label_smoothing=rate.label_smoothing)
            loss.backward()
            optimizer.step()
            assert seen.item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
    for p, (w, b) in enumerate(alone):
        torch.testing.assert_close(many.weight[p], w.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(many.bias[p], b.detach(), rtol=1e-4, atol=1e-5)


def test_a_run_on_the_path_chooses_c_on_validation(train):
    record = train(*PATH)
    assert [row["c"] for row in record.history] == pytest.approx([1e-3, 1e-1, 1e1, 1e3])
    assert record.selection.value == max(row["val/top1"] for row in record.history)
    chosen = record.history[record.selection.epoch]
    session = Session()
    plan = plan_run(record.config, (), session)
    model = build_model(RunContext(plan, session))
    body = TransferModel(model.backbone, torch.nn.Identity(), (0.0,) * 3, (1.0,) * 3)
    body.pixel_mean, body.pixel_scale = model.pixel_mean, model.pixel_scale
    images = plan.splits.train.images
    rows = plan.splits.train.indices
    with torch.no_grad():
        features = body.eval()(torch.stack([plan.transform.decode(images.read(row)) for row in rows]))
    reference = LogisticRegression(C=chosen["c"], tol=1e-9, max_iter=50000).fit(
        features.double().numpy(), images.targets[rows]
    )
    head = load_file(f"outputs/runs/{record.identity}/best.safetensors")
    assert set(head) == {"head.weight", "head.bias"}
    assert np.abs(reference.coef_ - head["head.weight"].numpy()).max() < 1e-3 * np.abs(reference.coef_).max() + 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("freeze_policy=full", "it needs freeze_policy=linear_probe"),
        ("head=mlp", "it needs head=linear without dropout"),
        ("transform=flip_crop", "no augmentation"),
    ],
)
def test_a_path_needs_a_linear_probe(thawline, override, message):
    result = thawline("train", *TINY, *PATH, override, "transform.size=32")
    assert result.status == 2
    assert message in result.err


def test_a_packed_sweep_gives_the_records_of_its_runs_alone(thawline, tmp_path, monkeypatch):
    grid = (
        "freeze_policy=linear_probe", "data_seed=0", "optimizer.lr=0.01,0.1", "optimizer.weight_decay=0,0.1",
        "loss.label_smoothing=0.2",
    )  # fmt: skip
    assert thawline("train", "-m", *TINY, *grid, "sweep.report=false").status == 0
    packed = {folder.name: load_record(folder) for folder in records()}
    assert {record.phases[0].thaw_line.packed for record in packed.values()} == {4}
    for record in packed.values():
        overrides = [item for item in record.overrides if not item.startswith(("output_dir", "sweep"))]
        assert thawline("train", *overrides, "output_dir=alone").status == 0
        alone = load_record(tmp_path / "alone" / "runs" / record.identity)
        assert alone.phases[0].thaw_line.packed == 1
        assert [set(row) for row in alone.history] == [set(row) for row in record.history]
        for row, other in zip(alone.history, record.history, strict=True):
            for key in row.keys() - {"seconds", "phase"}:
                assert row[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key
        for part, values in alone.metrics.items():
            assert record.metrics[part] == pytest.approx(values, rel=1e-4, abs=1e-5)
        one, other = (load_file(f"{root}/runs/{record.identity}/best.safetensors") for root in ("alone", "outputs"))
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)
