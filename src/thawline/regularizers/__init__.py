"""Regularizers: what pulls on weights, features or outputs. Adding one is a small final class and a yaml."""

from thawline.regularizers.bss import BSS
from thawline.regularizers.co_tuning import CoTuning
from thawline.regularizers.delta import DELTA
from thawline.regularizers.distillation import Distillation
from thawline.regularizers.feature_matching import FeatureMatching
from thawline.regularizers.parameters import L2, L2SP
from thawline.regularizers.regularizer import Context, Need, Regularizer, Samples, Teacher, Term, TrainingStep
from thawline.regularizers.stochastic_norm import StochNorm
from thawline.regularizers.weight import Weight

__all__ = [
    "BSS",
    "DELTA",
    "L2",
    "L2SP",
    "CoTuning",
    "Context",
    "Distillation",
    "FeatureMatching",
    "Need",
    "Regularizer",
    "Samples",
    "StochNorm",
    "Teacher",
    "Term",
    "TrainingStep",
    "Weight",
]
