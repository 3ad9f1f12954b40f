"""BSS: the smallest singular values of the head's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.regularizers.bench import (
    ONE_STEP,
    first_row,
)
from thawline.execution.decoding import decoded_images
from thawline.execution.weights import build_model
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.regularizers.bss import smallest_squares


def test_bss_of_all_singular_values_is_the_squared_norm():
    features = torch.randn(6, 4, dtype=torch.float64)
    assert smallest_squares(features, "all").item() == pytest.approx(features.square().sum().item(), rel=1e-12)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    assert smallest_squares(features, 1).item() == pytest.approx(values[-1] ** 2, rel=1e-9)
    assert smallest_squares(features, 3).item() == pytest.approx((values[-3:] ** 2).sum(), rel=1e-9)
    assert smallest_squares(features, 9).item() == pytest.approx((values**2).sum(), rel=1e-9)


@pytest.mark.parametrize("features", [torch.eye(5, 8), torch.ones(4, 6), torch.zeros(3, 3), torch.ones(1, 4)])
def test_the_gradient_of_bss_is_finite_at_repeated_and_zero_singular_values(features):
    for k in (1, 2, "all"):
        leaf = features.clone().requires_grad_()
        smallest_squares(leaf, k).backward()
        assert torch.isfinite(leaf.grad).all()
    assert torch.allclose(leaf.grad, 2 * features, atol=1e-5)


def test_bss_reads_the_heads_input(train):
    fixed = ("freeze_policy=linear_probe", *ONE_STEP, "optimizer.weight_decay=0")
    record = train(*fixed, "regularizer=bss", "regularizer.bss.k=all")
    plan = plan_run(record.config, (), Session())
    run = RunContext(plan, Session())
    model = build_model(run).eval()
    images = decoded_images(run).read(plan.splits.train.indices)
    with torch.no_grad():
        features = model.backbone((images - model.pixel_mean) * model.pixel_scale)
    assert first_row(record)["train/bss"] == pytest.approx(features.square().sum().item(), rel=1e-4)
    # The backbone is frozen: the term is measured, and pulls at nothing.
    plain = train(*fixed)
    assert plain.metrics["test"]["loss"] == pytest.approx(record.metrics["test"]["loss"], rel=1e-5)
