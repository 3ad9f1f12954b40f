"""Reading what a model computes inside: the input of its head, and the outputs of modules of its backbone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thawline.errors import nearest, usage_error
from thawline.layer_groups import LayerGroup

_STAGES = 4
"""How many layers stand for the stages of a network that keeps one resolution throughout (a plain ViT)."""

_MOST_PREFIX_TOKENS = 8
_ASPECT_TOLERANCE = 0.1


@dataclass(frozen=True)
class Layer:
    """A place in a backbone: what it is called, the module whose output it is, and that output's shape for an image."""

    name: str
    path: str
    shape: tuple[int, ...]


class Observer:
    """Records values of a model's forward passes, by hooks; `close` takes them off.

    Args:
        model: maps uint8 images (B, 3, H, W) to outputs; has the children ``backbone`` and ``head``.
        groups: the backbone's layer groups; parameter names inside the backbone.
    """

    def __init__(self, model: nn.Module, groups: Sequence[LayerGroup]) -> None:
        self.model, self.groups = model, tuple(groups)
        self.activations: dict[str, Tensor] = {}
        self._features: Tensor | None = None
        self._seen: Tensor | None = None
        self._armed = False
        self._handles = [self.head.register_forward_pre_hook(_feature_hook(self))]
        self._watched: set[str] = set()

    @property
    def backbone(self) -> nn.Module:
        """The model's backbone."""
        return self.model.get_submodule("backbone")

    @property
    def head(self) -> nn.Module:
        """The model's head."""
        return self.model.get_submodule("head")

    @property
    def features(self) -> Tensor:
        """The head's input (B, D) in the last forward pass that was watched."""
        if self._features is None:
            raise RuntimeError("no forward pass has been watched")
        return self._features

    def watch(self, path: str) -> None:
        """Record the output of the backbone's module `path` from now on."""
        if path not in self._watched:
            self._watched.add(path)
            self._handles.append(self.backbone.get_submodule(path).register_forward_hook(_output_hook(self, path)))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, forward passes are recorded."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def look(self, images: Tensor) -> None:
        """Run the model on `images` without gradients, once however many regularizers ask."""
        if self._seen is not images:
            with torch.no_grad(), self.watching():
                self.model(images)
            self._seen = images

    def forget(self) -> None:
        """Drop the values of the last forward pass."""
        self.activations.clear()
        self._features = self._seen = None

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self.forget()


