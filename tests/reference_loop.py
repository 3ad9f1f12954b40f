"""The training of docs/training.md as a plain loop in float64: it shares no code with thawline."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@dataclass
class Phase:
    """What trains (by name) and for how long."""

    epochs: int
    trains: Callable[[str], bool] = lambda name: True
    rate: float = 1.0
    patience: int | None = None
    statistics_frozen: bool = False


@dataclass
class Setting:
    """What decides the numbers, beside the data and the model."""

    phases: Sequence[Phase]
    optimizer: str = "SGD"
    lr: float = 0.05
    arguments: dict = field(default_factory=dict)
    decay: float = 0.0
    decay_all: bool = False
    schedule: Callable[[int, int], float] = lambda t, T: 1.0
    group_factor: Callable[[str], float] = lambda name: 1.0
    clip: float = math.inf
    smoothing: float = 0.0
    lowest_loss: bool = False
    keep: bool = False
    seed: int = 0
    data_seed: int = 0
    batch: int = 8


def counter_seed(*key):
    text = "\x1f".join(f"{type(part).__name__}={part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def parameter_groups(model, trains, setting, rate):
    of_norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    for name, p in model.named_parameters():
        p.requires_grad_(trains(name))
        p.grad = None
        if p.requires_grad:
            decayed = setting.decay_all or not (id(p) in of_norms or name.endswith("bias"))
            lr = setting.lr * setting.group_factor(name) * rate
            yield {"params": [p], "lr": lr, "full": lr, "weight_decay": setting.decay if decayed else 0.0}


def set_modes(model, statistics_frozen):
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()
    for module in model.backbone.modules():
        if statistics_frozen and isinstance(module, NORMS):
            module.eval()


def batches_of(order, size):
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    if len(parts) > 1 and 2 * len(parts[-1]) < size:
        parts[-2:] = np.array_split(np.concatenate(parts[-2:]), 2)
    return parts


def evaluate(model, part):
    model.eval()
    with torch.no_grad():
        logits = model(part[0])
    loss = F.cross_entropy(logits, part[1]).item()
    return loss, (logits.argmax(1) == part[1]).double().mean().item(), logits.softmax(1)


def run(model, train, val, setting):
    """Train `model` in place, and leave it at the best epoch; returns the rows of the history."""
    history, states = [], {}
    for number, phase in enumerate(setting.phases):
        groups = list(parameter_groups(model, phase.trains, setting, phase.rate))
        optimizer = getattr(torch.optim, setting.optimizer)(groups, lr=setting.lr, **setting.arguments)
        for p in (group["params"][0] for group in groups):
            if setting.keep and p in states:
                optimizer.state[p] = copy.deepcopy(states[p])
        batches, step, best, waited = math.ceil(len(train[0]) / setting.batch), 0, None, 0
        for _ in range(phase.epochs):
            set_modes(model, phase.statistics_frozen)
            philox = np.random.Philox(counter_seed("order", setting.data_seed, len(history)))
            order, total, right = np.random.Generator(philox).permutation(len(train[0])), 0.0, 0
            for rows in batches_of(order, setting.batch):
                factor = setting.schedule(step, batches * phase.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = group["full"] * factor
                torch.manual_seed(counter_seed("step", setting.seed, number, step, 0))
                logits = model(train[0][rows])
                target = F.one_hot(train[1][rows], logits.shape[1]).double()
                target = (1 - setting.smoothing) * target + setting.smoothing / logits.shape[1]
                loss = -(target * logits.log_softmax(1)).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
                for g in gradients:
                    g.mul_(min(1.0, setting.clip / (norm + 1e-6)))
                optimizer.step()
                step, total = step + 1, total + loss.item() * len(rows)
                right += int((logits.argmax(1) == train[1][rows]).sum())
            loss, top1, _ = evaluate(model, val)
            lr = groups[-1]["full"] * setting.schedule(step, batches * phase.epochs)
            trained = {"train/loss": total / len(order), "train/top1": right / len(order)}
            history.append({"lr": lr, **trained, "val/loss": loss, "val/top1": top1})
            metric = -loss if setting.lowest_loss else top1
            waited = 0 if best is None or metric > best[0][0] else waited + 1
            if best is None or (metric, -loss) > best[0]:
                best = (metric, -loss), copy.deepcopy(model.state_dict()), len(history) - 1
                states = {p: copy.deepcopy(optimizer.state[p]) for p in optimizer.state}
            if phase.patience and waited >= phase.patience:
                break
        model.load_state_dict(best[1])
    return history, best[2]
