"""What the runs of one process share: data sets, source networks, thaw lines, hashes. Nothing that a run may change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

from thawline.adapters import Attached, attach, refuse_unused
from thawline.datasets import not_reading
from thawline.errors import UsageError, first_line, usage_error
from thawline.files import sha256_of_file
from thawline.heads import strides_of
from thawline.network import Network, SourceClassifier
from thawline.preprocessing import Preprocessing
from thawline.records import require_record, run_folder
from thawline.runtime.steps import step
from thawline.store.store import Store
from thawline.tasks import SpatialTask

if TYPE_CHECKING:
    from pathlib import Path

    from thawline.backbones import Backbone, BackboneSpec
    from thawline.datasets import Dataset, Splits
    from thawline.network.model import TransferModel
    from thawline.planning.settings import CacheSettings, RunSettings
    from thawline.transforms import Transform

_Made = TypeVar("_Made")
_MOST = {"backbone": 3, "decoded": 3, "features": 4, "regularizer": 4, "source activations": 4}
"""How many of a kind are kept, those used last: what takes memory must not pile up in a sweep over backbones or data
sets. A run has use for a backbone, its source and its teacher."""


class Memo:
    """Keeps what was made once."""

    def __init__(self) -> None:
        self._made: dict[str, dict[Hashable, object]] = {}

    def once(self, kind: str, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` gives, made at the first call with this kind and key, and kept among the last of its kind."""
        made = self._made.setdefault(kind, {})
        found: _Made = made.pop(key) if key in made else make()  # type: ignore[assignment]  # the kind fixes the type
        made[key] = found
        while len(made) > _MOST.get(kind, len(made)):
            made.pop(next(iter(made)))
        return found


class SharedData:
    """Data sets and the store of their decoded images and values."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo

    def splits(self, settings: RunSettings) -> Splits:
        """The data set of these settings, drawn by their data seed."""
        return self.loaded(settings.dataset, settings)

    def loaded(self, dataset: Dataset, settings: RunSettings) -> Splits:
        """A data set, drawn by the settings' data seed."""

        def load() -> Splits:
            own = settings.output_dir
            # Where the folder of the outputs is that of the data, only what the program makes there is left out.
            with not_reading(own, own / "runs", own / "sweeps", settings.cache.dir):
                return dataset.load(settings.data_seed, settings.cache.dir / "digests")

        return self._memo.once("splits", f"{dataset!r} {settings.data_seed}", load)

    def store(self, cache: CacheSettings) -> Store | None:
        """The store for decoded images and values at the thaw line, unless it is off."""
        if cache.mode == "off":
            return None
        return self._memo.once("store", f"{cache.dir} {cache.max_bytes}", lambda: Store(cache.dir, cache.max_bytes))


