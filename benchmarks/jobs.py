"""What is compared: jobs of the plain way, and commands of thawline that do the same work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.images import REPOSITORY

DEPTHS = ("0", "1", "2", "4", "all")


@dataclass(frozen=True)
class Setup:
    """A network on images of one size, and how it is trained.

    Attributes:
        model: timm's name.
        backbone: thawline's option.
        size: pixels, height and width.
        photographs: whether the images are photographs, not small ones.
        workers: processes that read images ahead, in the plain way.
        channels_last: whether the layout is channels last, in both ways; None: as each does by default.
    """

    model: str
    backbone: str
    size: int
    photographs: bool = False
    accelerator: str = "cpu"
    precision: str = "32-true"
    workers: int = 0
    channels_last: bool | None = None
    epochs: int = 5
    batch: int = 64

    @property
    def title(self) -> str:
        """Network and size."""
        return f"{self.model} at {self.size} px"

    @property
    def has_fixed_size(self) -> bool:
        """Whether the network is built for one size of its input."""
        return "vit" in self.model


def plain_job(setup: Setup, images: Path, depths: Sequence[str], *more: str) -> list[str]:
    """What Python is given to run a job of the plain way for each of these depths, in one process."""
    options = ["--root", str(images), "--model", setup.model, "--size", str(setup.size), "--seed", "0"]
    options += ["--epochs", str(setup.epochs), "--batch-size", str(setup.batch), "--accelerator", setup.accelerator]
    options += ["--precision", setup.precision, "--workers", str(setup.workers)]
    options += ["--channels-last"] if setup.channels_last else []
    options += ["--trainable", *_trainable(setup, depths)]
    return [str(REPOSITORY / "benchmarks" / "plain_job.py"), *options, *more]


def _trainable(setup: Setup, depths: Sequence[str]) -> list[str]:
    """Of each depth the names of the backbone's parameters that train, as JSON; null for all."""
    groups = groups_of(setup)
    chosen = [groups if k == "all" else groups[len(groups) - int(k) :] for k in depths]
    names = [[name for group in part for name in group] for part in chosen]
    return ["null" if k == "all" else json.dumps(each) for k, each in zip(depths, names, strict=True)]


def groups_of(setup: Setup) -> list[list[str]]:
    """The parameter names of each layer group, as timm names them."""
    from thawline.backbones import TimmBackbone

    spec = TimmBackbone(name=setup.model, input_size=setup.size if setup.has_fixed_size else None)
    return [list(group.parameters) for group in spec.skeleton().groups]


def command(setup: Setup, images: Path, folder: Path, *overrides: str) -> list[str]:
    """What Python is given to run a sweep of thawline in `folder`; random weights are put there first."""
    if not (folder / "weights.safetensors").exists():
        _random_weights(setup, folder / "weights.safetensors")
    fixed = [
        f"backbone={setup.backbone}", f"backbone.name={setup.model}", "backbone.weights=weights.safetensors",
        *([f"backbone.input_size={setup.size}"] if setup.has_fixed_size else []),
        "dataset=image_folder", f"dataset.root={images}", "transform=squash", f"transform.size={setup.size}",
        "optimizer=sgd", f"trainer.max_epochs={setup.epochs}", f"trainer.batch_size={setup.batch}",
        f"trainer.accelerator={setup.accelerator}", f"trainer.precision={setup.precision}", "logger=none",
        "data_seed=0", "sweep.report=false",
        *([] if setup.channels_last is None else [f"trainer.channels_last={str(setup.channels_last).lower()}"]),
    ]  # fmt: skip
    return ["-m", "thawline", "train", "-m", *fixed, *overrides]


def _random_weights(setup: Setup, path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    extra: dict[str, Any] = {"img_size": setup.size} if setup.has_fixed_size else {}
    model = timm.create_model(setup.model, pretrained=False, **extra)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def records(folder: Path, outputs: str = "outputs") -> dict[Path, dict[str, Any]]:
    """The records of the runs that have ended, by their folder, in the order in which they began."""
    found = {path.parent: json.loads(path.read_text()) for path in folder.glob(f"{outputs}/runs/*/record.json")}
    return dict(sorted(found.items(), key=lambda item: str(item[1]["provenance"]["started_at"])))


def depth_of(record: dict[str, Any]) -> str:
    """The depth of a run, as in `DEPTHS`."""
    return str(record["config"]["freeze_policy"]["k"])


def least_flops(setup: Setup, record: dict[str, Any], seeds: int) -> float:
    """The FLOPs of one of `seeds` runs that nothing can save: suffix forward and backward, validation, prefix once."""
    line = record["phases"][0]["thaw_line"]
    suffix = line.get("suffix_flops_per_sample")
    if suffix is None:
        return float("nan")
    train, val = (record["splits"][part]["samples"] for part in ("train", "val"))
    return float(setup.epochs * (3 * train + val) * suffix + (train + val) * line["prefix_flops_per_sample"] / seeds)
