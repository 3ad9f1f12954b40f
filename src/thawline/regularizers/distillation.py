"""Distillation from the source: the model still gives the source's answers on the target's images."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pydantic import Field

from thawline.network import Network
from thawline.regularizers.regularizer import Context, Need, Term, TrainingStep
from thawline.regularizers.source_head import require_source_classifier, source_head
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class Distillation(Spec):
    """Learning without forgetting: ``KL(p0 ‖ p)``, averaged over the batch; p0 = softmax(z0/T), p = softmax(z/T).

    z (B, source classes) are the logits of the source's classifier on the model's features as they train; z0 those of
    the untouched source, in eval mode, on the same images. Li & Hoiem 2016, "Learning without Forgetting". The loss,
    its weight lambda = 4 and T = 3 are the Transfer Learning Library's, which has no factor T². Hinton et al. 2015
    multiply by T², so that the gradient's scale does not depend on T: a lambda for their form is T² times larger here.

    The classifier behind z starts as the source's and trains along, as in the paper, unless `train_source_head` is
    false. The value is 0 at the start where the model in training mode computes what it computes in evaluation: batch
    norms in training mode make it positive at once.
    """

    weight: Weight
    temperature: float = Field(default=3.0, gt=0.0)
    train_source_head: bool = True

    @property
    def reads_vector(self) -> bool:
        """It does."""
        return True

    @property
    def needs(self) -> frozenset[Need]:
        """The features of the model and of the source."""
        return frozenset({"forward", "source"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """The source has a classifier."""
        require_source_classifier(field, present=source_classifier)

    def attach(self, context: Context) -> Term:
        """The term of a phase."""
        import torch

        source, observer, field = context.origin, context.observer, f"regularizer.{context.name}"
        device = context.device
        fixed = source_head(context.source_classifier, field, trainable=False).to(device, context.dtype)
        kept = source_head(context.source_classifier, field, trainable=self.train_source_head).to(device)

        def value(step: TrainingStep) -> Tensor:
            source.look(step.seen)
            with torch.no_grad():
                target = fixed(source.features)
            return divergence(target, kept(observer.features), self.temperature)

        return Term(value, auxiliary=kept)


def divergence(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(target / T) ‖ softmax(logits / T))`` of logits (B, C), averaged over the batch."""
    from torch.nn import functional as F

    from thawline.regularizers.observation import wide

    ours = (wide(logits) / temperature).log_softmax(dim=1)
    theirs = (wide(target) / temperature).log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
