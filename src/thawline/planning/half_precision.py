"""Whether bfloat16 makes a run on a CPU faster, by what was measured of networks of its kind (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from thawline.planning.devices import device_of

if TYPE_CHECKING:
    from torch import nn

    from thawline.planning.plan import Plan
    from thawline.runtime.bfloat16 import Instructions

Family = Literal["convolutions", "depthwise convolutions", "transformer blocks"]
"""What a network computes mostly, or what of it is slow in bfloat16."""

_LARGE, _SMALL = 160, 96
"""Pixels: from the one size on, and up to the other, what was measured at 224 and at 64 pixels is taken to hold."""

_TIMES_AS_FAST: Mapping[tuple[Instructions, Family], float] = {
    ("amx", "convolutions"): 2.5,
    ("amx", "transformer blocks"): 1.6,
    ("avx512_bf16", "convolutions"): 2.3,
    ("avx512_bf16", "transformer blocks"): 1.4,
}
"""Steps of full fine-tuning at 224 pixels, ResNet-18 and ViT-tiny; what is not here was not measured."""

_WORTH_IT = 1.3
_MEASURED = frozenset({"amx", "avx512_bf16"})
_NAMES = {"amx": "AMX", "avx512_bf16": "AVX512-BF16", "arm_bf16": "BF16 of Arm"}


def advice(plan: Plan, backbone: nn.Module, has: Instructions) -> str:
    """What a run in float32 would gain on this CPU in bfloat16, with the override to type; empty: nothing is known.

    Args:
        plan: the run.
        backbone: its network.
        has: the CPU's instructions for bfloat16.
    """
    if plan.settings.trainer.precision != "32-true" or not _trains_on_cpu(plan):
        return ""
    family, pixels = family_of(backbone), min(plan.transform.output_size)
    factor = _TIMES_AS_FAST.get((has, family), 1.0)
    head_alone = all(phase.trainable <= set(plan.network.head) for phase in plan.phases)
    if factor < _WORTH_IT or pixels < _LARGE or head_alone:
        return ""
    return (
        f"this CPU has {_NAMES[has]}: {family} train about {factor:g} times as fast at {pixels} pixels with "
        "trainer.precision=bf16-mixed; its numbers are others, so take it for all runs that you compare"
    )


def caution(plan: Plan, backbone: nn.Module, has: Instructions) -> str:
    """Why a run in bfloat16 is no faster on this CPU than in float32, or slower; empty: it is faster, or not known.

    The arguments are those of `advice`.
    """
    if plan.settings.trainer.precision != "bf16-mixed" or not _trains_on_cpu(plan):
        return ""
    pixels = min(plan.transform.output_size)
    if has == "none":
        because = "this CPU has no instructions for bfloat16, so that it is slower than float32"
    elif has not in _MEASURED:
        return ""
    elif family_of(backbone) == "depthwise convolutions":
        because = "depthwise convolutions are slower on a CPU in bfloat16"
    elif has == "amx" and pixels <= _SMALL:
        because = f"on a CPU bfloat16 gains nothing with images of {pixels} pixels"
    else:
        return ""
    return f"trainer.precision=bf16-mixed: {because}; take trainer.precision=32-true"


def family_of(backbone: nn.Module) -> Family:
    """By its layers: whether a convolution is depthwise, and whether there are more convolutions or linear layers."""
    from torch import nn

    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    if any(is_depthwise(module) for module in convolutions):
        return "depthwise convolutions"
    linear = sum(isinstance(module, nn.Linear) for module in backbone.modules())
    return "convolutions" if len(convolutions) > linear else "transformer blocks"


def is_depthwise(convolution: nn.Conv2d) -> bool:
    """Whether each channel is convolved on its own."""
    return convolution.groups == convolution.in_channels > 1


def _trains_on_cpu(plan: Plan) -> bool:
    return device_of(plan.settings).type == "cpu" and plan.settings.average is None
