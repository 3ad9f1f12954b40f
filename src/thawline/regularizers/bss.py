"""Batch spectral shrinkage: the smallest singular values of a batch's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from pydantic import Field, field_validator

from thawline.network import Network
from thawline.regularizers.regularizer import Context, Need, Term, TrainingStep
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class BSS(Spec):
    """Batch spectral shrinkage: ``sum of the k smallest sigma_i²``, sigma = singular values of F (B, D).

    Chen et al. 2019, "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
    Learning"; weight eta = 1e-3 and k = 1 are theirs. F holds the head's input of the whole batch, of all devices
    together; it has min(B, D) singular values, and the sum is not divided by anything. With ``k: all`` it is ``‖F‖²``.
    The gradient, ``2 U_k diag(sigma_k) V_k'``, is finite at repeated and at zero singular values: no singular vector is
    differentiated.
    """

    weight: Weight
    k: int | Literal["all"] = Field(default=1)

    @field_validator("k")
    @classmethod
    def _positive(cls, k: int | Literal["all"]) -> int | Literal["all"]:
        if k != "all" and k < 1:
            raise ValueError("must be 1 or more, or all")
        return k

    @property
    def reads_vector(self) -> bool:
        """It does."""
        return True

    @property
    def needs(self) -> frozenset[Need]:
        """The features."""
        return frozenset({"forward"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """Every network has features."""

    def attach(self, context: Context) -> Term:
        """The term of a phase."""

        def value(step: TrainingStep) -> Tensor:
            return smallest_squares(step.whole_batch(context.observer.features), self.k)

        return Term(value)


def smallest_squares(features: Tensor, k: int | Literal["all"]) -> Tensor:
    """The sum of the `k` smallest squared singular values of `features` (B, D); of all, where there are fewer."""
    import torch

    from thawline.regularizers.observation import wide

    values: Tensor = torch.linalg.svdvals(wide(features))
    kept = values if k == "all" else values[-k:]
    return kept.square().sum()
