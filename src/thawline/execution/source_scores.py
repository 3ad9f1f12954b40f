"""What a source model promises for a target: its transferability scores, before any training."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch
from torch import nn

from thawline.evaluation.transferability import h_score, leep, logme, nce, shrunk_h_score
from thawline.execution.activations import activations
from thawline.execution.decoding import decoded_images
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan

if TYPE_CHECKING:
    from thawline.backbones import Backbone
    from thawline.network import SourceClassifier

Scores = dict[str, float | None]


def source_scores(run: RunContext, backbone: Backbone) -> Scores:
    """LEEP, NCE, H-score, its shrunk form and LogME of a source model for the run's training split.

    LEEP and NCE are None where the source has no classifier of its own. The runs of a process that start alike from
    the same images share them.

    Args:
        run: the target: data, transform, device.
        backbone: the source, with its own weights.
    """
    split = run.plan.splits.train

    def make() -> Scores:
        model = TransferModel(backbone.module, nn.Identity(), backbone.mean, backbone.std)
        size = run.settings.trainer.eval_batch_size
        features = activations(model, (), decoded_images(run), split.indices, size, run.device).features
        return scores(features, torch.from_numpy(split.targets), backbone.source_classifier)

    return run.session.once("source scores", (source_key(run.plan), split.sha256), make)


def source_key(plan: Plan) -> Hashable:
    """Equal for plans that start from the same weights and see the same images at the same size."""
    return (plan.start, repr(plan.transform), plan.splits.fingerprint, repr(plan.reading))


def scores(features: torch.Tensor, labels: torch.Tensor, classifier: SourceClassifier | None) -> Scores:
    """The scores of features (N, D) of samples with these target labels (N,); higher is better for each."""
    values, targets = features.double().numpy(), labels.numpy()
    found: Scores = {"leep": None, "nce": None}
    if classifier is not None:
        logits = features.double() @ classifier.weight.cpu().double().T
        logits = logits if classifier.bias is None else logits + classifier.bias.cpu().double()
        probabilities = logits.softmax(dim=1).numpy()
        found = {"leep": leep(probabilities, targets), "nce": nce(probabilities, targets)}
    of_features = {"h_score": h_score, "shrunk_h_score": shrunk_h_score, "logme": logme}
    found |= {name: score(values, targets) for name, score in of_features.items()}
    return {name: None if value is None or value != value else value for name, value in found.items()}