class SharedNetworks:
    """Source networks: their shapes and names, and copies with weights."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo

    def skeleton(self, settings: RunSettings) -> Backbone:
        """The source network on the meta device: its shapes and names; nothing is loaded and no memory taken."""
        known, strides = self.known_of_weights(settings.backbone, settings), strides_of(settings.head)

        def make() -> Backbone:
            return _giving(settings.backbone, strides, settings.backbone.skeleton(known))

        return self._memo.once("skeleton", (repr(settings.backbone), repr(known), strides), make)

    def known_of_weights(self, backbone: BackboneSpec, settings: RunSettings) -> Preprocessing:
        """What is known of the images of weights that another run makes or made."""
        weights = str(backbone.weights)
        if settings.source is not None and backbone is settings.backbone:
            return self.preprocessing(settings.source)
        if weights.startswith("run:"):
            record = require_record(run_folder(settings.output_dir, weights.removeprefix("run:")))
            return record.preprocessing or Preprocessing()
        return Preprocessing()

    def preprocessing(self, settings: RunSettings) -> Preprocessing:
        """How images become the input of a run's network: by its transform, and its backbone's mean and std."""
        return self.transform(settings).preprocessing(self.skeleton(settings).preprocessing)

    def transform(self, settings: RunSettings) -> Transform:
        """How an image becomes the run's input, with the backbone's values in the place of every None.

        Raises:
            UsageError: it does not fit the task's targets, which may lie in the image.
        """
        own, task = self.skeleton(settings).preprocessing, settings.task

        def make() -> Transform:
            fitted = settings.transform.fitted(own, whole=isinstance(task, SpatialTask))
            fitted.check_targets(task.TARGET)
            return fitted

        return self._memo.once("transform", (repr(settings.transform), repr(own), task.TARGET), make)

    def check_size(self, settings: RunSettings) -> None:
        """Refuse images of a size that the source network does not take, whose own size may be another.

        Raises:
            UsageError: it runs with images of its own size and not with those of the transform.
        """
        from thawline.layer_groups import META_FAILURES, trace

        skeleton, size = self.skeleton(settings), self.transform(settings).output_size

        def check() -> None:
            try:
                trace(skeleton.module, size)
            except META_FAILURES as error:
                # A network of one's own may need more than shapes, at any size.
                if _runs(skeleton):
                    what = f"{skeleton.name} does not take images of {size[0]} x {size[1]} pixels"
                    remedy = _built_for(settings.backbone, size)
                    raise usage_error("transform.size", f"{what}{remedy}: {first_line(error)}") from None

        if size != skeleton.input_size:
            key = (repr(settings.backbone), repr(skeleton.preprocessing), strides_of(settings.head), size)
            self._memo.once("size", key, check)

    def network(
        self, settings: RunSettings, outputs: tuple[str, ...], classifier: SourceClassifier | None = None
    ) -> Network:
        """The parameters of the settings' model by name; `classifier` is what a source in training will have."""
        from thawline.network.model import network_of

        def make() -> Network:
            model, attached = self.model_skeleton(settings, outputs, classifier)
            return network_of(model, attached.groups, attached.parameters)

        known = classifier.classes if classifier is not None else ()
        key = f"{settings.backbone!r} {settings.adapter!r} {settings.head!r} {outputs} {known}"
        return self._memo.once("network", key, make)

    def model_skeleton(
        self, settings: RunSettings, outputs: tuple[str, ...], classifier: SourceClassifier | None = None
    ) -> tuple[TransferModel, Attached]:
        """The settings' model on the meta device, and what its adapter has attached."""
        import torch

        from thawline.network.model import TransferModel

        backbone = copy.deepcopy(self.skeleton(settings))
        attached = Attached(backbone.groups, ())
        with torch.device("meta"):
            if settings.adapter is not None:
                attached = attach(settings.adapter, backbone.module, backbone.groups, backbone.input_size, seed=0)
                refuse_unused(backbone.module, attached, backbone.input_size)
            source = backbone.source_classifier or classifier
            features = backbone.features(self.transform(settings).output_size)
            head = settings.head.build(features, outputs, source, seed=0)
            return TransferModel(backbone.module, head, backbone.mean, backbone.std), attached

    def backbone(
        self,
        spec: BackboneSpec,
        seed: int,
        weights_file: Path | None,
        known: Preprocessing,
        strides: Sequence[int] = (),
        check: Callable[[], None] = lambda: None,
        content: str = "",
    ) -> Backbone:
        """A fresh copy of a network with its weights; `seed` decides random ones (`BackboneSpec.build`).

        With `strides`, it gives its maps at these. `content` is what its weights file has to hold, and `check` is
        called when it has been read.
        """
        random = spec.weights is None
        key = f"{spec!r} {weights_file} {content} {known!r} {seed if random else ''} {strides}"

        def build() -> Backbone:
            with step("loading weights"):
                built = _giving(spec, strides, spec.build(seed=seed, weights_file=weights_file, known=known))
            check()
            return built

        return copy.deepcopy(self._memo.once("backbone", key, build))


def _runs(skeleton: Backbone) -> bool:
    """Whether the network runs without values, with images of its own size."""
    from thawline.layer_groups import META_FAILURES, trace

    try:
        trace(skeleton.module, skeleton.input_size)
    except META_FAILURES:
        return False
    return True


def _built_for(spec: BackboneSpec, size: tuple[int, int]) -> str:
    """What to write where the network can be built for images of this size."""
    from thawline.backbones.backbone import LibraryBackbone

    if not isinstance(spec, LibraryBackbone) or size[0] != size[1]:
        return ""
    try:
        spec.model_copy(update={"input_size": size[0]}).skeleton()
    except UsageError:
        return ""
    return f" (backbone.input_size={size[0]} builds it for them)"


def _giving(spec: BackboneSpec, strides: Sequence[int], backbone: Backbone) -> Backbone:
    """The backbone as it is, or giving its maps at these strides."""
    from thawline.backbones.maps import as_maps

    return as_maps(backbone, strides, getattr(spec, "granularity", "block")) if strides else backbone


class FileHashes:
    """The SHA-256 of files."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo

    def of(self, path: Path) -> str:
        """The SHA-256 of a file, read once while nothing shows that it was written to."""
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return self._memo.once("hash", f"{path} {stamp}", lambda: sha256_of_file(path))
