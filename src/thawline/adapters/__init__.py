"""Adapters: small trainable parts that are put into a backbone. Adding one is a small final class and a yaml."""

from thawline.adapters.adapter import Adapter, Attached, attach, refuse_unused
from thawline.adapters.bottleneck import Bottleneck
from thawline.adapters.lora import LoRA
from thawline.adapters.ssf import SSF
from thawline.adapters.visual_prompt import VisualPrompt

__all__ = ["SSF", "Adapter", "Attached", "Bottleneck", "LoRA", "VisualPrompt", "attach", "refuse_unused"]
