"""Co-Tuning: the source's classifier learns along, from what the target's labels say of the source's classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from thawline.network import Network
from thawline.regularizers.regularizer import Context, Need, Samples, Term, TrainingStep
from thawline.regularizers.source_head import require_source_classifier, source_head
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thawline.regularizers.observation import Observer

_BATCH = 64
_STRENGTHS = (1e4, 3e3, 1e3, 3e2, 1e2, 3e1, 1e1, 3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)

Floats = NDArray[np.float64]


@final
class CoTuning(Spec):
    """``- sum_s R[y, s] log p_s(x)`` over the source classes s, averaged over the batch.

    p (B, source classes) is the softmax of the source's classifier on the model's features as they train; the
    classifier starts as the source's and trains along. R[y, s] = p(source class s | target label y). You et al. 2020,
    "Co-Tuning for Transfer Learning"; weight lambda = 2.3 is that of the authors' code.

    R (classes, source classes), whose rows sum to 1, is computed before training from the source's probabilities on
    the training and validation images without augmentation. `relation`: ``calibrated`` - p(y | s) from a logistic
    regression of the label on those probabilities (strength chosen, and scale calibrated, on validation), turned by
    Bayes' rule with the mean probabilities as p(s), as in the authors' code; ``direct`` - the mean probabilities of the
    images of each class.

    `logit_scale` calibrates the source's classifier first: 0.884 is the authors' for torchvision's ResNet-50.
    """

    TASKS: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    weight: Weight
    relation: Literal["calibrated", "direct"] = "calibrated"
    logit_scale: float = Field(default=1.0, gt=0.0)

    @property
    def needs(self) -> frozenset[Need]:
        """The features of the model and of the source; the relation is calibrated on validation."""
        return frozenset({"forward", "source", "validation"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """The source has a classifier."""
        require_source_classifier(field, present=source_classifier)

    def attach(self, context: Context) -> Term:
        """The term of a phase; computes the relation."""
        import torch

        field = f"regularizer.{context.name}"
        kept = source_head(context.source_classifier, field, trainable=True).to(context.device)
        key = f"CoTuning {self.relation} {self.logit_scale}"
        relation = context.remember(key, lambda: self._relation(context))
        table = torch.from_numpy(relation).float().to(context.device)

        def value(step: TrainingStep) -> Tensor:
            return soft_cross_entropy(table[step.labels], kept(context.observer.features))

        return Term(value, auxiliary=kept)

    def _relation(self, context: Context) -> Floats:
        head = source_head(context.source_classifier, context.name, trainable=False)
        head = head.to(context.device, context.dtype)
        train, val = (context.samples(split) for split in ("train", "val"))
        probabilities = [self._probabilities(context.origin, head, samples) for samples in (train, val)]
        labels = [train.labels, val.labels]
        if self.relation == "direct":
            return direct_relation(np.concatenate(probabilities), np.concatenate(labels), context.classes)
        return calibrated_relation(probabilities[0], labels[0], probabilities[1], labels[1], context.classes)

    def _probabilities(self, source: Observer, head: nn.Module, samples: Samples) -> Floats:
        """The source's probabilities (N, source classes) of every sample."""
        import torch

        parts = []
        with torch.no_grad():
            for start in range(0, len(samples.labels), _BATCH):
                source.look(samples.images(np.arange(start, min(start + _BATCH, len(samples.labels)))))
                parts.append((head(source.features).double() * self.logit_scale).softmax(dim=1))
        source.forget()
        found: Floats = torch.cat(parts).cpu().numpy()
        return found


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """``- sum_s target_s log softmax(logits)_s`` of (B, S), averaged over the batch."""
    from thawline.regularizers.observation import wide

    return -(target * wide(logits).log_softmax(dim=1)).sum(dim=1).mean()


def direct_relation(probabilities: Floats, labels: NDArray[Any], classes: int) -> Floats:
    """R (classes, S): the mean of `probabilities` (N, S) over the samples of each class."""
    return np.stack([probabilities[labels == label].mean(axis=0) for label in range(classes)])


def calibrated_relation(
    train: Floats, train_labels: NDArray[Any], val: Floats, val_labels: NDArray[Any], classes: int
) -> Floats:
    """R (classes, S) by the authors' calibrated approach, from source probabilities (N, S) of train and validation."""
    coefficients = _best_regression(train, train_labels, val, val_labels, classes)
    scale = _calibrated_scale(val @ coefficients, val_labels)
    marginal = np.concatenate([train, val]).mean(axis=0)
    # In logarithms: a class that no source class points to would otherwise be 0 / 0.
    joint = _log_softmax(coefficients * scale) + np.log(np.maximum(marginal, np.finfo(float).tiny))[:, None]
    return np.exp(_log_softmax(joint.T))


def _best_regression(
    train: Floats, train_labels: NDArray[Any], val: Floats, val_labels: NDArray[Any], classes: int
) -> Floats:
    """Coefficients (S, classes) of the logistic regression without intercept that is best on validation."""
    from sklearn.linear_model import LogisticRegression

    regressions = [
        LogisticRegression(C=strength, fit_intercept=False, max_iter=1000).fit(train, train_labels)
        for strength in _STRENGTHS
    ]
    best = max(regressions, key=lambda regression: float(regression.score(val, val_labels)))
    # Of two classes, scikit-learn keeps one row of coefficients: the second class's, against 0 for the first.
    rows = best.coef_ if len(best.coef_) > 1 else np.concatenate([np.zeros_like(best.coef_), best.coef_])
    coefficients = np.zeros((train.shape[1], classes))
    coefficients[:, best.classes_] = rows.T
    return coefficients


def _calibrated_scale(logits: Floats, labels: NDArray[Any]) -> float:
    """The factor on `logits` (N, classes) with the least mean cross-entropy."""
    from scipy.optimize import minimize

    def loss(scale: Floats) -> tuple[float, Floats]:
        log_p = _log_softmax(logits * scale[0])
        picked = np.arange(len(labels)), labels
        slope = (np.exp(log_p) * logits).sum(axis=1) - logits[picked]
        return float(-log_p[picked].mean()), np.array([slope.mean()])

    return float(minimize(loss, np.ones(1), jac=True, method="L-BFGS-B", bounds=[(0.0, None)]).x[0])


def _log_softmax(logits: Floats) -> Floats:
    """Log-probabilities along the last axis of (N, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p
