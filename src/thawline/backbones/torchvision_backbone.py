"""Backbones of torchvision: GoogLeNet is only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from thawline.backbones.backbone import Backbone, LibraryBackbone, WeightsOrigin, chosen
from thawline.backbones.weights import check_file, load_backbone, state_hash, unreachable
from thawline.errors import nearest, usage_error
from thawline.layer_groups import feature_shape, layer_groups
from thawline.network import SourceClassifier
from thawline.randomness import seeded

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_WITHOUT_AUXILIARY = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}


@final
class TorchvisionBackbone(LibraryBackbone):
    """Any classification model of torchvision, by name. `weights` may be one of its sets, such as ``IMAGENET1K_V1``."""

    def check(self) -> None:
        """Whether torchvision has the model and the weights are there as far as can be told."""
        from torchvision import models

        names = models.list_models(module=models)
        if self.name not in names:
            raise usage_error("backbone.name", f"torchvision has no model {self.name!r}{nearest(self.name, names)}")
        path = self.local_weights()
        if path is not None:
            check_file(path)
        elif self.weights not in (None, "pretrained", "source") and not str(self.weights).startswith("run:"):
            sets = list(models.get_model_weights(self.name).__members__)
            if self.weights not in sets:
                raise usage_error(
                    "backbone.weights", f"{self.name} has no weights {self.weights!r}; there are {', '.join(sets)}"
                )

    def skeleton(self) -> Backbone:
        """The backbone on the meta device."""
        import torch

        with torch.device("meta"):
            module, _, _ = self._create(None)
            return self._described(module, None, WeightsOrigin("none", None))

    def build(self, *, seed: int, weights_file: Path | None = None) -> Backbone:
        """The backbone with its weights."""
        path = weights_file or self.local_weights()
        library = path is None and self.weights not in (None, "source")
        with seeded("backbone", seed):
            module, name, classifier = self._create(self.weights if library else None)
        if path is not None:
            origin, source = load_backbone(module, path, name)
            return self._described(module, source, origin)
        if not library:
            return self._described(module, None, WeightsOrigin("random", None))
        origin = WeightsOrigin(f"torchvision {self.name} {self.weights}", state_hash(module))
        return self._described(module, SourceClassifier(classifier.weight.detach(), classifier.bias.detach()), origin)

    def _create(self, weights: str | None) -> tuple[Any, str, Any]:
        """The network without its classifier, the classifier's name, and the classifier."""
        from torch import nn
        from torchvision import models

        own = dict(_WITHOUT_AUXILIARY.get(self.name, {})) if weights is None else {}
        try:
            chosen_set = "DEFAULT" if weights == "pretrained" else weights
            model = models.get_model(self.name, weights=chosen_set, **{**own, **self.arguments})
        except (TypeError, ValueError) as error:
            raise usage_error("backbone.arguments", f"torchvision cannot make {self.name}: {error}") from None
        except OSError as error:
            raise unreachable(self.name, error) from None
        if self.name in _WITHOUT_AUXILIARY:
            # The inputs are normalised once, by thawline; the auxiliary classifiers are no part of the features.
            model.transform_input = False
            model.aux_logits = False
            for auxiliary in ("aux1", "aux2", "AuxLogits"):
                if getattr(model, auxiliary, None) is not None:
                    setattr(model, auxiliary, None)
        linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise usage_error("backbone.name", f"{self.name} has no linear classifier to take off")
        name, classifier = linear[-1]
        model.set_submodule(name, nn.Identity())
        return model, name, classifier

    def _described(self, module: Any, classifier: SourceClassifier | None, weights: WeightsOrigin) -> Backbone:
        size = (self.input_size or 224,) * 2
        try:
            shape = feature_shape(module, size)
        except (RuntimeError, ValueError, AssertionError) as error:
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise usage_error(
                "backbone.input_size", f"{self.name} does not take images of {size[0]} x {size[1]}: {first}"
            ) from None
        if shape is None or len(shape) != 1:
            raise usage_error("backbone.name", f"{self.name} gives features of shape {shape}, not one vector an image")
        return Backbone(
            module=module,
            name=self.name,
            feature_dim=shape[0],
            input_size=size,
            mean=chosen(self.mean, _IMAGENET["mean"]),
            std=chosen(self.std, _IMAGENET["std"]),
            interpolation="bilinear",
            crop_pct=0.875,
            groups=layer_groups(module, self.granularity, size),
            source_classifier=classifier,
            weights=weights,
        )
