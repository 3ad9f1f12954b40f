"""The optimizer and its parameter groups: what is decayed, which learning rate each layer group gets, and its state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from pydantic import Field, model_validator

from thawline.network import Network
from thawline.specs import Component, check_arguments, import_class, waits

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer

States = Mapping[str, Mapping[str, Any]]
"""What an optimizer remembers of each parameter, by the parameter's name."""


@final
class Optimizer(Component):
    """A class of ``torch.optim`` (``_target_`` and its arguments) with the rates of its parameter groups.

    Layer groups and head train with the factors that they are given (`thawline.optimization.learning_rates`). A factor
    is multiplied into each group's ``lr``, so every scheduler keeps it.

    Attributes:
        lr: learning rate; the scheduler and the factors of layer groups and head multiply it.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW.
        weight_decay_on_norm_and_bias: decay norms and biases, too, which are usually left alone.
    """

    lr: float = Field(gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    weight_decay_on_norm_and_bias: bool = False

    @model_validator(mode="after")
    def _is_an_optimizer(self) -> Optimizer:
        if waits(self.target):
            return self
        from torch.optim import Optimizer as TorchOptimizer

        if not issubclass(import_class(self.target), TorchOptimizer):
            raise ValueError(f"{self.target} is not an optimizer of torch.optim")
        check_arguments(self.target, {"lr": self.lr, "weight_decay": self.weight_decay})
        return self

    def build(
        self,
        parameters: Mapping[str, nn.Parameter],
        network: Network,
        *,
        lr_multiplier: float = 1.0,
        by_depth: Sequence[float] | None = None,
        head: float = 1.0,
        states: States | None = None,
        may_fuse: bool = True,
    ) -> TorchOptimizer:
        """The optimizer over the trainable `parameters` (by full name), each in exactly one group.

        Args:
            parameters: what trains.
            network: the layer groups and kinds of the names.
            lr_multiplier: a factor on every rate.
            by_depth: a factor on the rate of each layer group, from input to output; None: one group for all.
            head: a factor on the rate of the head.
            states: what an optimizer of the same class remembers of some of the parameters (`states_of`).
            may_fuse: whether one kernel may take the step of all parameters.
        """
        groups = self.parameter_groups(parameters, network, lr_multiplier, by_depth, head)
        for group in groups:
            group["params"] = [parameters[name] for name in group["params"]]
        known = {name: state for name, state in (states or {}).items() if name in parameters}
        # A fused kernel takes a group whose parameters have all been stepped before, or none of them.
        fused = {} if 0 < len(known) < len(parameters) else self._fused(parameters, may_fuse=may_fuse)
        built: TorchOptimizer = import_class(self.target)(
            groups, lr=self.lr, weight_decay=self.weight_decay, **{**self.arguments, **fused}
        )
        for name, state in known.items():
            built.state[parameters[name]] = _copied(state)
        return built

    def parameter_groups(
        self,
        names: Collection[str],
        network: Network,
        lr_multiplier: float = 1.0,
        by_depth: Sequence[float] | None = None,
        head: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Groups of parameter names, from input to output, each with its ``part``, ``lr`` and ``weight_decay``."""
        groups: list[dict[str, Any]] = []
        for part, members, factor in _parts(network, by_depth, head):
            lr = self.lr * factor * lr_multiplier
            kept = [name for name in members if name in names]
            plain = [name for name in kept if self._undecayed(name, network)]
            decayed = [name for name in kept if not self._undecayed(name, network)]
            for label, chosen, decay in ((part, decayed, self.weight_decay), (f"{part} (no decay)", plain, 0.0)):
                if chosen:
                    groups.append({"name": label, "part": part, "params": chosen, "lr": lr, "weight_decay": decay})
        return groups

    def _undecayed(self, name: str, network: Network) -> bool:
        if self.weight_decay == 0.0 or self.weight_decay_on_norm_and_bias:
            return False
        return name in network.norms or name in network.biases

    def _fused(self, parameters: Mapping[str, nn.Parameter], *, may_fuse: bool) -> dict[str, bool]:
        """One fused kernel for all tensors of a step where the class has one: the same update, fewer launches."""
        import inspect

        takes = inspect.signature(import_class(self.target)).parameters
        if not may_fuse:
            return {"fused": False} if "fused" in takes else {}
        chosen = "foreach" in self.arguments or "fused" in self.arguments
        # torch fuses no step of every class for weights that are sharded (DTensor).
        fusible = all(p.is_floating_point() and not hasattr(p, "full_tensor") for p in parameters.values())
        return {"fused": True} if "fused" in takes and fusible and not chosen else {}


def states_of(optimizer: TorchOptimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    """A copy of what `optimizer` remembers of each of the `parameters` (by name): momentum, second moments, steps."""
    return {name: _copied(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state}


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    from torch import Tensor

    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def _parts(network: Network, by_depth: Sequence[float] | None, head: float) -> list[tuple[str, tuple[str, ...], float]]:
    """What trains at a rate of its own: its name, its parameters, and the factor on the rate."""
    backbone = [("backbone", network.backbone, 1.0)]
    if by_depth is not None:
        backbone = [(g.name, g.parameters, factor) for g, factor in zip(network.groups, by_depth, strict=True)]
    return [*backbone, ("adapter", network.adapter, 1.0), ("head", network.head, head)]
