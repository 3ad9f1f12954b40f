"""What the runs of one process share: data sets, decoded images, source networks. Nothing that a run may change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from thawline.files import sha256_of_file
from thawline.network import Network
from thawline.tasks.model import TransferModel, network_of
from thawline.thaw_line.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from thawline.backbones import Backbone

    from thawline.datasets import Splits
    from thawline.runs.settings import CacheSettings, RunSettings

_Made = TypeVar("_Made")


class Workbench:
    """A process's shared inputs, each made once and handed out read-only (networks: as copies)."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], object] = {}

    def once(self, kind: str, key: str, make: Callable[[], _Made]) -> _Made:
        """What `make` gives, made at the first call with this kind and key."""
        if (kind, key) not in self._made:
            self._made[kind, key] = make()
        found: _Made = self._made[kind, key]  # type: ignore[assignment]  # the kind fixes the type
        return found

    def splits(self, settings: RunSettings) -> Splits:
        """The data set of these settings, drawn by their data seed."""
        key = f"{settings.dataset!r} {settings.data_seed}"
        return self.once(
            "splits", key, lambda: settings.dataset.load(settings.data_seed, settings.cache.dir / "digests")
        )

    def store(self, cache: CacheSettings) -> Store | None:
        """The store for decoded images and values at the thaw line, unless it is off."""
        if cache.mode == "off":
            return None
        return self.once("store", f"{cache.dir} {cache.max_bytes}", lambda: Store(cache.dir, cache.max_bytes))

    def skeleton(self, settings: RunSettings) -> Backbone:
        """The source network on the meta device: its shapes and names; nothing is loaded and no memory taken."""
        return self.once("skeleton", repr(settings.backbone), settings.backbone.skeleton)

    def network(self, settings: RunSettings, classes: tuple[str, ...]) -> Network:
        """The parameters of the settings' model by name."""

        def make() -> Network:
            backbone = self.skeleton(settings)
            with torch.device("meta"):
                head = settings.head.build(backbone.feature_dim, classes, backbone.source_classifier, seed=0)
                return network_of(TransferModel(backbone.module, head, backbone.mean, backbone.std), backbone.groups)

        return self.once("network", f"{settings.backbone!r} {settings.head!r} {classes}", make)

    def backbone(self, settings: RunSettings, weights_file: Path | None) -> Backbone:
        """A fresh copy of the source network with its weights."""
        spec, seed = settings.backbone, settings.seed
        random = spec.weights is None
        key = f"{spec!r} {weights_file} {seed if random else ''}"
        return copy.deepcopy(self.once("backbone", key, lambda: spec.build(seed=seed, weights_file=weights_file)))

    def file_hash(self, path: Path) -> str:
        """The SHA-256 of a file, read once while its size and time of change stay."""
        status = path.stat()
        return self.once("hash", f"{path} {status.st_size} {status.st_mtime_ns}", lambda: sha256_of_file(path))
