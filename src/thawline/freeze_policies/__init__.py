"""Freeze policies: which parameters train, and when. Adding one is a small final class and a yaml."""

from thawline.freeze_policies.over_time import LPFT, FreezeThenUnfreeze, GradualUnfreezing, Phases
from thawline.freeze_policies.policy import CountedFrom, CountsLayerGroups, FreezePolicy, Phase
from thawline.freeze_policies.static import (
    BiasOnly,
    Blocks,
    ConvolutionsFrozen,
    FirstK,
    FullFineTuning,
    LastK,
    LinearProbe,
    NormOnly,
    OneBlock,
    Pattern,
)

__all__ = [
    "LPFT",
    "BiasOnly",
    "Blocks",
    "ConvolutionsFrozen",
    "CountedFrom",
    "CountsLayerGroups",
    "FirstK",
    "FreezePolicy",
    "FreezeThenUnfreeze",
    "FullFineTuning",
    "GradualUnfreezing",
    "LastK",
    "LinearProbe",
    "NormOnly",
    "OneBlock",
    "Pattern",
    "Phase",
    "Phases",
]
