"""The optimizer and its parameter groups: what is decayed, and which learning rate each layer group gets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, final

from pydantic import Field, model_validator

from thawline.network import Network
from thawline.specs import Component, check_arguments, import_class

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@final
class Optimizer(Component):
    """A class of ``torch.optim`` (``_target_`` and its arguments) with the rates of its parameter groups.

    A layer group i of n trains with ``lr * layer_decay ** (n - i)``, the head (i = n) with ``lr *
    head_lr_multiplier``. The factor is multiplied into each group's ``lr``, so every scheduler keeps it. Norms and
    biases are not decayed unless `weight_decay_on_norm_and_bias`.
    """

    lr: float = Field(gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    head_lr_multiplier: float = Field(default=1.0, gt=0.0)
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    weight_decay_on_norm_and_bias: bool = False

    @model_validator(mode="after")
    def _is_an_optimizer(self) -> Optimizer:
        from torch.optim import Optimizer as TorchOptimizer

        if not issubclass(import_class(self.target), TorchOptimizer):
            raise ValueError(f"{self.target} is not an optimizer of torch.optim")
        check_arguments(self.target, {"lr": self.lr, "weight_decay": self.weight_decay})
        return self

    def build(
        self, parameters: Mapping[str, nn.Parameter], network: Network, *, lr_multiplier: float = 1.0
    ) -> TorchOptimizer:
        """The optimizer over the trainable `parameters` (by full name), each in exactly one group."""
        groups = self.parameter_groups(parameters, network, lr_multiplier)
        for group in groups:
            group["params"] = [parameters[name] for name in group["params"]]
        keywords = self._fused(parameters)
        built: TorchOptimizer = import_class(self.target)(
            groups, lr=self.lr, weight_decay=self.weight_decay, **{**keywords, **self.arguments}
        )
        return built

    def parameter_groups(self, names: Collection[str], network: Network, lr_multiplier: float) -> list[dict[str, Any]]:
        """Groups of parameter names with their ``lr`` and ``weight_decay``, from input to output."""
        groups: list[dict[str, Any]] = []
        n = len(network.groups)
        places = [(group.name, group.parameters, self.layer_decay ** (n - group.index)) for group in network.groups]
        if self.layer_decay == 1.0:
            places = [("backbone", network.backbone, 1.0)]
        for place, members, factor in [*places, ("head", network.head, self.head_lr_multiplier)]:
            lr = self.lr * factor * lr_multiplier
            kept = [name for name in members if name in names]
            plain = [name for name in kept if self._undecayed(name, network)]
            decayed = [name for name in kept if not self._undecayed(name, network)]
            for label, chosen, decay in ((place, decayed, self.weight_decay), (f"{place} (no decay)", plain, 0.0)):
                if chosen:
                    groups.append({"name": label, "params": chosen, "lr": lr, "weight_decay": decay})
        return groups

    def _undecayed(self, name: str, network: Network) -> bool:
        if self.weight_decay == 0.0 or self.weight_decay_on_norm_and_bias:
            return False
        return name in network.norms or name in network.biases

    def _fused(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, bool]:
        """One fused kernel for all tensors of a step where the class has one: the same update, fewer launches."""
        import inspect

        takes = inspect.signature(import_class(self.target)).parameters
        chosen = "foreach" in self.arguments or "fused" in self.arguments
        floating = all(parameter.is_floating_point() for parameter in parameters.values())
        return {"fused": True} if "fused" in takes and floating and not chosen else {}