def _feature_hook(observer: Observer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    # Closures, not bound methods: a copy of the model copies its hooks, and would copy the observer with its method.
    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if observer._armed:
            observer._features = inputs[0]

    return record


def _output_hook(observer: Observer, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if not observer._armed or not isinstance(output, Tensor):
            return None
        observer.activations[path] = output
        # What follows may change the output in place (a residual sum, an activation); what is recorded stays.
        return output.clone()

    return record


# Which layers --------------------------------------------------------------------------------------------------------


def chosen_layers(
    observer: Observer, chosen: Literal["stages", "groups"] | Sequence[str], images: Tensor, field: str
) -> tuple[Layer, ...]:
    """The layers that a configuration names, from input to output.

    Args:
        observer: of the model whose layers they are.
        chosen: ``stages`` - the last layer group of each resolution (of a network with one resolution: four groups,
            evenly spaced); ``groups`` - every layer group; or names of layer groups or of modules of the backbone.
        images: uint8 (2, 3, H, W), an example.
        field: where the configuration has them.

    Raises:
        UsageError: the backbone has no such layer, or its output is not a map or a sequence of tokens.
    """
    by_group = group_outputs(observer, images)
    if chosen == "groups":
        return tuple(by_group.values())
    if chosen == "stages":
        return stages(tuple(by_group.values()), image_size(images))
    modules = dict(observer.backbone.named_modules())
    wanted: dict[str, str] = {}
    for name in chosen:
        path = by_group[name].path if name in by_group else name
        if not path or path not in modules:
            raise usage_error(field, f"the backbone has no layer {name!r}{nearest(name, [*by_group, *modules])}")
        wanted[name] = path
    shapes = _output_shapes(observer, set(wanted.values()), images)
    for name, path in wanted.items():
        if path not in shapes:
            raise usage_error(field, f"{name!r} gives no map (B, C, H, W) and no tokens (B, N, D)")
    return tuple(Layer(name, path, shapes[path]) for name, path in wanted.items())


def stages(layers: Sequence[Layer], size: tuple[int, int]) -> tuple[Layer, ...]:
    """The last layer of each resolution; four, evenly spaced, where there is one resolution only."""
    last = {layout_of(layer.shape, size).size: layer for layer in layers}
    if len(last) > 1 or len(layers) <= _STAGES:
        return tuple(last.values()) if len(last) > 1 else tuple(layers)
    return tuple(layers[math.ceil(len(layers) * (i + 1) / _STAGES) - 1] for i in range(_STAGES))


def group_outputs(observer: Observer, images: Tensor) -> dict[str, Layer]:
    """The value that leaves each layer group, by the group's name, from input to output.

    It is the output of the last module that holds parameters of this group alone, or of what follows beside it without
    parameters and without changing the number of values (an activation, not a pooling). A group whose values are
    neither maps nor tokens is left out.
    """
    group_of = {name: group.index for group in observer.groups for name in group.parameters}
    modules = dict(observer.backbone.named_modules())
    inside = {path: {group_of[n] for n in group_of if n.startswith(f"{path}.")} for path in modules if path}
    found: dict[int, tuple[str, Tensor]] = {}
    current = -1

    def leave(path: str, output: Tensor) -> None:
        nonlocal current
        if len(inside[path]) == 1:
            (current,) = inside[path]
            found[current] = (path, output)
        elif not inside[path] and current in found and _siblings(path, found[current][0]):
            same_count = output.numel() == found[current][1].numel()
            found[current] = (path, output) if same_count else found[current]

    _forward(observer, set(inside), images, leave)
    names = {group.index: group.name for group in observer.groups}
    return {
        names[index]: Layer(names[index], path, tuple(output.shape[1:]))
        for index, (path, output) in sorted(found.items())
    }


def _siblings(path: str, other: str) -> bool:
    """Whether both modules are parts of the same one."""
    return path.rpartition(".")[0] == other.rpartition(".")[0]


def _output_shapes(observer: Observer, paths: set[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def leave(path: str, output: Tensor) -> None:
        shapes[path] = tuple(output.shape[1:])

    _forward(observer, paths, images, leave)
    return shapes


def _forward(observer: Observer, paths: set[str], images: Tensor, leave: Callable[[str, Tensor], None]) -> None:
    """Run the model in eval mode and call `leave` with every map or token sequence that these modules give."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note_call(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(images):
                leave(path, output)

        return note_call

    modules = [(path, observer.backbone.get_submodule(path)) for path in sorted(paths)]
    handles = [module.register_forward_hook(hook(path)) for path, module in modules]
    before = [(module, module.training) for module in observer.model.modules()]
    try:
        observer.model.eval()
        with torch.no_grad():
            observer.model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in before:
            module.training = training


# How values lie ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How values lie: the axis of (B, ...) that counts channels, the tokens before the first position, and (h, w)."""

    channel_axis: int
    prefix_tokens: int
    size: tuple[int, int]


def layout_of(shape: Sequence[int], size: tuple[int, int]) -> Layout:
    """The layout of an output with this shape per sample, for images of `size` (H, W).

    Maps are (C, h, w), or (h, w, C) where that fits the images' aspect better (Swin). Tokens are (N, D); those that
    come before the h * w positions (a class token) are recognised by N.
    """
    if len(shape) == 3:
        first, last = _aspect_error(shape[1], shape[2], size), _aspect_error(shape[0], shape[1], size)
        return Layout(1, 0, (shape[1], shape[2])) if first <= last else Layout(3, 0, (shape[0], shape[1]))
    for prefix in range(min(shape[0], _MOST_PREFIX_TOKENS + 1)):
        count = shape[0] - prefix
        height = max(1, round(math.sqrt(count * size[0] / size[1])))
        if count % height == 0 and _aspect_error(height, count // height, size) < _ASPECT_TOLERANCE:
            return Layout(2, prefix, (height, count // height))
    return Layout(2, 0, (shape[0], 1))


def _aspect_error(height: int, width: int, size: tuple[int, int]) -> float:
    return abs(math.log(height * size[1] / (width * size[0])))


def as_channels(values: Tensor, layout: Layout) -> Tensor:
    """Values of a layer as (B, C, P): every channel at every position, class tokens too."""
    return values.movedim(layout.channel_axis, 1).flatten(2)


def as_map(values: Tensor, layout: Layout) -> Tensor:
    """Values of a layer as (B, C, h, w); tokens before the positions are left out."""
    height, width = layout.size
    return as_channels(values, layout)[:, :, layout.prefix_tokens :].reshape(len(values), -1, height, width)


def image_size(images: Tensor) -> tuple[int, int]:
    """H and W of images (B, 3, H, W)."""
    return (images.shape[2], images.shape[3])


def wide(values: Tensor) -> Tensor:
    """The same values in float32 or better: sums of squares overflow and round in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
