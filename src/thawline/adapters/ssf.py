"""SSF: scale and shift of a frozen network's features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pydantic import Field, field_validator

from thawline.adapters.adapter import expression, matching
from thawline.layer_groups import LayerGroup
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHILD = "ssf"


@final
class SSF(Spec):
    """After an operation, each channel c is scaled and shifted: ``y_c = gamma_c x_c + beta_c`` (Lian et al. 2022).

    Operations are linear layers, convolutions with a bias, and normalisation layers (before the activation where timm
    fuses one with the norm). A convolution without a bias is followed by a norm, whose scale and shift do the same.
    gamma and beta (C,) start at 1 and 0, so that the network starts as it is; the authors draw them with `std` 0.02
    around that. They can be folded into the operations' own weights, which is what the exported model holds.

    `target_modules` is a regular expression for the operations' paths.
    """

    std: float = Field(default=0.0, ge=0.0)
    target_modules: str | None = None

    @field_validator("target_modules")
    @classmethod
    def _expression(cls, pattern: str | None) -> str | None:
        return expression(pattern)

    def insert(self, module: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int]) -> None:
        """See `Adapter.insert`."""
        from torch.nn import init

        from thawline.adapters.modules import ScaleShift

        operations = {found.path: found for found in _operations(module)}
        kind = "linear layer, no convolution with a bias and no norm"
        for path in matching(self.target_modules, list(operations), kind):
            found = operations[path]
            scale_shift = ScaleShift(found.width, channels_last=found.channels_last)
            if self.std:
                init.normal_(scale_shift.scale, mean=1.0, std=self.std)
                init.normal_(scale_shift.shift, std=self.std)
            found.end.add_module(_CHILD, scale_shift)
            found.end.register_forward_hook(_scale_and_shift)

    def merge(self, module: nn.Module) -> bool:
        """Each operation's weight w becomes ``gamma w``, its bias b ``gamma b + beta``."""
        import torch

        for found in list(_operations(module)):
            if _CHILD not in dict(found.end.named_children()):
                continue
            scale_shift = found.end.get_submodule(_CHILD)
            scale, shift = scale_shift.get_parameter("scale"), scale_shift.get_parameter("shift")
            weight, bias = found.operation.get_parameter("weight"), found.operation.get_parameter("bias")
            with torch.no_grad():
                weight.mul_(scale.view(-1, *[1] * (weight.dim() - 1)))
                bias.mul_(scale).add_(shift)
            delattr(found.end, _CHILD)
            for key, hook in list(found.end._forward_hooks.items()):
                if hook is _scale_and_shift:
                    del found.end._forward_hooks[key]
        return True


def _scale_and_shift(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    scaled: Tensor = module.get_submodule(_CHILD)(output)
    return scaled


@dataclass(frozen=True)
class _Operation:
    """An operation whose output can be scaled and shifted by its own weight and bias.

    `end` is the module that its output leaves: the operation itself, or in timm's fused norms what stands between the
    norm and the activation.
    """

    path: str
    operation: nn.Module
    end: nn.Module
    width: int
    channels_last: bool


def _operations(module: nn.Module) -> Iterator[_Operation]:
    from timm.layers.norm_act import BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d
    from torch import nn

    from thawline.adapters.modules import is_called, is_plain_convolution

    fused = (BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d)
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    for path, found in module.named_modules():
        parameters = dict(found.named_parameters(recurse=False))
        if not {"weight", "bias"} <= parameters.keys() or not is_called(module, path):
            continue
        width = len(parameters["bias"]) if parameters["bias"].dim() == 1 else 0
        if isinstance(found, nn.Linear) or is_plain_convolution(found):
            yield _Operation(path, found, found, width, isinstance(found, nn.Linear))
        elif isinstance(found, norms) and width:
            end = found.get_submodule("drop") if isinstance(found, fused) else found
            # Layer norms of (B, C, H, W) are named so in timm and in torchvision.
            last = isinstance(found, nn.LayerNorm) and not type(found).__name__.endswith("2d")
            yield _Operation(path, found, end, width, last)
