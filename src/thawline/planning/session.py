"""What the runs of one process share: data sets, decoded images, source networks. Nothing that a run may change."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from thawline.adapters import Attached, attach, refuse_unused
from thawline.datasets import not_reading
from thawline.files import sha256_of_file
from thawline.network import Network, SourceClassifier
from thawline.network.model import TransferModel, network_of
from thawline.preprocessing import Preprocessing
from thawline.records import require_record, run_folder
from thawline.runtime.clock import now
from thawline.runtime.cores import CoreUse
from thawline.runtime.memory import free_what_earlier_runs_made
from thawline.runtime.steps import step
from thawline.store.store import Entry, Store
from thawline.thaw_line.partition import ThawLine, partition

if TYPE_CHECKING:
    from pathlib import Path

    from thawline.backbones import Backbone, BackboneSpec
    from thawline.datasets import Dataset, Splits
    from thawline.freeze_policies import Phase
    from thawline.planning.settings import CacheSettings, RunSettings

_Made = TypeVar("_Made")
_MOST_LINES = 16
_MOST = {"backbone": 3, "decoded": 3, "features": 4, "regularizer": 4, "source activations": 4}
"""How many of a kind are kept, those used last: what takes memory must not pile up in a sweep over backbones or data
sets. A run has use for a backbone, its source and its teacher."""


class Workbench:
    """A process's shared inputs, each made once and handed out read-only (networks: as copies).

    `runs` is how many runs are expected to share them; it only weighs whether storing pays. `began` is when the command
    began, and `core_use` counts from then on what other processes use.
    """

    def __init__(self, runs: int = 1) -> None:
        self.runs = runs
        self.began = now("milliseconds")
        self.core_use = CoreUse()
        self._made: dict[str, dict[str, object]] = {}
        self._lines: dict[str, list[tuple[ThawLine, Entry]]] = {}
        self._model_key = ""
        self._model: TransferModel | None = None
        self._partitions: dict[tuple[object, ...], ThawLine] = {}

    def once(self, kind: str, key: str, make: Callable[[], _Made]) -> _Made:
        """What `make` gives, made at the first call with this kind and key, and kept among the last of its kind."""
        made = self._made.setdefault(kind, {})
        found: _Made = made.pop(key) if key in made else make()  # type: ignore[assignment]  # the kind fixes the type
        made[key] = found
        while len(made) > _MOST.get(kind, len(made)):
            made.pop(next(iter(made)))
        return found

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

        return self.once("splits", f"{dataset!r} {settings.data_seed}", load)

    def store(self, cache: CacheSettings) -> Store | None:
        """The store for decoded images and values at the thaw line, unless it is off."""
        if cache.mode == "off":
            return None
        return self.once("store", f"{cache.dir} {cache.max_bytes}", lambda: Store(cache.dir, cache.max_bytes))

    def skeleton(self, settings: RunSettings) -> Backbone:
        """The source network on the meta device: its shapes and names; nothing is loaded and no memory taken."""
        known = self.known_of_weights(settings.backbone, settings)
        return self.once("skeleton", f"{settings.backbone!r} {known!r}", lambda: settings.backbone.skeleton(known))

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
        own = self.skeleton(settings).preprocessing
        return settings.transform.fitted(own).preprocessing(own)

    def network(
        self, settings: RunSettings, classes: tuple[str, ...], classifier: SourceClassifier | None = None
    ) -> Network:
        """The parameters of the settings' model by name; `classifier` is what a source in training will have."""

        def make() -> Network:
            model, attached = self.model_skeleton(settings, classes, classifier)
            return network_of(model, attached.groups, attached.parameters)

        known = classifier.classes if classifier is not None else ()
        key = f"{settings.backbone!r} {settings.adapter!r} {settings.head!r} {classes} {known}"
        return self.once("network", key, make)

    def model_skeleton(
        self, settings: RunSettings, classes: tuple[str, ...], classifier: SourceClassifier | None = None
    ) -> tuple[TransferModel, Attached]:
        """The settings' model on the meta device, and what its adapter has attached."""
        backbone = copy.deepcopy(self.skeleton(settings))
        attached = Attached(backbone.groups, ())
        with torch.device("meta"):
            if settings.adapter is not None:
                attached = attach(settings.adapter, backbone.module, backbone.groups, backbone.input_size, seed=0)
                refuse_unused(backbone.module, attached, backbone.input_size)
            source = backbone.source_classifier or classifier
            head = settings.head.build(backbone.feature_dim, classes, source, seed=0)
            return TransferModel(backbone.module, head, backbone.mean, backbone.std), attached

    def backbone(self, spec: BackboneSpec, seed: int, weights_file: Path | None, known: Preprocessing) -> Backbone:
        """A fresh copy of a network with its weights; `seed` decides random ones (`BackboneSpec.build`)."""
        random = spec.weights is None
        key = f"{spec!r} {weights_file} {known!r} {seed if random else ''}"

        def build() -> Backbone:
            with step("loading weights"):
                return spec.build(seed=seed, weights_file=weights_file, known=known)

        return copy.deepcopy(self.once("backbone", key, build))

    def device(self, settings: RunSettings) -> torch.device:
        """Where the run computes; of several devices, this process's."""
        if settings.trainer.accelerator == "mps":
            return torch.device("mps")
        if settings.trainer.accelerator != "cpu" and torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    def settled(self, key: str, fresh: TransferModel) -> TransferModel:
        """A model with the state of `fresh`: that of the run before, if it is built alike, so that its partitions hold.

        Args:
            key: the same for models that are built alike and start from the same source weights.
            fresh: a new model.
        """
        if (
            self._model is None
            or key != self._model_key
            or self._model.state_dict().keys() != fresh.state_dict().keys()
        ):
            is_first = self._model is None
            self._model_key, self._model = key, fresh
            # Both hold the old model.
            self._partitions, self._lines = {}, {}
            if not is_first:
                free_what_earlier_runs_made()
            return fresh
        model = self._model.to(fresh.pixel_mean.device)
        with torch.no_grad():
            model.load_state_dict(fresh.state_dict())
        model.set_trainable(())
        return model

    def thaw_line(self, model: TransferModel, phase: Phase, example: torch.Tensor, *, reuse: bool) -> ThawLine:
        """The partition of a model that is about to train a phase.

        With `reuse`, everything frozen has its source weights; then the partition is kept for the runs to come.
        """
        key = (phase.trainable, phase.running_statistics, tuple(example.shape), example.device, id(model))
        kept = self._partitions.get(key)
        if kept is not None and reuse:
            return kept
        with step("tracing the network"):
            line = partition(model, phase.trainable, example)
        if reuse and model is self._model:
            self._partitions[key] = line
        return line

    def shallower(self, line: ThawLine, rows: str) -> tuple[Entry, nn.Module] | None:
        """Stored values of the same rows at a shallower line, the deepest there is, and the way on from there."""
        known = self._lines.get(rows, [])
        for other, entry in sorted(known, key=lambda pair: -pair[0].prefix_flops_per_sample):
            onward = line.continue_from(other)
            if onward is not None:
                return entry, onward
        return None

    def remember(self, line: ThawLine, rows: str, entry: Entry) -> None:
        """Values at `line` are stored for these rows: deeper lines can start from them.

        A line of a model that only passes through, such as a pack's, is not kept: it would hold the model.
        """
        if not any(line is kept for kept in self._partitions.values()):
            return
        known = self._lines.setdefault(rows, [])
        known[:] = [*(pair for pair in known if pair[0] is not line), (line, entry)][-_MOST_LINES:]

    def file_hash(self, path: Path) -> str:
        """The SHA-256 of a file, read once while nothing shows that it was written to."""
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return self.once("hash", f"{path} {stamp}", lambda: sha256_of_file(path))
