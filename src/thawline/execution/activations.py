"""What a network makes of images: the pooled output of every layer group, and the features that the head sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thawline.layer_groups import LayerGroup
from thawline.network.model import TransferModel
from thawline.store.decoded_images import DecodedImages
from thawline.training.batches import Rows


@dataclass(frozen=True)
class Activations:
    """Of N images: `groups` has one (N, C) per layer group, in their order, `features` is (N, feature_dim).

    Of a backbone that gives maps, the features are the deepest one, pooled.

    A group whose output is not one tensor has None.
    """

    groups: tuple[torch.Tensor | None, ...]
    features: torch.Tensor


def activations(
    model: TransferModel,
    groups: Sequence[LayerGroup],
    images: DecodedImages,
    rows: Rows,
    batch_size: int,
    device: torch.device,
) -> Activations:
    """The activations of `model` in eval mode on the images `rows`, in single precision, on the CPU.

    Args:
        model: moved to `device`, and left in eval mode.
        groups: layer groups whose outputs are wanted; parameter names are the model's own. May be empty.
        images: the images.
        rows: which of them, (N,).
        batch_size: images per forward pass.
        device: where to compute.
    """
    model.to(device).eval()
    watched = _Watched(model, groups)
    with torch.inference_mode(), watched:
        for start in range(0, len(rows), batch_size):
            model(images.read(rows[start : start + batch_size]).to(device))
            watched.end_batch()
    return watched.activations()


class _Watched:
    """Forward hooks on the modules that end the layer groups.

    A module belongs to a group if all of its parameters do, and its parent's do not: a residual block, not its last
    norm, so that the output is what the next group gets. The module of a group that runs last is the group's end.
    """

    def __init__(self, model: TransferModel, groups: Sequence[LayerGroup]) -> None:
        group_of = {name: index for index, group in enumerate(groups) for name in group.parameters}
        self._head = model.head
        self._widths = [_widths(model, group) for group in groups]
        self._modules = list(_whole_modules(model.backbone, "backbone.", group_of))
        self._latest: list[torch.Tensor | None] = [None] * len(groups)
        self._batches: list[list[torch.Tensor | None]] = [[] for _ in groups]
        self._features: list[torch.Tensor] = []
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        self._hooks.enter_context(self._head.register_forward_pre_hook(self._keep_features))
        for index, module in self._modules:
            self._hooks.enter_context(module.register_forward_hook(self._hook(index)))

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()

    def _hook(self, index: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._latest[index] = output if isinstance(output, torch.Tensor) else None

        return keep

    def _keep_features(self, head: nn.Module, inputs: Any) -> None:
        features = inputs[0]
        if not isinstance(features, torch.Tensor):
            features = features[-1].mean(dim=(2, 3))
        self._features.append(features.float().cpu())

    def end_batch(self) -> None:
        """Pool the last outputs of every group."""
        for batches, output, widths in zip(self._batches, self._latest, self._widths, strict=True):
            batches.append(None if output is None else _pooled(output, widths).float().cpu())

    def activations(self) -> Activations:
        """What has been kept, over all batches."""
        return Activations(tuple(map(_joined, self._batches)), torch.cat(self._features).clone())


def _joined(batches: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    kept = [batch for batch in batches if batch is not None]
    # Outside of inference mode a copy is a tensor like any other.
    return torch.cat(kept).clone() if len(kept) == len(batches) else None


def _whole_modules(module: nn.Module, prefix: str, group_of: dict[str, int]) -> Iterator[tuple[int, nn.Module]]:
    """The topmost modules whose parameters all lie in one group; parameters that no group knows do not count."""
    names = (f"{prefix}{name}" for name, _ in module.named_parameters())
    inside = {group_of[name] for name in names if name in group_of}
    if len(inside) == 1:
        yield inside.pop(), module
    elif inside:
        for name, child in module.named_children():
            yield from _whole_modules(child, f"{prefix}{name}.", group_of)


def _widths(model: nn.Module, group: LayerGroup) -> set[int]:
    """The sizes that a channel axis of the group's output may have."""
    parameters = dict(model.named_parameters())
    return {parameters[name].shape[0] for name in group.parameters if parameters[name].ndim}


def _pooled(output: torch.Tensor, widths: set[int]) -> torch.Tensor:
    """The mean over all positions, (B, C): of maps (B, C, H, W) or (B, H, W, C), or of tokens (B, N, C)."""
    if output.ndim <= 2:
        return output.reshape(len(output), -1)
    if output.ndim == 4 and (output.shape[1] in widths or output.shape[-1] not in widths):
        return output.mean(dim=(2, 3))
    return output.flatten(1, -2).mean(dim=1)
