"""The training part of a run against the bare loop over its thawed side, written by hand on the same stored tensors.

The bare loop has the tensors in memory and keeps nothing but the sum of the losses and the number of correct
predictions: no Lightning, no metrics beside accuracy, no checks of the freeze contract, no choice of an epoch. Between
the two stands Lightning with nothing but these steps: what it costs itself, and no run can do without. All train the
same layers from the same start on the same number of threads, and evaluate after each epoch, in one process, in turn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from thawline.execution.checkpoint import AtEpochs, Checkpoint, Saved
from thawline.execution.fitting import prepare_fit
from thawline.execution.inputs import PhaseInputs, phase_inputs
from thawline.execution.threads import on_threads
from thawline.execution.weights import source_backbone, with_head
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan, plan_run
from thawline.planning.session import Session
from thawline.records import load_record
from thawline.runtime.memory import freeing
from thawline.training.batches import Batch, Batches

_MOST_ROUNDS, _ENOUGH_SECONDS = 8, 30.0


def main() -> None:
    """Print the CPU seconds of each, the least of some rounds, for the run in the folder ``argv[1]``."""
    record = load_record(Path(sys.argv[1]))
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    session = Session()
    plan = plan_run(record.config, (), session)
    run = RunContext(plan, session)
    ways = {"training": _training, "lightning": _lightning, "bare": _bare}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    while len(seconds["bare"]) < _MOST_ROUNDS and sum(map(sum, seconds.values())) < _ENOUGH_SECONDS:
        for name, train in ways.items():
            model, inputs = start(run)
            with freeing(), on_threads(run):
                began = time.process_time()
                train(plan, model, inputs)
                seconds[name].append(time.process_time() - began)
    json.dump({name: min(values) for name, values in seconds.items()}, sys.stdout)


def start(run: RunContext) -> tuple[TransferModel, PhaseInputs]:
    """The model at the start of the run's one phase, on its device, and what it reads there."""
    (phase,) = run.plan.phases
    model = with_head(run.plan, source_backbone(run))
    model.to(run.device)
    model.set_trainable(phase.trainable)
    model.train()
    return model, phase_inputs(run, model, phase)


def _training(plan: Plan, model: TransferModel, inputs: PhaseInputs) -> None:
    """As a run of a sweep trains."""
    nothing = AtEpochs(Checkpoint(plan), 0, None, lambda fitted: Saved(0, "{}", {}, fitted))
    prepare_fit(plan, model, inputs, 0, 0, lambda row: None, nothing).train()


class _Steps(pl.LightningModule):
    """The steps of the bare loop."""

    def __init__(self, plan: Plan, model: TransferModel, inputs: PhaseInputs) -> None:
        super().__init__()
        self.plan, self.model, self.inputs = plan, model, inputs

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        return F.cross_entropy(self.inputs.forwards.train(*batch.inputs), batch.targets)

    def validation_step(self, batch: Batch, index: int) -> None:
        (self.inputs.forwards.evaluate(*batch.inputs).argmax(dim=1) == batch.targets).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _optimizer(self.plan, self.model)


def _lightning(plan: Plan, model: TransferModel, inputs: PhaseInputs) -> None:
    """By Lightning with nothing else in it."""
    trainer, (phase,) = plan.settings.trainer, plan.phases
    batches = Batches(
        inputs.parts,
        batch_size=trainer.batch_size,
        eval_batch_size=trainer.eval_batch_size,
        data_seed=plan.settings.data_seed,
    )
    pl.Trainer(
        max_epochs=phase.epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    ).fit(_Steps(plan, model, inputs), datamodule=batches)


def _optimizer(plan: Plan, model: TransferModel) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trainable, lr=plan.settings.optimizer.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


def _bare(plan: Plan, model: TransferModel, inputs: PhaseInputs) -> None:
    """As one writes it by hand."""
    settings, (phase,) = plan.settings, plan.phases
    tensors = {}
    for name in ("train", "val"):
        part = inputs.parts[name]
        tensors[name] = part.inputs.read(0, part.rows), torch.as_tensor(part.targets.read(0, part.rows))
    optimizer = _optimizer(plan, model)
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
