"""Heads: what is put on the backbone's features for the target task.

A new one is a final class with `build`, and a yaml in ``conf/head``.
"""

from thawline.heads.classification import MLP, Linear, SourceRows
from thawline.heads.head import Head, strides_of

__all__ = ["MLP", "Head", "Linear", "SourceRows", "strides_of"]
