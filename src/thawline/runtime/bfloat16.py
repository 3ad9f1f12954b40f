"""Whether the CPU has instructions for bfloat16, and which."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Instructions = Literal["amx", "avx512_bf16", "arm_bf16", "none", "unknown"]
"""The fastest that there are. `none`: products in bfloat16 are computed by others, more slowly than in float32."""

_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def bfloat16_instructions() -> Instructions:
    """Those of this machine, as torch knows them, or else as Linux lists them; `unknown` where neither says."""
    import torch

    # Torch 2.6 has not got it yet.
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return of_capabilities(capabilities())
    return of_cpuinfo(_CPUINFO.read_text()) if _CPUINFO.exists() else "unknown"


def of_capabilities(found: Mapping[str, Any]) -> Instructions:
    """By the mapping of ``torch.cpu.get_capabilities``."""
    if found.get("amx_tile") and found.get("amx_bf16"):
        return "amx"
    if found.get("avx512_bf16"):
        return "avx512_bf16"
    return "arm_bf16" if found.get("bf16") else "none"


def of_cpuinfo(text: str) -> Instructions:
    """By the text of ``/proc/cpuinfo``: its ``flags`` (x86) or ``Features`` (Arm)."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return of_capabilities(dict.fromkeys(value.split(), True))
    return "unknown"
