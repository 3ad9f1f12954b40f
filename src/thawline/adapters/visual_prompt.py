"""Visual prompts: learned tokens among a vision transformer's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, final

from pydantic import Field

from thawline.errors import usage_error
from thawline.layer_groups import LayerGroup
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHILD = "prompts"


@final
class VisualPrompt(Spec):
    """`tokens` learned tokens (P, D) enter a vision transformer behind its class token (Jia et al. 2022, "VPT").

    ``depth: shallow`` - they enter before the first block and go through all; ``deep`` - each block has its own, in
    place of those that leave the block before. Their outputs are dropped after the last block. They start uniform in
    ``± sqrt(6 / (3 h w + D))`` for patches of h x w, as the authors' do, and so change the network from the start.
    For timm's plain vision transformers.
    """

    tokens: int = Field(default=10, ge=1)
    depth: Literal["shallow", "deep"] = "shallow"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @property
    def reads_vector(self) -> bool:
        """The tokens that prompts add would be places in the maps."""
        return True

    def insert(self, module: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int]) -> None:
        """See `Adapter.insert`."""
        from timm.models.vision_transformer import VisionTransformer

        from thawline.adapters.modules import Prompts

        if not isinstance(module, VisionTransformer):
            raise usage_error(
                "adapter", f"visual prompts are for plain vision transformers of timm, not {type(module).__name__}"
            )
        height, width = module.patch_embed.patch_size
        bound = math.sqrt(6.0 / (3 * height * width + module.embed_dim))
        blocks = list(module.blocks)
        for block in blocks if self.depth == "deep" else blocks[:1]:
            block.add_module(_CHILD, Prompts(self.tokens, module.embed_dim, bound, self.dropout))
            block.register_forward_pre_hook(partial(_enter, prefix=module.num_prefix_tokens))
        for block in blocks if self.depth == "deep" else blocks[-1:]:
            block.register_forward_hook(partial(_leave, prefix=module.num_prefix_tokens, count=self.tokens))

    def merge(self, module: nn.Module) -> bool:
        """Tokens are no weights."""
        return False


def _enter(block: nn.Module, args: tuple[Any, ...], *, prefix: int) -> tuple[Any, ...]:
    import torch

    tokens: Tensor = args[0]
    prompts = block.get_submodule(_CHILD)(tokens.shape[0])
    return torch.cat([tokens[:, :prefix], prompts, tokens[:, prefix:]], dim=1), *args[1:]


def _leave(block: nn.Module, args: tuple[Any, ...], output: Tensor, *, prefix: int, count: int) -> Tensor:
    import torch

    return torch.cat([output[:, :prefix], output[:, prefix + count :]], dim=1)
