"""thawline: how many layers to unfreeze, and which transfer strategy is best, answered with evidence."""

__version__ = "0.1.0"
