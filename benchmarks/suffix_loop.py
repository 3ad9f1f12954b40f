"""The training part of a run against the bare loop over its thawed side, written by hand on the same stored tensors.

Both train the same layers from the same start on the same number of threads, and evaluate after each epoch, in one
process and in turn. The bare loop
has the tensors in memory and keeps nothing but the sum of the losses and the number of correct predictions: no
Lightning, no metrics beside accuracy, no checks of the freeze contract, no choice of an epoch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from thawline.records import load_record
from thawline.runs.checkpoint import AtEpochs, Checkpoint, Saved
from thawline.runs.fitting import prepare_fit
from thawline.runs.inputs import PhaseInputs, phase_inputs
from thawline.runs.plan import Plan, plan_run
from thawline.runs.threads import on_threads
from thawline.runs.weights import source_backbone, with_head
from thawline.runs.workbench import Workbench
from thawline.tasks.model import TransferModel

_ROUNDS = 3


def main() -> None:
    """Print the CPU seconds of both, the faster of `_ROUNDS` rounds, for the run in the folder ``argv[1]``."""
    record = load_record(Path(sys.argv[1]))
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    bench = Workbench()
    plan = plan_run(record.config, (), bench)
    seconds: dict[str, list[float]] = {"training": [], "bare": []}
    for _ in range(_ROUNDS):
        for name, train in (("training", _training), ("bare", _bare)):
            model, inputs = _start(plan, bench)
            with on_threads(plan, bench):
                began = time.process_time()
                train(plan, model, inputs)
                seconds[name].append(time.process_time() - began)
    json.dump({name: min(values) for name, values in seconds.items()}, sys.stdout)


def _start(plan: Plan, bench: Workbench) -> tuple[TransferModel, PhaseInputs]:
    (phase,) = plan.phases
    model = with_head(plan, source_backbone(plan, bench))
    model.to(bench.device(plan.settings))
    model.set_trainable(phase.trainable)
    model.train()
    return model, phase_inputs(plan, model, bench, phase)


def _training(plan: Plan, model: TransferModel, inputs: PhaseInputs) -> None:
    """As a run of a sweep trains."""
    nothing = AtEpochs(Checkpoint(plan), 0, None, lambda fitted: Saved(0, "{}", {}, fitted))
    prepare_fit(plan, model, inputs, 0, 0, lambda row: None, nothing).train()


def _bare(plan: Plan, model: TransferModel, inputs: PhaseInputs) -> None:
    """As one writes it by hand."""
    settings, (phase,) = plan.settings, plan.phases
    tensors = {}
    for name in ("train", "val"):
        part = inputs.parts[name]
        tensors[name] = part.inputs.read(0, part.rows), torch.from_numpy(part.labels[part.rows])
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=settings.optimizer.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    size = settings.trainer.batch_size
    for _ in range(phase.epochs or 0):
        model.train()
        values, labels = tensors["train"]
        loss_sum, correct = 0.0, 0
        for chosen in torch.from_numpy(np.random.permutation(len(labels))).split(size):
            logits = inputs.forwards.train(*(value[chosen] for value in values))
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += float(loss.detach()) * len(chosen)
        model.eval()
        values, labels = tensors["val"]
        with torch.no_grad():
            for chosen in torch.arange(len(labels)).split(size):
                logits = inputs.forwards.evaluate(*(value[chosen] for value in values))
                correct += int((logits.argmax(dim=1) == labels[chosen]).sum())


if __name__ == "__main__":
    main()
