"""LoRA, by the library peft."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

from pydantic import Field, field_validator

from thawline.adapters.adapter import expression, matching
from thawline.errors import usage_error
from thawline.layer_groups import LayerGroup
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn

_ATTENTION = re.compile(r"attn|attention")


@final
class LoRA(Spec):
    """A low-rank update beside a layer's weight: ``W x + (alpha / r) B A x`` (Hu et al. 2022, "LoRA").

    W is (out, in) and stays, A is (r, in) and starts at random, B is (out, r) and starts at 0, so that the network
    starts as it is; for a convolution A is a convolution of r filters and B one of 1 x 1. The update can be folded into
    W, which is what the exported model holds.

    `target_modules` is a regular expression for the paths of linear layers and convolutions. Without it: the linear
    layers of attention, as in the paper; in a network without attention, every linear layer and ungrouped convolution.
    """

    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: str | None = None

    @field_validator("target_modules")
    @classmethod
    def _expression(cls, pattern: str | None) -> str | None:
        return expression(pattern)

    def insert(self, module: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int]) -> None:
        """See `Adapter.insert`."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise usage_error("adapter", "LoRA needs the library peft: pip install 'thawline[lora]'") from None
        names = _targets(module, self.target_modules)
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="|".join(re.escape(name) for name in names),
        )
        inject_adapter_in_model(config, module)

    def merge(self, module: nn.Module) -> bool:
        """W becomes ``W + (alpha / r) B A``."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in list(module.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent, _, child = name.rpartition(".")
                setattr(module.get_submodule(parent), child, layer.get_base_layer())
        return True


def _targets(module: nn.Module, pattern: str | None) -> list[str]:
    """The paths of the layers that get an update."""
    layers = matching(pattern, _adaptable(module), "linear layer and no ungrouped convolution")
    attention = [name for name in layers if _ATTENTION.search(name.rpartition(".")[0].rpartition(".")[2])]
    return attention if attention and pattern is None else layers


def _adaptable(module: nn.Module) -> list[str]:
    """Linear layers and ungrouped convolutions whose output is linear in their weight."""
    from torch import nn

    from thawline.adapters.modules import is_called, is_plain_convolution

    return [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (is_plain_convolution(layer) and layer.groups == 1)
        if is_called(module, path)
    ]
