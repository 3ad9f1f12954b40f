"""A tiny model with a regularizer on it, without a run around."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from thawline.backbones import TimmBackbone
from thawline.network import SourceClassifier
from thawline.network.model import TransferModel, network_of
from thawline.regularizers import (
    Context,
    TrainingStep,
)
from thawline.regularizers.observation import Observer
from thawline.training.penalties import whole_batch

VIT = ("backbone=test_vit", "backbone.input_size=32")
VGG = "{_target_: thawline.backbones.TimmBackbone, name: vgg11}"
ONE_STEP = ("trainer.batch_size=64",)
"""40 training samples in one batch: the first epoch's numbers are those of the model as it starts."""
CLASSES, SOURCE_CLASSES = 3, 5


@dataclass(frozen=True)
class RandomSamples:
    """Random images with labels in turn."""

    pixels: torch.Tensor

    @property
    def labels(self):
        return np.arange(len(self.pixels)) % CLASSES

    def images(self, positions):
        return self.pixels[torch.as_tensor(np.asarray(positions))]


@dataclass(frozen=True)
class Bench:
    """A model, its source, and what a regularizer is attached to."""

    context: Context
    observers: list[Observer]

    @property
    def model(self):
        return self.context.model

    def step(self, images):
        return TrainingStep(images, torch.arange(len(images)) % CLASSES, len(images), whole_batch)

    def value(self, term, images):
        """The term after a forward pass of the model in its present mode."""
        with self.context.observer.watching():
            self.model(images)
        return term.value(self.step(images))


def bench(name="test_resnet", *, size=32, classifier=True, teacher=None, samples=12):
    spec = TimmBackbone(name=name, input_size=size if "vit" in name else None) if isinstance(name, str) else name
    backbone = spec.build(seed=0)
    torch.manual_seed(0)
    model = TransferModel(backbone.module, torch.nn.Linear(backbone.feature_dim, CLASSES), backbone.mean, backbone.std)
    network = network_of(model, backbone.groups)
    model.set_trainable(network.parameters)
    model.eval()
    observers = [Observer(model, backbone.groups), Observer(frozen(backbone), backbone.groups)]
    drawn = RandomSamples(torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8))

    def build(spec):
        built = spec.build(seed=0)
        observers.append(Observer(frozen(built), built.groups))
        return observers[-1]

    row = SourceClassifier(torch.randn(SOURCE_CLASSES, backbone.feature_dim), torch.randn(SOURCE_CLASSES))
    context = Context(
        name="tested",
        model=model,
        network=network,
        classes=CLASSES,
        observer=observers[0],
        source=observers[1],
        source_classifier=row if classifier else None,
        samples=lambda split: drawn,
        build=build,
        remember=lambda key, make: make(),
        seed=0,
        data_seed=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return Bench(context, observers), drawn.pixels


def frozen(backbone):
    model = TransferModel(copy.deepcopy(backbone.module), torch.nn.Identity(), backbone.mean, backbone.std)
    model.set_trainable(())
    return model.eval()


def move(model, scale=0.1):
    """Tune the model: every parameter somewhere else."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)


def first_row(record):
    return record.history[0]


SOURCE = ("source=digits_low", "source.trainer.max_epochs=1", "source.dataset.n_per_class=8", "dataset=digits_high")
