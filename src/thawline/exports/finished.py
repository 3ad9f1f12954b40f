"""A finished run's model, ready to be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from thawline.execution.weights import about_model, tuned_model
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan, plan_of_run
from thawline.planning.session import Session
from thawline.records import Record, require_record

if TYPE_CHECKING:
    from thawline.datasets import Split

_CHECKED_IMAGES = 16
"""What is written is held against the model on so many images."""


@dataclass(frozen=True)
class FinishedModel:
    """A finished run's model on the CPU, in single precision and eval mode.

    Attributes:
        plan: the run.
        record: of the run.
        model: with its weights.
        folded: whether its tensors are those of the plain network: there was no adapter, or it is folded in.
    """

    plan: Plan
    record: Record
    model: TransferModel
    folded: bool

    @property
    def about(self) -> dict[str, str]:
        """What a reader of the file has to know, as texts by name; values that are no text are JSON."""
        return about_model(self.plan)

    @property
    def about_graph(self) -> dict[str, str]:
        """The same of a file that computes, with what goes in and what comes out."""
        height, width = self.plan.transform.output_size
        return {
            **self.about,
            "input": f"images: uint8 (N, 3, {height}, {width}), RGB; the model normalises them itself",
            "result": "outputs: of the head; values: the same as thawline predict shows it, such as probabilities",
            "output_names": json.dumps(list(self.plan.outputs)),
        }

    def images(self) -> tuple[torch.Tensor, str]:
        """Some of the run's own images as the model takes them, uint8 (B, 3, H, W), and the split that they are of."""
        name = "test" if self.plan.splits.test is not None else "val"
        split: Split = self.plan.splits.opened[name]
        chosen: Sequence[int] = split.indices[:_CHECKED_IMAGES].tolist()
        return torch.stack([self.plan.transform.decode(split.images.read(index)) for index in chosen]), name


def finished_model(folder: Path) -> FinishedModel:
    """The model of the run in `folder`.

    Raises:
        UsageError: a file of the run is damaged, or its data, source weights or own code are not what they were.
    """
    session = Session()
    run = RunContext(plan_of_run(folder, session), session)
    model = tuned_model(run).cpu().float().eval()
    adapter = run.settings.adapter
    folded = adapter is None or adapter.merge(model.backbone)
    return FinishedModel(run.plan, require_record(folder), model.to(memory_format=torch.contiguous_format), folded)
