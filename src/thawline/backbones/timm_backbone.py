"""Backbones of timm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, final

from thawline.backbones.backbone import Backbone, LibraryBackbone, Size, WeightsOrigin, chosen, defaults_of
from thawline.backbones.weights import check_file, linear_classifier, load_backbone, state_hash, unreachable
from thawline.errors import nearest, usage_error
from thawline.layer_groups import feature_shape, layer_groups
from thawline.network import SourceClassifier
from thawline.randomness import seeded


@final
class TimmBackbone(LibraryBackbone):
    """Any classification model of timm, by name. `weights` may be one of timm's tags for it, such as ``a1_in1k``."""

    def check(self) -> None:
        """Whether timm has the model, and the weights are there as far as can be told."""
        import timm

        if not timm.is_model(self.name):
            raise usage_error(
                "backbone.name", f"timm has no model {self.name!r}{nearest(self.name, timm.list_models())}"
            )
        path = self.local_weights()
        if path is not None:
            check_file(path)
        elif self.weights not in (None, "pretrained", "source") and not str(self.weights).startswith("run:"):
            tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{self.name}.*")]
            if self.weights not in tags:
                hint = nearest(str(self.weights), tags) or f"; tags: {', '.join(tags)}"
                raise usage_error("backbone.weights", f"{self.name} has no weights {self.weights!r}{hint}")

    def skeleton(self) -> Backbone:
        """The backbone on the meta device."""
        import torch

        with torch.device("meta"):
            return self._described(self._create(), None, WeightsOrigin("none", None))

    def build(self, *, seed: int, weights_file: Path | None = None) -> Backbone:
        """The backbone with its weights."""
        path = weights_file or self.local_weights()
        if path is None and self.weights not in (None, "source"):
            return self._fetched()
        with seeded("backbone", seed):
            module = self._create()
        if path is None:
            return self._described(module, None, WeightsOrigin("random", None))
        origin, classifier = load_backbone(module, path, _classifier_name(module))
        return self._described(module, classifier, origin)

    def _fetched(self) -> Backbone:
        """The backbone with the library's weights."""
        tag = "" if self.weights == "pretrained" else f".{self.weights}"
        try:
            with seeded("backbone", 0):
                full = self._create(self.name + tag, pretrained=True, headless=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise unreachable(self.name + tag, error) from None
        name = _classifier_name(full)
        classifier = None
        if name:
            head = {
                key.removeprefix(f"{name}."): value for key, value in full.state_dict().items() if key.startswith(name)
            }
            classifier = linear_classifier({key: value.clone() for key, value in head.items()})
        full.reset_classifier(0)
        tag = (full.pretrained_cfg or {}).get("tag") or "default"
        return self._described(full, classifier, WeightsOrigin(f"timm {self.name}.{tag}", state_hash(full)))

    def _create(self, name: str | None = None, *, pretrained: bool = False, headless: bool = True) -> Any:
        import timm

        os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
        os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
        arguments = dict(self.arguments)
        if headless:
            arguments["num_classes"] = 0
        if self.input_size is not None and self._has_fixed_size():
            arguments["img_size"] = self.input_size
        try:
            return timm.create_model(name or self.name, pretrained=pretrained, **arguments)
        except (TypeError, AssertionError, ValueError) as error:
            raise usage_error("backbone.arguments", f"timm cannot make {self.name}: {error}") from None

    def _has_fixed_size(self) -> bool:
        """Whether the network is built for one image size (ViTs), which must be told at construction."""
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(self.name, allow_unregistered=True)
        return bool(config is not None and config.fixed_input_size)

    def _described(self, module: Any, classifier: SourceClassifier | None, weights: WeightsOrigin) -> Backbone:
        config = module.pretrained_cfg or {}
        size = (
            (self.input_size, self.input_size)
            if self.input_size
            else tuple(config.get("input_size", (3, 224, 224))[1:])
        )
        mean, std, interpolation, crop_pct = defaults_of(config)
        shape = _features(module, size, self.name)
        return Backbone(
            module=module,
            name=self.name,
            feature_dim=shape[0],
            input_size=size,
            mean=chosen(self.mean, mean),
            std=chosen(self.std, std),
            interpolation=interpolation,
            crop_pct=crop_pct,
            groups=layer_groups(module, self.granularity, size),
            source_classifier=classifier,
            weights=weights,
        )


def _features(module: Any, size: Size, name: str) -> tuple[int, ...]:
    """The shape of one image's features, which must be a vector."""
    try:
        shape = feature_shape(module, size)
    except (RuntimeError, ValueError, AssertionError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise usage_error(
            "backbone.input_size", f"{name} does not take images of {size[0]} x {size[1]}: {first}"
        ) from None
    if shape is None or len(shape) != 1:
        raise usage_error("backbone.name", f"{name} gives features of shape {shape}, not one vector for each image")
    return shape


def _classifier_name(module: Any) -> str | None:
    name = (module.pretrained_cfg or {}).get("classifier")
    return name if isinstance(name, str) else None
