"""Stochastic normalization: batch norms that now and then normalise by what they have seen before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from pydantic import Field

from thawline.errors import usage_error
from thawline.network import Network
from thawline.regularizers.regularizer import Context, Need, Term
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class StochNorm(Spec):
    """In training, each channel of a batch norm is normalised by batch statistics or by running ones.

    ``y_c = s_c BN_batch(x)_c + (1 - s_c) BN_running(x)_c`` for x (B, C, ...), s_c = 1 with probability p, drawn for
    each channel, layer and step. Kou et al. 2020, "Stochastic Normalization"; p = 0.5. The running branch uses the
    statistics as they were before this batch, which then updates them as in every batch norm (the order of the authors'
    code).

    It adds no term to the loss. Two hooks on each batch norm compute the second branch and put the channels together,
    so modules, parameters and state-dict names stay those of the plain model; activations and dropouts that a library
    fuses into its batch norm act on both branches (elementwise, so that putting together before or after is the same).
    With p = 1 every channel takes the first branch, which is the layer's own output: plain batch norm, bit for bit.
    Evaluation is that of batch norm, and so is a frozen batch norm.
    """

    p: float = Field(default=0.5, ge=0.0, le=1.0)

    @property
    def weight(self) -> Weight | None:
        """It has no term."""
        return None

    @property
    def needs(self) -> frozenset[Need]:
        """The forward pass, in which it acts."""
        return frozenset({"forward"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """The backbone has batch norms."""
        if not _batch_norms(backbone):
            raise usage_error(field, "this backbone has no batch norm with running statistics")

    def attach(self, context: Context) -> Term:
        """Change the batch norms of the model until the phase ends."""
        norms = _batch_norms(context.model)
        handles: list[Any] = []
        for norm in norms:
            before, after = _hooks(self.p)
            handles += [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return Term(remove=remove, report={"batch_norms": len(norms)})


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms that keep running statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def _hooks(p: float) -> tuple[Callable[..., None], Callable[..., Any]]:
    """The hooks before and after the forward pass of one batch norm."""
    import torch

    running: list[Tensor] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        running.clear()
        if module.training:
            module.eval()
            try:
                running.append(module.forward(*inputs))
            finally:
                module.train()

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Any:
        if not running:
            return None
        by_batch = torch.rand(output.shape[1], device=output.device) < p
        return torch.where(by_batch.view(1, -1, *([1] * (output.ndim - 2))), output, running.pop())

    return before, after
