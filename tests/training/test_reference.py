"""Losses and weights of real runs equal those of a plain loop in float64 that is written from docs/training.md."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from tests.execution.test_train import folder_of
from tests.reference_loop import Phase, Setting, counter_seed, evaluate, run

CLASSES, SIZE = 4, 32
SAMPLES = {"train": 22, "val": 13, "test": 11}  # in batches of 8 the last one has 6
STD = 128 / 255  # pixels are divided by 128, which is exact in every precision


def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Noise with a patch whose place says the class; small enough to be hard."""
    made, random = {}, np.random.default_rng(7)
    for part, count in SAMPLES.items():
        labels = random.integers(CLASSES, size=count)
        labels[:CLASSES] = range(CLASSES)
        pixels = random.integers(0, 200, size=(count, SIZE, SIZE, 3), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[8 * label : 8 * label + 8, 8:24] += 40
        made[part] = pixels, labels
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The images as a folder, and as the tensors that a model sees."""
    root, parts = tmp_path_factory.mktemp("images"), {}
    lines = ["path,label,split"]
    for part, (pixels, labels) in images().items():
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            Image.fromarray(image).save(root / f"{part}{number:02}.png")
            lines.append(f"{part}{number:02}.png,class{label},{part}")
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255 / STD
        parts[part] = scaled, torch.from_numpy(labels)
    (root / "splits.csv").write_text("\n".join(lines))
    return root, parts


class Model(nn.Module):
    def __init__(self, name: str, seed: int, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.backbone = timm.create_model(name, num_classes=0)
        torch.manual_seed(counter_seed("head", seed))
        linear = nn.Linear(self.backbone.num_features, CLASSES)
        self.head = nn.Sequential(nn.Dropout(dropout), linear) if dropout else linear

    def forward(self, x):
        return self.head(self.backbone(x))


def group(name: str) -> int:
    """The layer group of a parameter of test_resnet, from the input on; 5 is the head."""
    first = name.split(".")[1]
    return 5 if name.startswith("head.") else int(first[5:]) if first.startswith("layer") else 0


def top(k: int):
    return lambda name: group(name) >= 5 - k


def head_only(name: str) -> bool:
    return name.startswith("head.")


def norms_and_head(name: str) -> bool:
    return head_only(name) or bool(re.search(r"\.bn\d\.|^backbone\.conv1\.[14]\.|downsample\.2\.", name))


def warm(step: int, warm_steps: int) -> float:
    return min(1.0, (step + 1) / (warm_steps + 1))


def cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def warm_cosine(step: int, steps: int) -> float:
    """Three of nine steps warm up; a tenth is left at the end."""
    done = max(0, step - 3) / (steps - 3)
    return warm(step, 3) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def warm_steps(step: int, steps: int) -> float:
    """Milestones of 9 steps at 0.3 and 0.7: steps 3 and 6."""
    return warm(step, 2) * 0.5 ** ((step >= 3) + (step >= 6))


PLAIN = ("optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0", "scheduler=constant")
NESTEROV = {"momentum": 0.9, "nesterov": True}
ALL = (Phase(3),)
TABLE = {
    "plain SGD": ((*PLAIN, "seed=3", "data_seed=5"), Setting(ALL, seed=3, data_seed=5)),
    "small last batch": ((*PLAIN, "trainer.batch_size=7"), Setting(ALL, batch=7)),
    "nesterov, cosine": (("optimizer.weight_decay=0",), Setting(ALL, arguments=NESTEROV, schedule=cosine)),
    "decay of weights": ((*PLAIN, "optimizer.weight_decay=0.5"), Setting(ALL, decay=0.5)),
    "momentum, decay of all": (
        (*PLAIN, "optimizer.momentum=0.8", "optimizer.weight_decay=0.5",
         "optimizer.weight_decay_on_norm_and_bias=true"),
        Setting(ALL, arguments={"momentum": 0.8}, decay=0.5, decay_all=True),
    ),
    "AdamW": (
        ("optimizer=adamw", "optimizer.weight_decay=0.5", "optimizer.lr=0.01", "optimizer.betas=[0.8,0.95]"),
        Setting(ALL, "AdamW", 0.01, {"betas": (0.8, 0.95)}, decay=0.5, schedule=cosine),
    ),
    "warm-up and cosine": (
        (*PLAIN, "scheduler=cosine", "scheduler.warmup=0.35", "scheduler.final=0.1"),
        Setting(ALL, schedule=warm_cosine),
    ),
    "warm-up and steps": (
        (*PLAIN, "scheduler=step", "scheduler.warmup=0.2", "scheduler.milestones=[0.3,0.7]", "scheduler.gamma=0.5"),
        Setting(ALL, schedule=warm_steps),
    ),
    "clip": ((*PLAIN, "trainer.gradient_clip=0.5"), Setting(ALL, clip=0.5)),
    "label smoothing, warm-up": (
        (*PLAIN, "loss.label_smoothing=0.3", "scheduler.warmup=0.4"),
        Setting(ALL, smoothing=0.3, schedule=lambda t, T: warm(t, 4)),
    ),
    "dropout": ((*PLAIN, "head.dropout=0.4"), Setting(ALL)),
    "head's rate": ((*PLAIN, "learning_rates.head=7"), Setting(ALL, group_factor=lambda n: 7.0 if head_only(n) else 1)),
    "layer decay": (
        (*PLAIN, "learning_rates=layer_decay", "learning_rates.decay=0.5", "learning_rates.head=2"),
        Setting(ALL, group_factor=lambda n: 2.0 if head_only(n) else 0.5 ** (5 - group(n))),
    ),
    "discriminative": (
        (*PLAIN, "learning_rates=discriminative", "learning_rates.factor=3", "learning_rates.head=4"),
        Setting(ALL, group_factor=lambda n: 4.0 if head_only(n) else 3.0 ** (group(n) - 5)),
    ),
    "last two groups": (
        (*PLAIN, "freeze_policy=last_k", "freeze_policy.k=2", "optimizer.weight_decay=0.5"),
        Setting((Phase(3, top(2)),), decay=0.5),
    ),
    "linear probe": ((*PLAIN, "freeze_policy=linear_probe"), Setting((Phase(3, head_only),))),
    "norms and head": (
        (*PLAIN, "freeze_policy=norm_only", "freeze_policy.running_statistics=frozen"),
        Setting((Phase(3, norms_and_head, statistics_frozen=True),)),
    ),
    "two phases, state dropped": (
        ("freeze_policy=lp_ft", "trainer.max_epochs=5", "optimizer.weight_decay=0"),
        Setting((Phase(2, head_only), Phase(3)), arguments=NESTEROV, schedule=cosine),
    ),
    "two phases, state kept": (
        ("freeze_policy=lp_ft", "freeze_policy.optimizer_state=keep", "freeze_policy.fine_tuning.lr_multiplier=0.3",
         "optimizer.weight_decay=0", "trainer.max_epochs=4"),
        Setting((Phase(2, head_only), Phase(2, rate=0.3)), arguments=NESTEROV, schedule=cosine, keep=True),
    ),
    "two phases of AdamW, state kept, statistics frozen": (
        ("freeze_policy=lp_ft", "freeze_policy.optimizer_state=keep", "trainer.max_epochs=4", "optimizer=adamw",
         "freeze_policy.fine_tuning.running_statistics=frozen", "scheduler=constant"),
        Setting((Phase(2, head_only), Phase(2, statistics_frozen=True)), "AdamW", decay=0.01, keep=True),
    ),
    "three phases, thawed from the top": (
        ("freeze_policy=gradual_unfreezing", "freeze_policy.k=2", "freeze_policy.lr_decay=0.5",
         "freeze_policy.optimizer_state=keep", "optimizer.weight_decay=0", "trainer.max_epochs=4"),
        Setting((Phase(1, head_only), Phase(1, top(1), 0.5), Phase(2, top(2), 0.25)),
                arguments=NESTEROV, schedule=cosine, keep=True),
    ),
    "stops where the loss no longer falls": (
        (*PLAIN, "metrics.monitor=loss", "trainer.early_stopping=2", "trainer.max_epochs=9", "optimizer.lr=0.3"),
        Setting((Phase(9, patience=2),), lr=0.3, lowest_loss=True),
    ),
    "stops where the accuracy no longer rises": (
        (*PLAIN, "trainer.early_stopping=2", "trainer.max_epochs=9", "optimizer.lr=0.3"),
        Setting((Phase(9, patience=2),), lr=0.3),
    ),
    "patience of a phase, and a tie that the loss decides": (
        (*PLAIN, "freeze_policy=lp_ft", "freeze_policy.probe.patience=1", "freeze_policy.probe.epochs=6",
         "trainer.max_epochs=8", "optimizer.lr=0.3"),
        Setting((Phase(6, head_only, patience=1), Phase(2)), lr=0.3),
    ),
}  # fmt: skip


@pytest.fixture
def fit(train, data, tmp_path):
    """Train with the product and with the plain loop: (record, the loop's history, its best epoch, its model)."""
    root, parts = data

    def both(overrides, setting, name="test_resnet"):
        dropout = next((float(o.partition("=")[2]) for o in overrides if o.startswith("head.dropout=")), 0.0)
        model = Model(name, setting.seed, dropout)
        save_file(model.backbone.state_dict(), tmp_path / "start.safetensors")
        record = train(
            f"backbone={name}", "backbone.weights=start.safetensors", "backbone.mean=[0,0,0]",
            f"backbone.std=[{STD},{STD},{STD}]", "dataset=image_folder", f"dataset.root={root}",
            "dataset.n_per_class=null", "freeze_policy=full", "trainer.precision=64-true", "trainer.max_epochs=3",
            "trainer.batch_size=8", "optimizer.lr=0.05", "diagnostics.drift=false", *overrides,
        )  # fmt: skip
        model.double()
        history, best = run(model, parts["train"], parts["val"], setting)
        return record, history, best, model

    return both


@pytest.mark.parametrize("name", TABLE)
def test_a_run_is_the_plain_loop(fit, data, name):
    overrides, setting = TABLE[name]
    record, history, best, model = fit(overrides, copy.deepcopy(setting))
    assert_equal(record, history, best, model)
    waiting = any(phase.patience for phase in setting.phases)
    assert waiting == (len(history) < sum(phase.epochs for phase in setting.phases))
    loss, top1, probabilities = evaluate(model, data[1]["test"])
    assert record.metrics["test"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert record.metrics["test"]["top1"] == pytest.approx(top1)
    stored = np.load(folder_of(record) / "predictions.npz")
    assert stored["probabilities"] == pytest.approx(probabilities.numpy(), abs=1e-6)


def test_layer_norms_are_not_decayed(fit):
    overrides = ("optimizer=adamw", "optimizer.weight_decay=0.5", "scheduler=constant", "trainer.max_epochs=2")
    assert_equal(*fit(overrides, Setting((Phase(2),), "AdamW", decay=0.5), "test_convnext"))


def assert_equal(record, history, best, model):
    assert len(record.history) == len(history)
    close = {"lr": 1e-9, "train/loss": 1e-9, "train/top1": 1e-9, "val/loss": 1e-5, "val/top1": 1e-6}
    for key, exact in close.items():
        assert [row[key] for row in record.history] == pytest.approx([row[key] for row in history], rel=exact), key
    assert record.selection.epoch == best
    kept = load_file(folder_of(record) / "best.safetensors")
    state = model.state_dict()
    for name, tensor in kept.items():
        # Adam divides by the square root of gradients' squares: where these are tiny, the order of sums shows.
        torch.testing.assert_close(tensor, state[name], rtol=1e-8, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
