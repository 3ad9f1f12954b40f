"""The source's own classifier, kept beside the new head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thawline.errors import usage_error

if TYPE_CHECKING:
    from torch import nn

    from thawline.network import SourceClassifier

_NO_CLASSIFIER = (
    "these source weights have no linear classifier on the features, and the regularizer keeps it; "
    "take pretrained weights with their classifier, or a source run"
)


def require_source_classifier(field: str, *, present: bool) -> None:
    """Raise `UsageError` where the source weights have no linear classifier."""
    if not present:
        raise usage_error(field, _NO_CLASSIFIER)


def source_head(classifier: SourceClassifier | None, field: str, *, trainable: bool) -> nn.Linear:
    """A copy of the source's classifier: features (B, D) -> logits (B, source classes)."""
    import torch
    from torch import nn

    if classifier is None:
        raise usage_error(field, _NO_CLASSIFIER)
    classes, width = classifier.weight.shape
    head = nn.Linear(width, classes)
    with torch.no_grad():
        head.weight.copy_(classifier.weight)
        head.bias.copy_(torch.zeros(classes) if classifier.bias is None else classifier.bias)
    return head.requires_grad_(trainable)
