"""A folder that timm loads as a model of its own: ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from thawline.backbones import TimmBackbone
from thawline.backbones.features import PooledFeatures
from thawline.errors import counted
from thawline.exports.agreement import agreement
from thawline.exports.finished import FinishedModel
from thawline.network.model import linear_layer
from thawline.preprocessing import Preprocessing
from thawline.tensor_files import to_bytes

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_CROP_MODES = {"crop": "center", "squash": "squash", "border": "border"}


@final
class TimmFolder:
    """``config.json`` and ``model.safetensors`` in timm's own form."""

    NAME = "timm"
    SUFFIX = ""

    def refusal(self, finished: FinishedModel) -> str:
        """See `thawline.exports.writing.Format`."""
        settings, images = finished.plan.settings, finished.record.preprocessing or Preprocessing()
        spec: object = settings.backbone
        if not isinstance(spec, TimmBackbone):
            return f"its backbone is none of timm's ({type(spec).__name__})"
        if _linear(finished.model.head) is None:
            return f"its head ({type(settings.head).__name__}) is not one linear layer on the features"
        if not finished.folded:
            return f"its adapter ({type(settings.adapter).__name__}) cannot be folded into plain weights"
        if images.resize not in _CROP_MODES:
            return f"timm's transforms have no counterpart of transform.resize={images.resize}"
        mean = images.mean or (0.0, 0.0, 0.0)
        if images.resize == "border" and images.fill != tuple(round(255 * value) for value in mean):
            return f"timm fills borders with the mean colour, not with transform.fill={images.fill}"
        pools = isinstance(finished.model.backbone, PooledFeatures)
        if pools or spec.with_classifier(len(finished.plan.outputs), on_meta=True) is None:
            return f"timm's {spec.name} has another classifier than one linear layer on these features"
        return ""

    def write(self, finished: FinishedModel, target: Path) -> str:
        """See `thawline.exports.writing.Format`."""
        plan = finished.plan
        spec: object = plan.settings.backbone
        images = finished.record.preprocessing or Preprocessing()
        linear = _linear(finished.model.head)
        made = spec.for_images(images).with_classifier(len(plan.outputs)) if isinstance(spec, TimmBackbone) else None
        if made is None or linear is None:
            raise TypeError("a model that `refusal` refuses")
        network, name = made
        own = {**finished.model.backbone.state_dict(), f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
        network.load_state_dict(own, strict=True)
        network.eval()
        pixels, split = finished.images()
        _save(network, target, images, plan.outputs)
        (target / WEIGHTS).write_bytes(to_bytes(network.state_dict(), {"format": "pt", **finished.about}))
        difference = agreement(lambda batch: [finished.model(batch)], _normalising(network, images), pixels)
        return f"timm's network held against the model on {counted(len(pixels), f'{split} image')}: {difference}"


def _linear(head: nn.Module) -> nn.Linear | None:
    """The linear layer of a head that is one, with a bias."""
    linear = linear_layer(head)
    return None if linear is None or linear.bias is None else linear


def _save(network: Any, folder: Path, images: Preprocessing, outputs: tuple[str, ...]) -> None:
    """By timm itself; of the source's configuration nothing is left that speaks of other weights or images."""
    from timm.models import save_for_hf

    source = network.pretrained_cfg
    kept = ("architecture", "classifier", "first_conv", "fixed_input_size", "min_input_size", "pool_size")
    network.pretrained_cfg = {
        **{key: source[key] for key in kept if source.get(key) is not None},
        "tag": "thawline",
        "num_classes": len(outputs),
        "input_size": (3, *(images.size or ())),
        "interpolation": images.interpolation,
        "crop_pct": images.crop_pct,
        "crop_mode": _CROP_MODES[str(images.resize)],
        "mean": images.mean,
        "std": images.std,
    }
    save_for_hf(network, str(folder), {"label_names": list(outputs)}, safe_serialization=True)


def _normalising(network: nn.Module, images: Preprocessing) -> Any:
    """The network on uint8 images, normalised as timm's transforms do."""
    mean = torch.tensor(images.mean or (0.0, 0.0, 0.0)).view(1, -1, 1, 1)
    std = torch.tensor(images.std or (1.0, 1.0, 1.0)).view(1, -1, 1, 1)
    return lambda batch: [network((batch / 255 - mean) / std)]
