"""The model of every task: normalisation, backbone, head, and which of it is frozen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from thawline.layer_groups import LayerGroup
from thawline.network import Network


class TransferModel(nn.Module):
    """uint8 images (B, 3, H, W) -> normalise -> backbone -> features -> head -> outputs.

    Features are one vector (B, D), or a tuple of maps (B, C, H, W); what outputs are is the business of head and task.

    A frozen module, one whose subtree has parameters of which none trains, is in eval mode whatever ``train()`` says:
    its norms keep their running statistics and its dropouts are off. So is a norm whose own parameters are frozen,
    whatever an adapter has put into it.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("pixel_scale", 1.0 / (torch.tensor(std).view(1, -1, 1, 1) * 255.0), persistent=False)
        self._statistics_frozen = False

    pixel_mean: torch.Tensor
    pixel_scale: torch.Tensor

    def forward(self, images: torch.Tensor, targets: Any = None) -> Any:
        """Outputs of the head for uint8 images (B, 3, H, W); `targets` are for heads that train with them."""
        features = self.backbone((images - self.pixel_mean) * self.pixel_scale)
        return self.head(features) if targets is None else self.head(features, targets)

    @property
    def trunk(self) -> nn.Module:
        """All but the head: uint8 images -> features. Its modules, and the names of its parameters, are the model's."""
        return _Trunk(self)

    def set_trainable(self, names: Collection[str], *, statistics_frozen: bool = False) -> None:
        """Make exactly the parameters `names` trainable, and all others frozen; safe to apply twice."""
        unknown = set(names) - {name for name, _ in self.named_parameters()}
        if unknown:
            raise ValueError(f"not parameters of the model: {sorted(unknown)}")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in names)
            parameter.grad = None
        self._statistics_frozen = statistics_frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> TransferModel:
        """Set the mode of what trains; what is frozen stays in eval mode."""
        super().train(mode)
        if mode:
            for module in _frozen_roots(self):
                module.eval()
            for module in _frozen_norms(self):
                module.training = False
            if self._statistics_frozen:
                for module in self.backbone.modules():
                    if is_norm(module):
                        module.eval()
        return self

    def changing_names(self) -> set[str]:
        """The state-dict names that training updates: trainable parameters, and buffers of modules in training mode."""
        training = self.training
        if not training:
            self.train()
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        persistent = self.state_dict().keys()
        for name, _ in self.named_buffers(remove_duplicate=False):
            if name in persistent and self.get_submodule(name.rpartition(".")[0]).training:
                names.add(name)
        if not training:
            self.train(False)
        return names


class _Trunk(nn.Module):
    """Normalisation and backbone of a model."""

    def __init__(self, model: TransferModel) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_scale", model.pixel_scale, persistent=False)

    pixel_mean: torch.Tensor
    pixel_scale: torch.Tensor

    def forward(self, images: torch.Tensor) -> Any:
        """Features of uint8 images (B, 3, H, W)."""
        return self.backbone((images - self.pixel_mean) * self.pixel_scale)


def network_of(model: TransferModel, groups: Sequence[LayerGroup], adapter: Sequence[str] = ()) -> Network:
    """The names of the model's parameters by layer group and by kind.

    Args:
        model: the whole model.
        groups: the backbone's layer groups, with names inside the backbone.
        adapter: the parameters of the backbone that an adapter has put there.
    """
    added = tuple(f"backbone.{name}" for name in adapter)
    prefixed = tuple(
        LayerGroup(group.index, group.name, tuple(f"backbone.{name}" for name in group.parameters)) for group in groups
    )
    biases = frozenset(name for name, _ in model.named_parameters() if name.rpartition(".")[2].endswith("bias"))
    norms = {name for name, p in model.named_parameters() if name in added and p.dim() < 2 and name not in biases}
    convolutions: set[str] = set()
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)} - set(added)
        if is_norm(module):
            norms |= own
        elif _is_convolution(prefix, module):
            convolutions |= own
    return Network(
        groups=prefixed,
        head=tuple(f"head.{name}" for name, _ in model.head.named_parameters()),
        norms=frozenset(norms),
        biases=biases,
        convolutions=frozenset(convolutions),
        adapter=added,
        has_linear_head=linear_layer(model.head) is not None,
    )


def linear_layer(head: nn.Module) -> nn.Linear | None:
    """The linear layer that a head is in evaluation, where dropout does nothing; what extends one may do more."""
    layers = list(head) if type(head) is nn.Sequential else [head]
    rest = [layer for layer in layers if type(layer) is not nn.Dropout]
    return rest[0] if len(rest) == 1 and type(rest[0]) is nn.Linear else None


def is_norm(module: nn.Module) -> bool:
    """Whether this is a normalisation layer, torch's or another library's (timm derives or names its own so)."""
    known = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return isinstance(module, known) or "norm" in type(module).__name__.lower()


def _is_convolution(name: str, module: nn.Module) -> bool:
    """Convolutions, but not timm's VGG ``pre_logits``: its fully connected layers written as convolutions."""
    return isinstance(module, nn.modules.conv._ConvNd) and ".pre_logits." not in name


def _frozen_norms(module: nn.Module) -> Iterator[nn.Module]:
    """The norms that have parameters of their own, of which none trains."""
    for norm in filter(is_norm, module.modules()):
        own = list(norm.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            yield norm


def _frozen_roots(module: nn.Module) -> Iterator[nn.Module]:
    """The topmost modules that have parameters of which none trains."""
    trains: dict[nn.Module, bool | None] = {}
    _note_what_trains(module, trains)
    left = [module]
    while left:
        each = left.pop()
        if trains[each] is False:
            yield each
        elif trains[each]:
            left.extend(each.children())


def _note_what_trains(module: nn.Module, trains: dict[nn.Module, bool | None]) -> bool | None:
    """For each module of the tree, whether a parameter in its subtree trains; None where there is no parameter."""
    if module not in trains:
        found = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        below = [_note_what_trains(child, trains) for child in module.children()]
        found += [state for state in below if state is not None]
        trains[module] = any(found) if found else None
    return trains[module]
