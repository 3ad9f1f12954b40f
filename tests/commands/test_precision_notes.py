"""What a command says of bfloat16 on this CPU: where it would pay, where it does not; once, before the runs start."""

from __future__ import annotations

import pytest
from benchmarks.load import Stub

from tests.conftest import TINY
from thawline.execution import run as experiment
from thawline.runtime import bfloat16

HALF = "trainer.precision=bf16-mixed"
FULL = ("freeze_policy=full", "sweep.report=false", "-m", "seed=0,1")
LARGE = "transform.size=224"
TOLD = (
    "this CPU has {}: {} train about {} times as fast at 224 pixels with trainer.precision=bf16-mixed; its numbers are "
    "others, so take it for all runs that you compare"
)
WHY = {
    "none": "this CPU has no instructions for bfloat16, so that it is slower than float32",
    "depthwise": "depthwise convolutions are slower on a CPU in bfloat16",
    "small": "on a CPU bfloat16 gains nothing with images of 32 pixels",
}


@pytest.fixture
def said(thawline, monkeypatch):
    """What a sweep of two runs says of precision, on standard output and standard error; nothing is trained."""
    monkeypatch.setattr(experiment, "execute", Stub())

    def run(has: str, *overrides: str) -> tuple[list[str], list[str]]:
        monkeypatch.setattr(bfloat16, "bfloat16_instructions", lambda: has)
        result = thawline("train", *TINY, *FULL, *overrides)
        assert result.status == 0, result.err
        found = [
            [line.removeprefix(label) for line in text.splitlines() if line.startswith(label) and "bf16" in line]
            for label, text in (("faster: ", result.out), ("warning: ", result.err))
        ]
        return found[0], found[1]

    return run


@pytest.mark.parametrize(
    ("has", "backbone", "told"),
    [
        ("amx", "test_resnet", ("AMX", "convolutions", "2.5")),
        ("amx", "test_vit", ("AMX", "transformer blocks", "1.6")),
        ("avx512_bf16", "test_resnet", ("AVX512-BF16", "convolutions", "2.3")),
        ("avx512_bf16", "test_vit", ("AVX512-BF16", "transformer blocks", "1.4")),
    ],
)
def test_where_bfloat16_pays_the_override_is_told_once(said, has, backbone, told):
    size = (f"backbone={backbone}", *(["backbone.input_size=224"] if backbone == "test_vit" else []), LARGE)
    assert said(has, *size) == ([TOLD.format(*told)], [])
    # Nothing is left to run.
    assert said(has, *size) == ([], [])


@pytest.mark.parametrize(
    ("has", "overrides"),
    [
        ("amx", ()),  # images of 32 pixels
        ("amx", (LARGE, HALF)),
        ("amx", (LARGE, "backbone=test_efficientnet")),
        ("amx", (LARGE, "freeze_policy=linear_probe")),
        ("none", (LARGE,)),
        ("unknown", (LARGE,)),
        ("unknown", (LARGE, HALF)),
        ("unknown", (HALF,)),
        ("avx512_bf16", ()),
        ("avx512_bf16", (HALF,)),
    ],
)
def test_elsewhere_nothing_is_said(said, has, overrides):
    assert said(has, *overrides) == ([], [])


@pytest.mark.parametrize(
    ("has", "overrides", "why"),
    [
        ("none", (LARGE, HALF), "none"),
        ("avx512_bf16", (LARGE, HALF, "backbone=test_efficientnet"), "depthwise"),
        ("amx", (LARGE, HALF, "backbone=test_efficientnet"), "depthwise"),
        ("amx", (HALF,), "small"),
    ],
)
def test_where_bfloat16_does_not_pay_a_warning_says_why(said, has, overrides, why):
    expected = f"trainer.precision=bf16-mixed: {WHY[why]}; take trainer.precision=32-true"
    assert said(has, *overrides) == ([], [expected])
