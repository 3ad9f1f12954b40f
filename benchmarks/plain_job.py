"""The plain way: one process per job. Lightning, timm, DataLoader and torchmetrics, as most scripts have it.

The frozen part has ``requires_grad=False`` and is in eval mode; images are decoded and resized in every epoch.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path

started = time.perf_counter()

import pytorch_lightning as pl  # noqa: E402 - the imports are part of what a job costs
import timm  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchmetrics.classification import MulticlassAccuracy  # noqa: E402
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402


class Plain(pl.LightningModule):
    """A timm model of which the first groups are frozen."""

    def __init__(self, arguments: argparse.Namespace, classes: int) -> None:
        super().__init__()
        extra = {"img_size": arguments.size} if arguments.model.startswith("vit") else {}
        self.model = timm.create_model(arguments.model, pretrained=False, num_classes=classes, **extra)
        self.lr = arguments.lr
        self.frozen: list[nn.Module] = []
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        names = set(json.loads(arguments.trainable)) if arguments.trainable else None
        head = {f"{self.model.default_cfg['classifier']}.{name}" for name in ("weight", "bias")}
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
        for module in self.frozen:
            module.eval()

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self.model(batch[0].to(memory_format=self.layout)), batch[1])

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Accuracy and loss."""
        logits = self.model(batch[0].to(memory_format=self.layout))
        self.accuracy(logits, batch[1])
        self.log("val/top1", self.accuracy, on_epoch=True)
        self.log("val/loss", F.cross_entropy(logits, batch[1]), on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over what trains."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trainable, lr=self.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


def main() -> None:
    """One job; prints its seconds and peak memory as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--trainable", default="", help="JSON list of backbone parameter names; empty: all")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    pl.seed_everything(arguments.seed, verbose=False)
    transform = transforms.Compose(
        [
            transforms.Resize((arguments.size, arguments.size)),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    train, val = (ImageFolder(arguments.root / part, transform) for part in ("train", "val"))
    loaders = [
        DataLoader(part, batch_size=arguments.batch_size, shuffle=shuffle, num_workers=arguments.workers)
        for part, shuffle in ((train, True), (val, False))
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
    fit_started = time.perf_counter()
    trainer.fit(Plain(arguments, len(train.classes)), *loaders)
    json.dump(
        {
            "fit_seconds": time.perf_counter() - fit_started,
            "total_seconds": time.perf_counter() - started,
            "peak_memory_bytes": torch.cuda.max_memory_allocated()
            or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
