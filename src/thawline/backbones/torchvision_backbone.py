"""Backbones of torchvision: GoogLeNet is only there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pydantic import field_validator

from thawline.backbones.backbone import UNKNOWN, Backbone, LibraryBackbone, Size
from thawline.backbones.descriptions import FIELD, described, named
from thawline.backbones.fetching import downloaded_file, within_reach
from thawline.backbones.weights import (
    SavedNetwork,
    check_file,
    completed,
    divided,
    does_not_fit,
    linear_classifier,
    misfits,
    read_network,
    state_hash,
)
from thawline.errors import first_line, nearest, usage_error
from thawline.network import SourceClassifier
from thawline.preprocessing import Preprocessing
from thawline.randomness import seeded
from thawline.records import WeightsRecord

if TYPE_CHECKING:
    from torch import nn

    from thawline.backbones.weights import StateDict

_OURS = frozenset({"weights", "num_classes", "aux_logits", "transform_input", "init_weights", "progress"})
"""Arguments of torchvision's constructors that thawline gives."""

_INCEPTIONS = ("googlenet", "inception_v3")
"""Networks with auxiliary classifiers, whose weights expect inputs in -1..1: torchvision converts ImageNet's
normalisation inside of the network, thawline normalises so in the first place."""
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@final
class TorchvisionBackbone(LibraryBackbone):
    """Any classification model of torchvision, by name. `weights` may be one of its sets, such as ``IMAGENET1K_V1``."""

    @field_validator("arguments")
    @classmethod
    def _leaves_ours_alone(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if name in _OURS:
                raise ValueError(f"{name!r} is decided by thawline")
        return arguments

    def check(self) -> None:
        """Whether torchvision has the model and the weights are there as far as can be seen."""
        from torchvision import models

        names = models.list_models(module=models)
        if self.name not in names:
            raise usage_error("backbone.name", f"torchvision has no model {self.name!r}{nearest(self.name, names)}")
        path = self.local_weights()
        if path is not None:
            check_file(path)
        if self.library_weights is not None:
            self._weights_set()

    def skeleton(self, known: Preprocessing = UNKNOWN) -> Backbone:
        """The backbone on the meta device; a weights file is read for the shape of its classifier."""
        path = self.local_weights()
        description = described(path) if path is not None else None
        known = known if description is None else known.over(description.preprocessing)
        spec = self.for_images(known)
        module, classifier = spec._create(on_meta=True)
        source = None
        if path is not None and description is not None:
            source = named(spec._read(path, module, classifier)[1], description)
        elif self.library_weights is not None:
            source = classifier.source(self._weights_set().meta.get("categories", ()))
        known_as = "none" if self.library_weights is None else f"torchvision {self.name}.{self._weights_set().name}"
        backbone = spec._described(module, source, WeightsRecord(description=known_as, sha256=None), self.images(known))
        if source is not None:
            bias = None if source.bias is None else source.bias.to("meta")
            backbone.source_classifier = replace(source, weight=source.weight.to("meta"), bias=bias)
        return backbone

    def build(self, *, seed: int, weights_file: Path | None = None, known: Preprocessing = UNKNOWN) -> Backbone:
        """The backbone with its weights."""
        path = weights_file or self.local_weights()
        description = described(path) if path is not None else None
        known = known if description is None else known.over(description.preprocessing)
        spec, images = self.for_images(known), self.images(known)
        with seeded("backbone", seed):
            module, classifier = spec._create()
        if path is not None and description is not None:
            state, source, saved = spec._read(path, module, classifier)
            module.load_state_dict(state, strict=True)
            return spec._described(module, named(source, description), saved.origin(description), images)
        if self.library_weights is None:
            return spec._described(module, None, WeightsRecord(description="random", sha256=None), images)
        chosen = self._weights_set()
        state, head = divided(spec._fetched(chosen, module), classifier.keys)
        module.load_state_dict(completed(spec._adapted(state, module), module.state_dict(), ()), strict=True)
        source = linear_classifier(head) if classifier.is_linear else None
        if source is not None:
            source = replace(source, classes=tuple(chosen.meta.get("categories", ())))
        origin = WeightsRecord(description=f"torchvision {self.name}.{chosen.name}", sha256=state_hash(module))
        return spec._described(module, source, origin, images)

    def _create(self, *, on_meta: bool = False) -> tuple[Any, _Classifier]:
        """The network without its classifier, and that classifier."""
        from torchvision import models

        arguments = dict(self.arguments)
        if self.name in _INCEPTIONS:
            # Not initialised by torchvision's slow truncated normal where weights follow.
            arguments |= {
                "aux_logits": False,
                "transform_input": False,
                "init_weights": self.weights is None and not on_meta,
            }
        if self.name.startswith("vit_"):
            arguments.setdefault("image_size", self._size()[0])
        try:
            if on_meta:
                with _shapes_only():
                    model = models.get_model(self.name, weights=None, **arguments).to("meta")
            else:
                model = models.get_model(self.name, weights=None, **arguments)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            field = "backbone.input_size" if self.input_size and not self.arguments else "backbone.arguments"
            raise usage_error(field, f"torchvision cannot make {self.name}: {first_line(error)}") from None
        return model, _Classifier(model)

    def _read(
        self, path: Path, module: nn.Module, classifier: _Classifier
    ) -> tuple[StateDict, SourceClassifier | None, SavedNetwork]:
        """The backbone's tensors from a file, the classifier in it, and what the file is."""
        expected = module.state_dict()
        saved = read_network(path, expected.keys() | classifier.keys, self.prefix)
        if saved.head is None:
            own, head = divided(saved.backbone, classifier.keys)
            source = linear_classifier(head) if classifier.is_linear else None
        else:
            own, source = saved.backbone, linear_classifier(saved.head)
        own = completed(self._adapted(own, module), expected, (classifier.name,))
        problems = misfits(own, expected)
        if problems:
            raise does_not_fit(saved, self.name, problems, expected)
        return own, source, saved

    def _adapted(self, state: StateDict, module: Any) -> StateDict:
        """The tensors without auxiliary classifiers, and a ViT's position embedding for the configured input size."""
        if self.name in _INCEPTIONS:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(_AUXILIARY)}
        position = state.get("encoder.pos_embedding")
        if position is not None and position.shape != module.encoder.pos_embedding.shape:
            from torchvision.models.vision_transformer import interpolate_embeddings

            state = dict(interpolate_embeddings(module.image_size, module.patch_size, dict(state)))
        return state

    def _fetched(self, chosen: Any, module: nn.Module) -> StateDict:
        cached = downloaded_file(chosen.url)
        if cached is not None:
            return read_network(cached, module.state_dict().keys()).backbone
        with within_reach(chosen.url, f"{self.name}.{chosen.name}"):
            return dict(chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))

    def require_weights(self) -> None:
        """Raise a UsageError where the library's weights are neither here nor within reach; nothing is fetched."""
        if self.library_weights is None:
            return
        chosen = self._weights_set()
        if downloaded_file(chosen.url) is None:
            with within_reach(chosen.url, f"{self.name}.{chosen.name}"):
                pass

    def _weights_set(self) -> Any:
        """The library's entry for the configured weights; its default one where none are named."""
        from torchvision import models

        sets = models.get_model_weights(self.name)
        if self.library_weights in (None, "pretrained"):
            return sets.DEFAULT
        name = str(self.library_weights).rpartition(".")[2]
        if name not in sets.__members__:
            known = ", ".join(sets.__members__)
            raise usage_error(FIELD, f"torchvision has no weights {self.weights!r} for {self.name}; there are {known}")
        return sets[name]

    def _size(self) -> Size:
        size: int = self.input_size or self._weights_set().transforms().crop_size[0]
        return size, size

    def images(self, known: Preprocessing = UNKNOWN) -> Preprocessing:
        """How images become the input: as configured, as the weights have it, else as torchvision evaluates."""
        preset = self._weights_set().transforms()
        mean, std = _HALVES if self.name in _INCEPTIONS else (tuple(preset.mean), tuple(preset.std))
        library = Preprocessing(
            size=self._size(),
            resize="crop",
            crop_pct=preset.crop_size[0] / preset.resize_size[0],
            interpolation=preset.interpolation.value,
            mean=mean,
            std=std,
        )
        return self.preprocessing(known, library)

    def _described(
        self, module: Any, source: SourceClassifier | None, weights: WeightsRecord, images: Preprocessing
    ) -> Backbone:
        from thawline.backbones.features import as_backbone

        size = self._size()
        backbone, feature_dim, groups = as_backbone(module, size, self.granularity, self.name)
        return Backbone(
            module=backbone,
            name=self.name,
            feature_dim=feature_dim,
            input_size=size,
            preprocessing=images.model_copy(update={"network_size": size}),
            groups=groups,
            source_classifier=source if source is not None and source.weight.shape[1] == feature_dim else None,
            weights=weights,
        )


