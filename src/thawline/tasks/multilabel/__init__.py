"""Multi-label classification: each image has any number of classes."""

from thawline.tasks.multilabel.task import Multilabel

__all__ = ["Multilabel"]
