"""How far a tuned network is from its source: in its weights, and in what it makes of the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drift:
    """The way that weights have gone: ``‖w - w0‖``, and its share of ``‖w0‖`` (NaN where w0 is zero and w is not)."""

    distance: float
    relative: float


def drift(source: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], names: Iterable[str]) -> Drift:
    """The drift of the tensors `names` from their values in `source` to those in `tuned`.

    All tensors count as one long vector, in double precision; exactly 0 where no bit has changed.
    """
    names = list(names)
    if all(source[name] is tuned[name] for name in names):
        return Drift(0.0, 0.0)
    moved = start = 0.0
    for name in names:
        before, after = source[name].detach().double().cpu(), tuned[name].detach().double().cpu()
        moved += float((after - before).square().sum())
        start += float(before.square().sum())
    distance = math.sqrt(moved)
    if start == 0.0:
        return Drift(distance, 0.0 if distance == 0.0 else math.nan)
    return Drift(distance, distance / math.sqrt(start))


def linear_cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """Linear centred kernel alignment ``‖Y'X‖² / (‖X'X‖ ‖Y'Y‖)`` of features X (N, D) and Y (N, E) of the same samples.

    1 where Y is a rotation and isotropic scaling of X, 0 where the two are uncorrelated; NaN where one is constant.
    With few samples for many channels it is biased upwards: compare values of the same N only.

    Source: S. Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, eq. 3 and 4.
    """
    if len(one) != len(other):
        raise ValueError(f"features of {len(one)} and of {len(other)} samples cannot be aligned")
    x, y = _centred(one), _centred(other)
    if max(x.shape[1], y.shape[1]) <= len(x):
        cross, own, its = y.T @ x, x.T @ x, y.T @ y
        aligned = cross.square().sum()
    else:
        # The same numbers from (N, N) matrices: ‖Y'X‖² = tr(XX' YY').
        own, its = x @ x.T, y @ y.T
        aligned = (own * its).sum()
    scale = float(own.norm() * its.norm())
    return float(aligned) / scale if scale > 0.0 else math.nan


def feature_distance(source: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """How far each channel's response has moved: ``‖F_S - F_T‖ / sqrt(N)`` over the samples, (D,), from (N, D) each.

    Divided by sqrt(N), so that it does not grow with the number of images; 0 before any training.
    """
    if source.shape != tuned.shape:
        raise ValueError(f"features of shape {tuple(source.shape)} and {tuple(tuned.shape)} have no distance")
    return (tuned.double() - source.double()).square().mean(dim=0).sqrt()


def _centred(features: torch.Tensor) -> torch.Tensor:
    flat = features.detach().reshape(len(features), -1).double()
    return flat - flat.mean(dim=0, keepdim=True)