class _Classifier:
    """The last layer of a torchvision network, taken out of it together with the dropout before it.

    It is the last linear layer, or the last convolution where that comes later (SqueezeNet).
    """

    def __init__(self, model: nn.Module) -> None:
        from torch import nn

        leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        position = max(i for i, (_, module) in enumerate(leaves) if isinstance(module, (nn.Linear, nn.Conv2d)))
        self.name, self._module = leaves[position]
        self.is_linear = isinstance(self._module, nn.Linear)
        self.keys = frozenset(f"{self.name}.{name}" for name in self._module.state_dict())
        model.set_submodule(self.name, nn.Identity())
        for name, module in reversed(leaves[:position]):
            if list(module.parameters()):
                break
            if isinstance(module, nn.Dropout):
                model.set_submodule(name, nn.Identity())

    def source(self, classes: Any) -> SourceClassifier | None:
        """The classifier as it is, with the names of its classes."""
        found = linear_classifier(self._module.state_dict()) if self.is_linear else None
        return None if found is None else replace(found, classes=tuple(classes))


def _shapes_only() -> Any:
    """A block in which parameters take no memory. RegNet computes its widths with tensors, so those stay real."""
    import torch
    from torch.overrides import TorchFunctionMode

    factories = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}

    class OnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            keywords = dict(kwargs or {})
            if func in factories:
                keywords["device"] = "meta"
            return func(*args, **keywords)

    return OnMeta()
