"""A peer for k = 0, as many scripts have it: the features once, then scikit-learn's logistic regression on them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


@torch.inference_mode()
def features(model: nn.Module, folder: Path, transform: transforms.Compose) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) and classes (N,) of the images of a folder."""
    batches = [(model(images), labels) for images, labels in DataLoader(ImageFolder(folder, transform), batch_size=64)]
    values, labels = zip(*batches, strict=True)
    return torch.cat(values), torch.cat(labels)


def main() -> None:
    """Print the accuracy on validation for each strength as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--strengths", type=float, nargs="+", required=True)
    arguments = parser.parse_args()
    model: Any = timm.create_model(arguments.model, pretrained=False)
    model.load_state_dict(load_file(arguments.weights))
    model.reset_classifier(0)
    model.eval()
    mean, std = model.default_cfg["mean"], model.default_cfg["std"]
    resize = transforms.Resize((arguments.size, arguments.size), transforms.InterpolationMode.BICUBIC)
    transform = transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(mean, std)])
    (x, y), (x_val, y_val) = (features(model, arguments.root / part, transform) for part in ("train", "val"))
    found = []
    for strength in arguments.strengths:
        regression = LogisticRegression(C=strength, max_iter=1000, tol=1e-6).fit(x.double().numpy(), y.numpy())
        found.append(float(regression.score(x_val.double().numpy(), y_val.numpy())))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
