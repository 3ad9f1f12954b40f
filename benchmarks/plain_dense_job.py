"""The plain way of masks and boxes: one process per job, a loop in torch as training references have it.

The head is the one that thawline trains, on the maps of the same network. What differs is that every image is decoded,
resized and taken through the frozen part in every epoch. The frozen part has ``requires_grad=False`` and is in eval
mode.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision
from torchvision.transforms.functional import normalize, pil_to_tensor

from thawline.backbones import TimmBackbone
from thawline.backbones.maps import as_maps
from thawline.heads.detection import FasterRCNN
from thawline.heads.segmentation import FPN


class Scenes(Dataset[tuple[torch.Tensor, Any]]):
    """The drawn images of one part at the input's size; targets in the pixels of the input."""

    def __init__(self, root: Path, part: str, size: tuple[int, int], boxes: bool) -> None:
        self.images, self.masks, self.size = root / part, root / f"{part}annot", size
        content = json.loads((root / "annotations" / f"instances_{part}.json").read_text())
        self.names = [image["file_name"] for image in content["images"]]
        self.sizes = [(image["height"], image["width"]) for image in content["images"]]
        objects: list[list[tuple[int, list[int]]]] = [[] for _ in self.names]
        for one in content["annotations"]:
            objects[one["image_id"]].append((one["category_id"] - 1, one["bbox"]))
        self.objects = objects if boxes else None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        height, width = self.size
        image = (
            Image.open(self.images / self.names[index]).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        )
        pixels = normalize(pil_to_tensor(image).float() / 255.0, [0.5] * 3, [0.5] * 3)
        if self.objects is None:
            mask = Image.open(self.masks / f"{Path(self.names[index]).stem}.png")
            resized = mask.resize((width, height), Image.Resampling.NEAREST)
            return pixels, torch.from_numpy(np.array(resized)).long()
        scale = torch.tensor([width / self.sizes[index][1], height / self.sizes[index][0]] * 2)
        corners = [[x, y, x + wide, y + high] for _, (x, y, wide, high) in self.objects[index]]
        labels = [label for label, _ in self.objects[index]]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4) * scale
        return pixels, {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64)}


class Plain(nn.Module):
    """Network and head; losses while training, logits or detections otherwise."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        size = tuple(arguments.size)
        head = FasterRCNN(**arguments.head) if arguments.boxes else FPN(**arguments.head)
        whole = TimmBackbone(name=arguments.model).build(seed=0)
        backbone = as_maps(whole, head.strides, "block")
        self.boxes, self.backbone = arguments.boxes, backbone.module
        self.classes = len(arguments.classes)
        self.head = head.build(backbone.features((size[0], size[1])), arguments.classes, None, seed=arguments.seed)
        groups = backbone.groups
        count = {"all": len(groups), "half": len(groups) // 2}.get(arguments.k, 0)
        names = {name for group in groups[len(groups) - count :] for name in group.parameters}
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad = name in names
        self.frozen = [
            module
            for module in self.backbone.modules()
            if not any(parameter.requires_grad for parameter in module.parameters())
        ]

    def train(self, mode: bool = True) -> Plain:
        """Keep the frozen part in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def loss(self, images: torch.Tensor, targets: Any) -> torch.Tensor:
        """What is minimised."""
        maps = self.backbone(images)
        if self.boxes:
            return torch.stack(list(self.head(maps, targets).values())).sum()
        return F.cross_entropy(self.head(maps), targets, ignore_index=255)


def together(batch: list[tuple[torch.Tensor, Any]]) -> tuple[torch.Tensor, Any]:
    """Images stacked; masks too, boxes as a list."""
    targets: Any = [target for _, target in batch]
    return torch.stack([image for image, _ in batch]), torch.stack(targets) if torch.is_tensor(targets[0]) else targets


@torch.no_grad()
def evaluate(model: Plain, loader: DataLoader[Any]) -> float:
    """The mean IoU or the mAP on validation."""
    model.eval()
    metric: Any = MulticlassJaccardIndex(model.classes, ignore_index=255)
    if model.boxes:
        metric = MeanAveragePrecision(backend="faster_coco_eval")
    for images, targets in loader:
        outputs = model.head(model.backbone(images))
        metric.update(outputs if model.boxes else outputs.argmax(dim=1), targets)
    found = metric.compute()
    return float(found["map"] if model.boxes else found)


def head_flops(model: Plain, loader: DataLoader[Any]) -> tuple[float, float]:
    """The floating-point operations of the head alone for one image: in a training step, and in evaluation."""
    images, targets = next(iter(loader))
    with torch.no_grad():
        maps = model.eval().backbone(images)
        with FlopCounterMode(display=False) as evaluation:
            model.head(maps)
    model.train()
    # A frozen network needs no gradients of its maps.
    maps = tuple(each.requires_grad_(any(p.requires_grad for p in model.backbone.parameters())) for each in maps)
    with FlopCounterMode(display=False) as training:
        outputs = model.head(maps, targets) if model.boxes else model.head(maps)
        (torch.stack(list(outputs.values())) if model.boxes else outputs).sum().backward()
    return training.get_total_flops() / len(images), evaluation.get_total_flops() / len(images)


def main() -> None:
    """One job; prints its seconds an epoch, its last metric and peak memory as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--head", type=json.loads, required=True)
    parser.add_argument("--classes", nargs="+", required=True)
    parser.add_argument("--size", type=int, nargs=2, required=True)
    parser.add_argument("--k", choices=("0", "half", "all"), required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--head-flops", action="store_true", help="count the head's operations and train nothing")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    parts = [Scenes(arguments.root, part, tuple(arguments.size), arguments.boxes) for part in ("train", "val")]
    train, val = (
        DataLoader(part, batch_size=arguments.batch_size, shuffle=part is parts[0], collate_fn=together)
        for part in parts
    )
    model = Plain(arguments)
    if arguments.head_flops:
        json.dump(head_flops(model, train), sys.stdout)
        return
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.001)
    began, metric = time.process_time(), 0.0
    for _ in range(arguments.epochs):
        model.train()
        for images, targets in train:
            loss = model.loss(images, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        metric = evaluate(model, val)
    found = {
        "seconds_per_epoch": (time.process_time() - began) / arguments.epochs,
        "metric": metric,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
