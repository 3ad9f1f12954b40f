"""Backbones of timm."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pydantic import field_validator

from thawline.backbones.backbone import UNKNOWN, Backbone, LibraryBackbone, Size
from thawline.backbones.descriptions import FIELD, described, named
from thawline.backbones.fetching import downloaded_file, hub_file, within_reach
from thawline.backbones.names import names_of
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
from thawline.preprocessing import Preprocessing, Resize, Triple
from thawline.randomness import seeded
from thawline.records import WeightsRecord

if TYPE_CHECKING:
    from torch import nn

    from thawline.backbones.weights import StateDict

_OURS = frozenset(
    {"pretrained", "num_classes", "in_chans", "features_only", "checkpoint_path", "pretrained_cfg", "scriptable"}
    | {"pretrained_cfg_overlay", "pretrained_strict", "cache_dir", "device", "dtype"}
)
"""Arguments of timm's constructor that thawline gives, or that make something else than a backbone."""

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CROP_MODES: Mapping[str, Resize] = {"center": "crop", "squash": "squash", "border": "border"}
_ANY_COUNT = 10
"""A number of classes, for a network that is only asked what its classifier is called."""


@final
class TimmBackbone(LibraryBackbone):
    """Any classification model of timm, by name. `weights` may be one of timm's tags for it, such as ``a1_in1k``."""

    @field_validator("arguments")
    @classmethod
    def _leaves_ours_alone(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if name in _OURS:
                raise ValueError(f"{name!r} is decided by thawline")
        return arguments

    def check(self) -> None:
        """Whether timm has the model, and the weights are there as far as can be seen."""
        known = names_of("timm")
        if self._architecture not in known:
            raise usage_error("backbone.name", f"timm has no model {self.name!r}{nearest(self.name, known)}")
        path = self.local_weights()
        if path is not None:
            check_file(path)
        if self.library_weights is not None:
            self._check_tag()

    def _check_tag(self) -> None:
        import timm

        tags = [name.partition(".")[2] for name in timm.list_pretrained(self._architecture)]
        if not any(tags) and self._tag is None:
            raise usage_error(
                FIELD, f"timm has no weights for {self.name}; give a local file, or null for random weights"
            )
        if self._tag is not None and self._tag not in tags:
            hint = nearest(self._tag, tags) or f"; there are {', '.join(tags) or 'none'}"
            raise usage_error(FIELD, f"timm has no weights {self._tag!r} for {self._architecture}{hint}")

    def skeleton(self, known: Preprocessing = UNKNOWN) -> Backbone:
        """The backbone on the meta device; a weights file is read for the shape of its classifier."""
        path = self.local_weights()
        description = described(path) if path is not None else None
        known = known if description is None else known.over(description.preprocessing)
        spec = self.for_images(known)
        module = spec._create(on_meta=True)
        classifier = None
        if path is not None and description is not None:
            classifier = named(spec._read(path, module)[1], description)
        elif self.library_weights is not None:
            full = spec._create(tag=self._tag, num_classes=None, on_meta=True)
            classifier = _classifier(full.state_dict(), module, full)
        tag = f"timm {self._architecture}.{self._config().tag}" if self.library_weights is not None else "none"
        origin = WeightsRecord(description=tag, sha256=None)
        return spec._described(module, _without_values(classifier), origin, self.images(known))

    def build(self, *, seed: int, weights_file: Path | None = None, known: Preprocessing = UNKNOWN) -> Backbone:
        """The backbone with its weights."""
        path = weights_file or self.local_weights()
        description = described(path) if path is not None else None
        known = known if description is None else known.over(description.preprocessing)
        spec, images = self.for_images(known), self.images(known)
        with seeded("backbone", seed):
            module = spec._create()
        if path is not None and description is not None:
            state, classifier, saved = spec._read(path, module)
            module.load_state_dict(state, strict=True)
            return spec._described(module, named(classifier, description), saved.origin(description), images)
        if self.library_weights is None:
            return spec._described(module, None, WeightsRecord(description="random", sha256=None), images)
        fetched = spec._fetched()
        classifier = _classifier(fetched.state_dict(), module, fetched)
        state, _ = divided(fetched.state_dict(), _classifier_keys(module, fetched))
        module.load_state_dict(state, strict=True)
        tag = fetched.pretrained_cfg.get("tag") or "default"
        origin = WeightsRecord(description=f"timm {self._architecture}.{tag}", sha256=state_hash(module))
        return spec._described(module, classifier, origin, images)

    def with_classifier(self, rows: int, *, on_meta: bool = False) -> tuple[Any, str] | None:
        """The library's own network with a classifier of `rows` outputs, at its start, and the classifier's path.

        None where the classifier is more than one linear layer on the features.
        """
        with seeded("backbone", 0):
            full = self._create(num_classes=rows, on_meta=on_meta)
        if not _is_plain(self._create(on_meta=True), full):
            return None
        return full, _classifier_names(full)[0]

    def _read(self, path: Path, module: nn.Module) -> tuple[StateDict, SourceClassifier | None, SavedNetwork]:
        """The backbone's tensors from a file, the classifier in it, and what the file is.

        Where names or shapes are not the network's, timm may know how to convert them (the original authors' names,
        position embeddings of another size).
        """
        full = self._create(num_classes=_ANY_COUNT, on_meta=True)
        expected, keys, names = module.state_dict(), _classifier_keys(module, full), _classifier_names(full)
        saved = read_network(path, full.state_dict().keys(), self.prefix)
        if saved.head is not None:
            own, classifier = saved.backbone, linear_classifier(saved.head)
        else:
            own, head = divided(saved.backbone, keys)
            classifier = linear_classifier(head) if _is_plain(module, full) else None
        own = completed(own, expected, names)
        problems = misfits(own, expected)
        if problems:
            converted = self._converted(saved.backbone, full)
            if converted is not None:
                own, _ = divided(converted.state_dict(), keys)
                problems = []
                if saved.head is None:
                    classifier = _classifier(converted.state_dict(), module, converted)
        if problems:
            raise does_not_fit(saved, self.name, problems, expected)
        return own, classifier, saved

    def _converted(self, state: StateDict, full: Any) -> Any | None:
        """The network filled with `state` by timm's own rules for this family, or None where they do not help."""
        import timm

        names = _classifier_names(full)
        rows = next((len(state[f"{name}.weight"]) for name in names if f"{name}.weight" in state), None)
        for classes in dict.fromkeys((rows or full.pretrained_cfg.get("num_classes") or 0, 0)):
            overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": None}
            try:
                with seeded("backbone", 0):
                    return timm.create_model(
                        self._architecture,
                        pretrained=True,
                        num_classes=classes,
                        pretrained_cfg_overlay=overlay,
                        **self._arguments(),
                    )
            except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, AssertionError, IndexError):
                continue
        return None

    def _fetched(self) -> Any:
        """The library's network with its weights and classifier, matched strictly by timm."""
        cached = self._from_hub()
        if cached is not None:
            with seeded("backbone", 0):
                return self._create(tag=self._tag, num_classes=None, pretrained=True, overlay={"file": str(cached)})
        with self._reached(), seeded("backbone", 0):
            return self._create(tag=self._tag, num_classes=None, pretrained=True)

    def require_weights(self) -> None:
        """Raise a UsageError where the library's weights are neither here nor within reach; nothing is fetched."""
        if self.library_weights is not None and self._from_hub() is None:
            with self._reached():
                pass

    def _from_hub(self) -> Path | None:
        """The file of weights that was fetched from the hub before, if it was."""
        config = self._config()
        return None if config.custom_load else hub_file(config.hf_hub_id or "", _hub_files(config.hf_hub_filename))

    def _reached(self) -> AbstractContextManager[None]:
        """A block in which timm finds the weights: where torch.hub has put them, or on their server."""
        config = self._config()
        url = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
        if not config.hf_hub_id and downloaded_file(url) is not None:
            return nullcontext()
        return within_reach(_hub_address(url), f"{self._architecture}.{config.tag}")

    def _create(
        self,
        *,
        tag: str | None = None,
        num_classes: int | None = 0,
        pretrained: bool = False,
        overlay: dict[str, Any] | None = None,
        on_meta: bool = False,
    ) -> Any:
        """The network, without classifier; ``num_classes=None`` is the number that the weights have."""
        # Before the device is chosen: parts of torch 2.6 cannot be imported where the default device is meta.
        import timm
        import torch

        arguments = self._arguments()
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        try:
            with torch.device("meta") if on_meta else contextlib.nullcontext():
                return timm.create_model(
                    self._architecture,
                    pretrained=pretrained,
                    pretrained_cfg=tag,
                    pretrained_cfg_overlay=overlay,
                    **arguments,
                )
        except (TypeError, AssertionError, ValueError, ZeroDivisionError) as error:
            field = "backbone.input_size" if self.input_size and not self.arguments else "backbone.arguments"
            raise usage_error(field, f"timm cannot make {self._architecture}: {first_line(error)}") from None

    def _arguments(self) -> dict[str, Any]:
        """The configured arguments; a network that is built for one image size (a ViT) gets the configured one."""
        arguments = dict(self.arguments)
        if self.input_size is not None and self._config().fixed_input_size:
            arguments.setdefault("img_size", self.input_size)
        return arguments

    def images(self, known: Preprocessing = UNKNOWN) -> Preprocessing:
        """How images become the input: as configured, as the weights have it, else as timm evaluates."""
        config = self._config().to_dict()
        height, width = self._size(config)
        library = Preprocessing(
            size=(height, width),
            resize=_CROP_MODES[config.get("crop_mode") or "center"],
            crop_pct=float(config.get("crop_pct") or 0.875),
            interpolation=config.get("interpolation") or "bicubic",
            mean=_triple(config.get("mean"), _IMAGENET["mean"]),
            std=_triple(config.get("std"), _IMAGENET["std"]),
        )
        return self.preprocessing(known, library)

    def _described(
        self, module: Any, classifier: SourceClassifier | None, weights: WeightsRecord, images: Preprocessing
    ) -> Backbone:
        from thawline.backbones.features import as_backbone

        size = self._size(self._config().to_dict())
        if self.input_size is not None:
            _check_patches(module, size, self.name)
        backbone, feature_dim, groups = as_backbone(module, size, self.granularity, self.name)
        if classifier is not None and classifier.weight.shape[1] != feature_dim:
            classifier = None
        return Backbone(
            module=backbone,
            name=self.name,
            feature_dim=feature_dim,
            input_size=size,
            preprocessing=images.model_copy(update={"network_size": size}),
            groups=groups,
            source_classifier=classifier,
            weights=weights,
        )

    def _size(self, config: Mapping[str, Any]) -> Size:
        own = self.input_size or self.arguments.get("img_size") or tuple(config.get("input_size", (3, 224, 224))[1:])
        return (own, own) if isinstance(own, int) else (int(own[0]), int(own[1]))

    def _config(self) -> Any:
        """What timm knows of the network with these weights: its input, its classifier, where the weights are."""
        from timm.models import get_pretrained_cfg

        name = self._architecture if self._tag is None else f"{self._architecture}.{self._tag}"
        return get_pretrained_cfg(name, allow_unregistered=True) or get_pretrained_cfg(self._architecture)

    @property
    def _architecture(self) -> str:
        return self.name.partition(".")[0]

    @property
    def _tag(self) -> str | None:
        """The tag of the weights; None is its default. It may stand in `name` too: ``resnet50.a1_in1k``."""
        if self.library_weights not in (None, "pretrained"):
            return self.library_weights
        return self.name.partition(".")[2] or None


