"""bfloat16 on a CPU: training steps against those in float32."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.images import REPOSITORY
from benchmarks.measure import cost_of

TITLE = "Half precision on a CPU"
SETUPS = (
    ("resnet18", 224),
    ("vit_tiny_patch16_224", 224),
    ("mobilenetv3_small_100", 224),
    ("resnet18", 64),
    ("vit_tiny_patch16_224", 64),
)
_WAYS = {
    "float32": ["trainer.precision=32-true"],
    "float32, channels last": ["trainer.precision=32-true", "trainer.channels_last=true"],
    "bf16-mixed": ["trainer.precision=bf16-mixed"],
}
_BATCH, _SECONDS = 32, 25.0
_INSTRUCTIONS = {"amx": "AMX", "avx512_bf16": "AVX512-BF16", "arm_bf16": "Arm's BF16"}
TITLES = [TITLE, *(f"{TITLE} with {name}" for name in _INSTRUCTIONS.values())]
"""One for each kind of CPU, so that the figures of several stand on the page."""


def half_section(place: Path, *, smoke: bool = False) -> tuple[str, list[str]]:
    """Measure all setups; one of `TITLES`, and the lines of the table.

    Args:
        place: a folder for what processes print.
        smoke: one small setup, a few steps: whether it runs.
    """
    script = str(REPOSITORY / "benchmarks" / "half_steps.py")
    measured = []
    for model, size in [("resnet18", 32)] if smoke else SETUPS:
        seconds = 0.0 if smoke else _SECONDS
        cost = cost_of([script, model, str(size), str(_BATCH), str(seconds), json.dumps(_WAYS)], place)
        measured.append((f"{model} at {size} px", json.loads(cost.output)))
    has = measured[0][1]["arithmetic"]["float32"]["bfloat16_instructions"]
    columns = [
        "network", *(f"{way}, CPU s" for way in _WAYS), "layout in bf16-mixed", "float32 / bf16-mixed",
        "float32, channels last / bf16-mixed", "rounds",
    ]  # fmt: skip
    title = f"{TITLE} with {_INSTRUCTIONS[has]}" if has in _INSTRUCTIONS else TITLE
    return title, [
        f"Steps of full fine-tuning in batches of {_BATCH}, with the layout that a run takes. CPU seconds of a step,",
        "the median of the rounds. A round takes a step of each kind in turn; the ratios are the medians of those",
        "within a round, with their range.",
        "",
        f"| {' | '.join(columns)} |",
        "|---|" + "---:|" * len(_WAYS) + "---|---:|---:|---:|",
        *(_line(name, found) for name, found in measured),
    ]


def _line(name: str, found: Mapping[str, Any]) -> str:
    plain, last, half = (found["seconds"][way] for way in _WAYS)
    layout = "channels last" if found["arithmetic"]["bf16-mixed"]["channels_last"] else "channels first"
    medians = [f"{statistics.median(seconds):.3f}" for seconds in (plain, last, half)]
    return f"| {' | '.join([name, *medians, layout, _ratio(plain, half), _ratio(last, half), str(len(half))])} |"


def _ratio(one: Sequence[float], other: Sequence[float]) -> str:
    """The median of the ratios of pairs, with their range."""
    pairs = sorted(a / b for a, b in zip(one, other, strict=True))
    return f"{statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})"
