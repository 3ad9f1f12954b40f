"""Metrics over test images: of each image where a metric is their mean, and of resampled images where it is none."""

from thawline.evaluation.images.values import ImageValues, image_values
from thawline.evaluation.images.weights import RESAMPLES, image_weights

__all__ = ["RESAMPLES", "ImageValues", "image_values", "image_weights"]
