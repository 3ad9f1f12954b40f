"""Valid records without training, for every test that reads records: ``from tests.make_records import record``."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thawline.randomness import generator
from thawline.records import Record, identity_of, write_record

# The layer groups of a ResNet-18 without its classifier, and how many parameters each has.
RESNET18 = (
    ("stem", 9_536),
    ("layer1.0", 73_984),
    ("layer1.1", 73_984),
    ("layer2.0", 230_144),
    ("layer2.1", 295_424),
    ("layer3.0", 919_040),
    ("layer3.1", 1_180_672),
    ("layer4.0", 3_673_088),
    ("layer4.1", 4_720_640),
)
PROVENANCE: dict[str, Any] = {
    "python": "3.11.9",
    "packages": {"thawline": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"},
    "commit": {"sha": "0" * 40, "dirty_sha256": None},
    "hardware": {"platform": "Linux", "processor": "2 x CPU", "cores": 2, "gpus": []},
    "threads": 2,
    "data_fingerprint": "0" * 64,
    "weights": {"description": "timm resnet18", "sha256": None},
}
RECIPE: dict[str, Any] = {
    "optimizer": "SGD(momentum=0.9)",
    "lr": 0.01,
    "weight_decay": "0.0001 (not norms and biases)",
    "learning_rates": "Uniform",
    "schedule": "Cosine(warmup=0.1)",
    "epochs": 10,
    "early_stopping": None,
    "batch_size": 64,
    "gradient_clip": None,
    "label_smoothing": 0.0,
    "precision": "32-true",
    "input_size": [224, 224],
    "resize": "crop",
    "augmentation": ["RandomHorizontalFlip(p=0.5)"],
    "head": "Linear",
    "adapter": None,
    "regularizers": {},
    "probe": None,
}
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")


def record(
    overrides: Sequence[str] = (),
    *,
    k: int = 0,
    groups: Sequence[tuple[str, int]] = RESNET18,
    metrics: Mapping[str, Mapping[str, float | None]] | None = None,
    classes: Sequence[str] = CLASSES,
    additions: Sequence[str] = (),
    counted_from: str = "output",
    **changes: Any,
) -> Record:
    """A valid record of a run that trained `k` of `groups` and a linear head; `changes` replace fields.

    The groups are counted from the output or the input; `additions` is what the strategy adds to training them.
    """
    chosen = range(k) if counted_from == "input" else range(len(groups) - k, len(groups))
    layer_groups = [
        {"index": index, "name": name, "parameters": size, "trained": size if index in chosen else 0}
        for index, (name, size) in enumerate(groups)
    ]
    head = 512 * len(classes) + len(classes)
    total = head + sum(size for _, size in groups)
    trainable = head + sum(groups[index][1] for index in chosen)
    trains = "head" if k == 0 else "all" if k == len(groups) else "part"
    splits = {"train": 500, "val": 100, "test": 200}
    values: dict[str, Any] = {
        "identity": identity_of({"overrides": list(overrides)}),
        "config": {"freeze_policy": {"_target_": "thawline.freeze_policies.LastK", "k": k}},
        "overrides": list(overrides),
        "strategy": {"trains": trains, "additions": list(additions), "counted_from": counted_from},
        "recipe": RECIPE,
        "classes": list(classes),
        "provenance": PROVENANCE,
        "splits": {
            name: {"samples": n, "sha256": f"{n:064x}", "per_class": [n // max(1, len(classes))] * len(classes)}
            for name, n in splits.items()
        },
        "layer_groups": layer_groups,
        "parameters": {"total": total, "trainable": trainable, "frozen": total - trainable, "head": head},
        "phases": [
            {"name": "main", "epochs": 10, "trainable_parameters": trainable, "trainable_tensors": 2 + 3 * k}
            | {"optimizer_groups": [{"lr": 1e-3, "parameters": trainable}]}
        ],
        "history": [
            {"phase": "main", "epoch": epoch, "train/loss": 2.0 / (epoch + 1), "val/top1": 0.8 - 0.02 * abs(7 - epoch)}
            for epoch in range(10)
        ],
        "selection": {"monitor": "val/top1", "mode": "max", "value": 0.8, "phase": 0, "epoch": 7},
        "metrics": metrics or {"val": scores(0.8), "test": scores(0.78)},
        "freeze_contract": {
            "phases": [
                {"phase": "main", "frozen_tensors": 60 - 3 * k, "trainable_tensors": 2 + 3 * k, "checks": 2}
                | {"frozen_parameters": total - trainable, "trainable_parameters": trainable}
            ]
        },
        "cost": {
            "total_seconds": 12.0 + 2.5 * k,
            "train_seconds": 10.0 + 2.5 * k,
            "evaluate_seconds": 2.0,
            "peak_memory_bytes": (400 + 60 * k) * 2**20,
            "train_samples_per_second": 500.0,
        },
    }
    return Record.model_validate({**values, **changes})


def scores(top1: float | None) -> dict[str, float | None]:
    """The metrics of a classification split around a top-1 accuracy; None (a diverged run) makes all of them None."""
    names = ("loss", "top1", "top5", "macro_accuracy", "macro_f1", "calibration_error")
    if top1 is None:
        return dict.fromkeys(names)
    return dict(zip(names, (1 - top1, top1, (1 + top1) / 2, top1 - 0.01, top1 - 0.02, 0.04), strict=True))


def sweep(
    outputs: Path,
    axes: Mapping[str, Sequence[str]],
    make: Callable[[list[str], dict[str, str]], Record | None],
    name: str = "sweep",
) -> Path:
    """Write a sweep over the product of `axes` under `outputs`, as a real one lies there, and give its folder.

    `make` gets the overrides of a cell and its place on the axes, and gives its record, or None for a missing run.
    """
    cells = []
    for values in itertools.product(*axes.values()):
        place = dict(zip(axes, values, strict=True))
        overrides = [f"{axis}={value}" for axis, value in place.items()]
        made = make(overrides, place)
        if made is not None:
            write_record(outputs / "runs" / made.identity, made)
        identity = made.identity if made is not None else identity_of({"overrides": overrides})
        cells.append({"identity": identity, "overrides": overrides})
    return write_sweep(outputs, axes, cells, name)


def write_sweep(
    outputs: Path, axes: Mapping[str, Sequence[str]], cells: Sequence[Mapping[str, Any]], name: str = "sweep"
) -> Path:
    """Write the ``sweep.json`` of `cells`; the folder has a tame name, whatever the sweep is called."""
    folder = outputs / "sweeps" / ("".join(c for c in name if c.isalnum() or c in "-_")[:40] or "sweep")
    folder.mkdir(parents=True, exist_ok=True)
    command = "thawline train -m " + " ".join(f"{axis}={','.join(values)}" for axis, values in axes.items())
    described = {
        "schema_version": 1,
        "name": name,
        "command": command,
        "axes": {axis: list(values) for axis, values in axes.items()},
        "cells": list(cells),
        "runs_folder": "../../runs",
    }
    (folder / "sweep.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def depth_sweep(
    outputs: Path,
    depths: Sequence[int] = range(10),
    seeds: int = 3,
    axes: Mapping[str, Sequence[str]] | None = None,
    name: str = "depths",
) -> Path:
    """Depths x seeds (x further axes) with accuracies that rise, peak and fall as those of real sweeps do."""
    further = dict(axes or {})
    grid = {**further, "freeze_policy.k": [str(k) for k in depths], "seed": [str(seed) for seed in range(seeds)]}
    return sweep(outputs, grid, lambda overrides, place: _at_depth(overrides, place, further), name)


def strategy_sweep(outputs: Path, strategies: Mapping[str, tuple[int, float]], seeds: int = 3) -> Path:
    """One axis of strategies, each with the depth it trains and the accuracy around which its seeds lie."""

    def make(overrides: list[str], place: dict[str, str]) -> Record:
        k, level = strategies[place["freeze_policy"]]
        name = place["freeze_policy"]
        additions = [] if name in ("linear_probe", "full", "full_fine_tuning", "last_k") else [name]
        return record(overrides, k=k, metrics=_noisy(level, name, place["seed"]), additions=additions)

    grid = {"freeze_policy": list(strategies), "seed": [str(seed) for seed in range(seeds)]}
    return sweep(outputs, grid, make, "strategies")


def predictions(labels: Sequence[int], right: Sequence[bool], classes: int) -> dict[str, np.ndarray]:
    """The arrays of a ``predictions.npz`` whose model is right exactly on the samples of `right`."""
    label = np.asarray(labels, dtype=np.int64)
    said = np.where(np.asarray(right), label, (label + 1) % classes)
    probabilities = np.full((label.size, classes), 0.1, dtype=np.float32)
    probabilities[np.arange(label.size), said] = 0.9
    return {"index": np.arange(label.size), "label": label, "probabilities": probabilities}


def _at_depth(overrides: list[str], place: dict[str, str], further: Mapping[str, Sequence[str]]) -> Record:
    k = int(place["freeze_policy.k"])
    which = [list(values).index(place[axis]) for axis, values in further.items()]
    level = 0.80 + 0.075 * math.sin(math.pi * min(k, 9) / 12) - 0.028 * sum(which) + 0.002 * k * sum(which)
    return record(overrides, k=k, metrics=_noisy(level, k, place["seed"], *which))


def _noisy(level: float, *key: int | str) -> dict[str, dict[str, float | None]]:
    # The seed moves all strategies together, as a data split does; the rest is a strategy's own.
    shared = generator("shared", str(key[1])).normal(0, 0.006)
    own = generator("own", *(str(part) for part in key)).normal(0, 0.004, size=2)
    return {"val": scores(round(level + shared + own[0] + 0.004, 4)), "test": scores(round(level + shared + own[1], 4))}
