"""Regularizers of the parameters alone: they need no forward pass, so a phase may run on stored values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from thawline.network import Network
from thawline.regularizers.regularizer import Context, Need, Term, TrainingStep
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class L2(Spec):
    """Decay: ``1/2 ‖w‖²``, the sum of squares over the trainable parameters w of backbone, head or both.

    Its gradient is ``w``: with plain SGD the weight is SGD's ``weight_decay``; unlike AdamW's it goes through the
    optimizer's moments. `over` says which part; without `norms_and_biases` weights alone are decayed. An adapter's
    parameters belong to the backbone. Nothing depends on the batch.
    """

    weight: Weight
    over: Literal["all", "backbone", "head"] = "all"
    norms_and_biases: bool = True

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the parameters."""
        return frozenset()

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """Every network has parameters."""

    def attach(self, context: Context) -> Term:
        """The term of a phase."""
        chosen = _trainable(context, self.over, norms_and_biases=self.norms_and_biases)

        def value(step: TrainingStep) -> Tensor:
            return _half_squares(list(chosen.values()), step)

        return Term(value)


@final
class L2SP(Spec):
    """Decay towards the source: ``1/2 ‖w - w0‖²``, over the trainable parameters w of the backbone.

    Li, Grandvalet & Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks". `w0` are
    the values that the run started from, in every phase. The weight is the paper's alpha (0.1); its beta (0.01), the
    decay of the head, is an `L2` beside it, as ``conf/regularizer/l2_sp.yaml`` composes it. The optimizer's own
    ``weight_decay`` pulls towards 0 as well; set it to 0. Without `norms_and_biases` weights alone are pulled, as in
    the authors' first code. Nothing depends on the batch.
    """

    weight: Weight
    norms_and_biases: bool = True

    @property
    def needs(self) -> frozenset[Need]:
        """The source's values."""
        return frozenset({"source"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """Every network has parameters."""

    def attach(self, context: Context) -> Term:
        """The term of a phase."""
        start = dict(context.origin.model.named_parameters())
        chosen = _trainable(context, "backbone", norms_and_biases=self.norms_and_biases)
        pairs = [(parameter, start[name]) for name, parameter in chosen.items()]

        def value(step: TrainingStep) -> Tensor:
            return _half_squares([parameter - origin for parameter, origin in pairs], step)

        return Term(value)


def _trainable(context: Context, over: str, *, norms_and_biases: bool) -> dict[str, nn.Parameter]:
    """The trainable parameters of the model, or of its child `over`, by full name."""
    network = context.network
    left_out = frozenset() if norms_and_biases else network.norms | network.biases
    return {
        name: parameter
        for name, parameter in context.model.named_parameters()
        if parameter.requires_grad and name not in left_out and over in ("all", name.split(".")[0])
    }


def _half_squares(tensors: list[Tensor], step: TrainingStep) -> Tensor:
    """Half the sum of squares of all entries, in float32 or better; 0 where there are none."""
    import torch

    wide = torch.promote_types(tensors[0].dtype, torch.float32) if tensors else torch.float32
    total = torch.zeros((), device=step.labels.device, dtype=wide)
    for tensor in tensors:
        total = total + tensor.to(wide).square().sum()
    return 0.5 * total