def _check_patches(module: Any, size: Size, name: str) -> None:
    """Refuse a size whose last pixels timm's transformers would cut off: maps would not lie on their images."""
    embedding = getattr(module, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if not isinstance(patch, tuple) or getattr(embedding, "dynamic_img_pad", False):
        return
    if any(side % width for side, width in zip(size, patch, strict=True)):
        shown = f"{size[0]} x {size[1]} pixels are no whole number of {name}'s patches of {patch[0]} x {patch[1]}"
        raise usage_error("backbone.input_size", shown)


def _classifier_names(full: Any) -> tuple[str, ...]:
    """The paths of the classifiers in timm's network: one, or several that vote."""
    names = full.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _classifier_keys(module: nn.Module, full: nn.Module) -> set[str]:
    """The tensors that a network with classifier has and one without has not."""
    return set(full.state_dict()) - set(module.state_dict())


def _is_plain(module: nn.Module, full: nn.Module) -> bool:
    """Whether the classifier is one linear layer on the features, and nothing else."""
    from torch import nn

    names = _classifier_names(full)
    keys = _classifier_keys(module, full)
    if len(names) != 1 or not keys or not keys <= {f"{names[0]}.weight", f"{names[0]}.bias"}:
        return False
    return isinstance(full.get_submodule(names[0]), nn.Linear)


def _classifier(state: Mapping[str, Any], module: nn.Module, full: Any) -> SourceClassifier | None:
    """The classifier of timm's network `full`, with the names of ImageNet's classes where it has those."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if not _is_plain(module, full):
        return None
    classifier = linear_classifier(divided(state, _classifier_keys(module, full))[1])
    subset = infer_imagenet_subset(full.pretrained_cfg)
    if classifier is None or subset is None:
        return classifier
    info = ImageNetInfo(subset)
    rows = range(len(classifier.weight))
    if info.num_classes() != len(rows):
        return classifier
    return replace(classifier, classes=tuple(info.index_to_description(row).split(",")[0] for row in rows))


def _without_values(classifier: SourceClassifier | None) -> SourceClassifier | None:
    if classifier is None:
        return None
    bias = None if classifier.bias is None else classifier.bias.to("meta")
    return replace(classifier, weight=classifier.weight.to("meta"), bias=bias)


def _triple(values: Any, default: Triple) -> Triple:
    if not values:
        return default
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _hub_files(own: str | None) -> tuple[str, ...]:
    return (own, *_HUB_FILES) if own else _HUB_FILES


def _hub_address(url: str) -> str:
    """The address where huggingface_hub looks, which the environment can move to a mirror."""
    from huggingface_hub import constants

    return url.replace("https://huggingface.co", constants.ENDPOINT)
