"""DELTA: the feature maps of the source are kept, those most that matter for the target."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from pydantic import Field, field_validator

from thawline.errors import nearest, usage_error
from thawline.network import Network
from thawline.randomness import permutation
from thawline.regularizers.regularizer import Context, Need, Term, TrainingStep
from thawline.regularizers.weight import Weight
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thawline.regularizers.observation import Layer, Observer

_BATCH = 64
_CLASSIFIER_DECAY = 1e-4
_TEMPERATURE = 5.0


@final
class DELTA(Spec):
    """Feature maps stay near the source's, weighted by how much each filter matters.

    ``1/2 sum_l C_l sum_j W_lj ‖F_lj - F0_lj‖² / (H_l W_l)`` over layers l and their C_l channels j, with F the maps
    (B, C, H, W) of the model as it trains and F0 those of the source in eval mode on the same images. Li et al. 2019,
    "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks".

    `reduction`: ``sum`` over the whole batch, as in the authors' code, to which the default weight alpha = 0.01
    belongs; ``mean`` divides by the batch's size. The decay of the head (beta = 0.01) is an `L2` beside it, as
    ``conf/regularizer/delta.yaml`` composes it.

    W_l (C_l,) sums to 1. As in the authors' code, it is ``softmax(z / 5)`` of the standardised rise z of the target's
    cross-entropy when the filter's channel is set to 0, for the source with a linear classifier that has been trained
    on the target's features (here: to its optimum with decay 1e-4, by L-BFGS). `importance`: ``ablation`` - one forward
    pass of `importance_samples` training images per channel (the authors': 4 batches of 64); ``gradient`` - the rise to
    first order, one backward pass for all channels; ``uniform`` - every filter alike, W = 1 / C.

    `layers`: ``stages``, ``groups``, or names of layer groups or of modules of the backbone, as for ResNet-50 the
    authors' ``[layer1.2.conv3, layer2.3.conv3, layer3.5.conv3, layer4.2.conv3]``. Tokens (B, N, D) of a transformer are
    maps of D channels at N positions.
    """

    weight: Weight
    layers: Literal["stages", "groups"] | tuple[str, ...] = "stages"
    reduction: Literal["sum", "mean"] = "sum"
    importance: Literal["ablation", "gradient", "uniform"] = "ablation"
    importance_samples: int = Field(default=4 * _BATCH, ge=1)

    @field_validator("layers")
    @classmethod
    def _some(cls, layers: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not layers or (isinstance(layers, tuple) and len(set(layers)) < len(layers)):
            raise ValueError("names at least one layer, and each once")
        return layers

    @property
    def reads_vector(self) -> bool:
        """Where the filters' importance is measured: by the source's classifier."""
        return self.importance != "uniform"

    @property
    def needs(self) -> frozenset[Need]:
        """The maps of the model and of the source."""
        return frozenset({"forward", "source"})

    def check(self, field: str, backbone: nn.Module, network: Network, *, source_classifier: bool) -> None:
        """Named layers exist."""
        if isinstance(self.layers, tuple):
            check_layers(f"{field}.layers", self.layers, backbone, network)

    def attach(self, context: Context) -> Term:
        """The term of a phase; computes the filters' importance."""
        from thawline.regularizers.observation import as_channels, chosen_layers, image_size, layout_of, wide

        source, observer = context.origin, context.observer
        example = context.samples("train").images([0, 0])
        layers = chosen_layers(source, self.layers, example, f"regularizer.{context.name}.layers")
        layouts = {layer.path: layout_of(layer.shape, image_size(example)) for layer in layers}
        axes = {path: layout.channel_axis for path, layout in layouts.items()}
        key = f"{self.importance} {self.importance_samples} {context.data_seed} {sorted(axes)}"
        weights = context.remember(f"DELTA {key}", lambda: self._importance(context, layers, axes))
        weights = {path: weight.to(example.device) for path, weight in weights.items()}
        for path in layouts:
            source.watch(path)
            observer.watch(path)

        def value(step: TrainingStep) -> Tensor:
            source.look(step.seen)
            total = step.seen.new_zeros((), dtype=weights[layers[0].path].dtype)
            for path, layout in layouts.items():
                ours, theirs = observer.activations[path], source.activations[path]
                if ours.shape != theirs.shape:
                    message = f"{path}: the model's {tuple(ours.shape)} do not fit the source's {tuple(theirs.shape)}"
                    raise usage_error(f"regularizer.{context.name}", message)
                apart = as_channels(wide(ours) - wide(theirs), layout).square().mean(dim=2)
                weight = weights[path]
                total = total + 0.5 * len(weight) * (apart * weight).sum(dim=1).mean()
            return total * step.batch_size if self.reduction == "sum" else total

        report = {layer.name: {"module": layer.path, "channels": len(weights[layer.path])} for layer in layers}
        return Term(value, report={"layers": report})

    def _importance(self, context: Context, layers: tuple[Layer, ...], axes: dict[str, int]) -> dict[str, Tensor]:
        """The weight of every channel of every layer, (C,) each, by module path."""
        import torch

        source = context.origin
        sizes = {layer.path: layer.shape[axes[layer.path] - 1] for layer in layers}
        if self.importance == "uniform":
            return {path: torch.full((size,), 1.0 / size) for path, size in sizes.items()}
        samples = context.samples("train")
        classifier = target_classifier(source, samples, context.classes)
        positions = permutation(len(samples.labels), "importance", context.data_seed)[: self.importance_samples]
        batches = [positions[start : start + _BATCH] for start in range(0, len(positions), _BATCH)]
        ablated = FilterAblation(
            source, classifier, [samples.images(batch) for batch in batches], samples.labels, batches
        )
        rise = ablated.rise_by_ablation if self.importance == "ablation" else ablated.rise_by_gradient
        return {path: attention(rise(path, axes[path], size)) for path, size in sizes.items()}


def attention(rise: Tensor) -> Tensor:
    """The weights (C,) that a layer's filters get for the rise (C,) of the loss without them; they sum to 1."""
    spread = rise.std(correction=0)
    standardised = (rise - rise.mean()) / spread if spread > 0 else rise * 0.0
    return (standardised / _TEMPERATURE).softmax(dim=0).float().cpu()


def check_layers(field: str, names: tuple[str, ...], backbone: nn.Module, network: Network) -> None:
    """Raise `UsageError` where a name is neither a layer group's nor a module's of the backbone."""
    known = [*(group.name for group in network.groups), *(path for path, _ in backbone.named_modules() if path)]
    for name in names:
        if name not in known:
            raise usage_error(field, f"the backbone has no layer {name!r}{nearest(name, known)}")


@dataclass(frozen=True)
class FilterAblation:
    """The source with a classifier for the target, and the images on which filters are evaluated."""

    source: Observer
    classifier: Callable[[Tensor], Tensor]
    images: list[Tensor]
    labels: Any
    batches: list[Any]

    def rise_by_ablation(self, path: str, axis: int, channels: int) -> Tensor:
        """How much the mean cross-entropy rises when a channel is set to 0, (C,)."""
        import torch

        losses = torch.zeros(1 + channels, dtype=torch.float64, device=self.images[0].device)
        with torch.no_grad():
            for images, batch in zip(self.images, self.batches, strict=True):
                outputs = _outputs_until(self.source, path, images)
                with _recalled(outputs), _silenced(self.source.backbone.get_submodule(path), axis) as silence:
                    for channel in range(-1, channels):
                        silence(channel)
                        losses[1 + channel] += self._loss(images, batch)
        return (losses[1:] - losses[0]) / sum(map(len, self.batches))

    def rise_by_gradient(self, path: str, axis: int, channels: int) -> Tensor:
        """The same to first order, ``- sum F_j dL/dF_j``, (C,)."""
        import torch

        leaves: list[Tensor] = []

        def branch(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[-1].clone()

        handle = self.source.backbone.get_submodule(path).register_forward_hook(branch)
        try:
            with torch.enable_grad():
                losses = [self._loss(*batch) for batch in zip(self.images, self.batches, strict=True)]
                gradients = torch.autograd.grad(torch.stack(losses).sum() / sum(map(len, self.batches)), leaves)
        finally:
            handle.remove()
        pairs = zip(leaves, gradients, strict=True)
        products = [(leaf.detach() * gradient).movedim(axis, 0).flatten(1).sum(dim=1) for leaf, gradient in pairs]
        return -torch.stack(products).sum(dim=0)

    def _loss(self, images: Tensor, batch: Any) -> Tensor:
        """The sum of the cross-entropies of one batch, a scalar."""
        import torch
        from torch.nn import functional as F

        with self.source.watching():
            self.source.model(images)
        labels = torch.from_numpy(self.labels[batch]).to(images.device)
        return F.cross_entropy(self.classifier(self.source.features), labels, reduction="sum")


def _outputs_until(source: Observer, path: str, images: Tensor) -> list[tuple[nn.Module, Any]]:
    """What the modules before `path`, and that one itself, give for these images.

    Of modules inside one another it is the outermost; one that is called more than once is left out.
    """
    left: list[tuple[str, nn.Module, Any]] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: left.append((name, module, output))

    modules = [(name, module) for name, module in source.backbone.named_modules() if name]
    handles = [module.register_forward_hook(hook(name)) for name, module in modules]
    try:
        source.model(images)
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _, _ in left]
    around = [path[:place] for place, letter in enumerate(path) if letter == "."]
    return [
        (module, output)
        for name, module, output in left[: names.index(path) + 1]
        if names.count(name) == 1 and name not in around and name.rpartition(".")[0] in ("", *around)
    ]


@contextlib.contextmanager
def _recalled(outputs: list[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Within the block, these modules give these outputs: what lies before a filter is not computed again for each."""

    def recall(output: Any) -> Callable[..., Any]:
        # What follows may change its input in place.
        return lambda *inputs, **keywords: output.clone() if isinstance(output, Tensor) else output

    from torch import Tensor

    for module, output in outputs:
        module.forward = recall(output)
    try:
        yield
    finally:
        for module, _ in outputs:
            del module.forward


@contextlib.contextmanager
def _silenced(module: nn.Module, axis: int) -> Iterator[Callable[[int], None]]:
    """Within the block, a channel of the module's output is 0: the one that the given function was last called with."""
    channels: list[int] = []

    def silence(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.index_fill(axis, output.new_tensor(channels).long(), 0.0)

    def choose(channel: int) -> None:
        channels[:] = [channel] if channel >= 0 else []

    handle = module.register_forward_hook(silence)
    try:
        yield choose
    finally:
        handle.remove()


def target_classifier(source: Observer, samples: Any, classes: int) -> Callable[[Tensor], Tensor]:
    """A linear classifier on the source's features, trained on the target: features (B, D) -> logits (B, classes)."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    parts = []
    for start in range(0, len(samples.labels), _BATCH):
        source.look(samples.images(np.arange(start, min(start + _BATCH, len(samples.labels)))))
        parts.append(source.features.double())
    source.forget()
    features = torch.cat(parts)
    labels = torch.from_numpy(samples.labels).to(features.device)
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels)
        loss = loss + 0.5 * _CLASSIFIER_DECAY * (weight.square().sum() + bias.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda rows: F.linear(rows.double(), weight.detach(), bias.detach())
