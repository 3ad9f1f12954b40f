"""A peer for fine-tuning: Lightning's ``BackboneFinetuning``, as its documentation writes it."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import ImageFolder


class TransferLearningModel(pl.LightningModule):
    """A backbone and a head; the callback freezes the backbone, and lets it train from an epoch on."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, classes)
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.validated: list[float] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Accuracy."""
        self.accuracy.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Keep the accuracy."""
        self.validated.append(float(self.accuracy.compute()))
        self.accuracy.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The head's at first; the callback adds the backbone's."""
        return torch.optim.Adam(self.head.parameters(), lr=1e-3)


def main() -> None:
    """One job; prints the accuracy on validation after each epoch as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--unfreeze-at", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    pl.seed_everything(arguments.seed, verbose=False)
    backbone: Any = timm.create_model(arguments.model, pretrained=False)
    backbone.load_state_dict(load_file(arguments.weights))
    backbone.reset_classifier(0)
    mean, std = backbone.default_cfg["mean"], backbone.default_cfg["std"]
    resize = transforms.Resize((arguments.size, arguments.size), transforms.InterpolationMode.BICUBIC)
    transform = transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(mean, std)])
    train, val = (ImageFolder(arguments.root / part, transform) for part in ("train", "val"))
    loaders = [DataLoader(part, batch_size=64, shuffle=part is train) for part in (train, val)]
    finetuning = BackboneFinetuning(
        unfreeze_backbone_at_epoch=arguments.unfreeze_at,
        lambda_func=lambda epoch: 1.5,
        backbone_initial_ratio_lr=0.1,
    )
    model = TransferLearningModel(backbone, backbone.num_features, len(train.classes))
    pl.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[finetuning],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(model, loaders[0], loaders[1])
    print(json.dumps(model.validated))


if __name__ == "__main__":
    main()
