"""Regression: one number for each image."""

from thawline.tasks.regression.task import Regression

__all__ = ["Regression"]
