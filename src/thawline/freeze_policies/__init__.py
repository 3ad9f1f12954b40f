"""Freeze policies: which parameters train, and when. Adding one is a small final class and a yaml."""

from thawline.freeze_policies.policy import FreezePolicy, Phase
from thawline.freeze_policies.static import (
    BiasOnly,
    Blocks,
    ConvolutionsFrozen,
    FirstK,
    FullFineTuning,
    LastK,
    LinearProbe,
    NormOnly,
    Pattern,
)

__all__ = [
    "BiasOnly",
    "Blocks",
    "ConvolutionsFrozen",
    "FirstK",
    "FreezePolicy",
    "FullFineTuning",
    "LastK",
    "LinearProbe",
    "NormOnly",
    "Pattern",
    "Phase",
]
