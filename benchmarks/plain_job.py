"""The plain way: Lightning, timm, DataLoader and torchmetrics, as most scripts have it.

The frozen part has ``requires_grad=False`` and is in eval mode. Images are decoded and resized in every epoch, or once
before the first one and kept in memory. A process runs one job; where it is given several, one after the other, each
says what it took itself, and what the start of the process took is said apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

started = time.perf_counter()

import pytorch_lightning as pl  # noqa: E402 - the imports are part of what a job costs
import timm  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchmetrics.classification import MulticlassAccuracy  # noqa: E402
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms.functional import pil_to_tensor  # noqa: E402


class Plain(pl.LightningModule):
    """A timm model of which the first groups are frozen."""

    def __init__(self, arguments: argparse.Namespace, names: list[str] | None, classes: int) -> None:
        super().__init__()
        extra = {"img_size": arguments.size} if "vit" in arguments.model else {}
        model: Any = timm.create_model(arguments.model, pretrained=False, num_classes=classes, **extra)
        self.model = model
        self.lr = arguments.lr
        self.frozen: list[nn.Module] = []
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.epoch_seconds: list[float] = []
        self._epoch_began = 0.0
        head = {f"{model.default_cfg['classifier']}.{name}" for name in ("weight", "bias")}
        self.layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
        self.model.to(memory_format=self.layout)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad = names is None or name in names or name in head
        self._collect(self.model)

    def _collect(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            self.frozen.append(module)
            return
        for child in module.children():
            self._collect(child)

    def on_train_epoch_start(self) -> None:
        """Keep the frozen part in eval mode."""
        self._epoch_began = time.perf_counter()
        for module in self.frozen:
            module.eval()

    def on_train_epoch_end(self) -> None:
        """Training and validation of the epoch are through."""
        settle(self.device)
        self.epoch_seconds.append(time.perf_counter() - self._epoch_began)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits; images that come as bytes are normalised here."""
        if images.dtype == torch.uint8:
            images = (images.float() / 255.0 - 0.5) / 0.5
        logits: torch.Tensor = self.model(images.to(memory_format=self.layout))
        return logits

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Accuracy and loss."""
        logits = self(batch[0])
        self.accuracy(logits, batch[1])
        self.log("val/top1", self.accuracy, on_epoch=True)
        self.log("val/loss", F.cross_entropy(logits, batch[1]), on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over what trains."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trainable, lr=self.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


class Decoded(Dataset[tuple[torch.Tensor, int]]):
    """The images of a folder, decoded and resized once: bytes in memory."""

    def __init__(self, folder: Path, size: int, threads: int) -> None:
        files = ImageFolder(folder, transforms.Resize((size, size)))
        with ThreadPoolExecutor(max(1, threads)) as pool:
            self._images = torch.stack(list(pool.map(lambda index: pil_to_tensor(files[index][0]), range(len(files)))))
        self._labels = files.targets

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._images[index], self._labels[index]


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def image_sets(arguments: argparse.Namespace, read: str) -> list[Any]:
    """Training and validation images, read from files each time or from memory."""
    folders = [arguments.root / part for part in ("train", "val")]
    if read == "memory":
        return [Decoded(folder, arguments.size, arguments.workers) for folder in folders]
    steps = [transforms.Resize((arguments.size, arguments.size)), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])
    return [ImageFolder(folder, transform) for folder in folders]


def job(arguments: argparse.Namespace, names: list[str] | None, sets: list[Any]) -> dict[str, Any]:
    """Train and validate; its seconds and its peak of memory."""
    on_gpu = arguments.accelerator == "gpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    pl.seed_everything(arguments.seed, verbose=False)
    loaders = [
        DataLoader(
            part,
            batch_size=arguments.batch_size,
            shuffle=part is sets[0],
            num_workers=arguments.workers,
            persistent_workers=arguments.workers > 0,
            pin_memory=on_gpu,
        )
        for part in sets
    ]
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        accelerator=arguments.accelerator,
        precision=arguments.precision,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    began = time.perf_counter()
    model = Plain(arguments, names, len(list((arguments.root / "train").iterdir())))
    trainer.fit(model, loaders[0], loaders[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "fit_seconds": time.perf_counter() - began,
        "epoch_seconds": model.epoch_seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak,
    }


@contextmanager
def only_what_is_wrong() -> Iterator[None]:
    """Without Lightning's advice."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Run the jobs; prints a line of JSON for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--trainable", type=json.loads, nargs="+", default=[None], help="of each job the names")
    parser.add_argument("--read", choices=("files", "memory"), nargs="+", default=["files"])
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    torch.zeros(1, device="cuda" if arguments.accelerator == "gpu" else "cpu")
    start_seconds = time.perf_counter() - started
    with only_what_is_wrong():
        for read in arguments.read:
            began = time.perf_counter()
            sets = image_sets(arguments, read)
            about = {"read": read, "start_seconds": start_seconds, "read_seconds": time.perf_counter() - began}
            for number, names in enumerate(arguments.trainable):
                print(json.dumps({"job": number, **about, **job(arguments, names, sets)}), flush=True)


if __name__ == "__main__":
    main()
