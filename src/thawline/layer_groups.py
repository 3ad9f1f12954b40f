"""Layer groups: the steps of depth of a network, an ordered partition of its parameters from the input to the output.

Three questions are answered apart. *What belongs together?* timm's ``group_matcher`` says it where the model has one,
the module tree elsewhere. *In which order?* A forward pass on the meta device shows when each parameter is first used;
groups are intervals of that order, so what the patterns of a matcher miss, or put in the wrong place, goes where the
data meets it. *Is it a step of depth?* A group without a weight (a lone norm) joins the group below it, so that
"unfreeze one group" means the same in every architecture.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Granularity = Literal["block", "stage"]
Label = tuple[Any, ...]

_LARGE = 1 / 3
"""The share of a network's parameters above which a module is too large to be one step of depth, if it can be split."""

_FEWEST_STAGES = 3
"""A module tree with fewer stages than this has no stages to speak of; its blocks are taken."""


@dataclass(frozen=True)
class LayerGroup:
    """One step of depth.

    Attributes:
        index: position from the input, 0 is the stem.
        name: ``stem``, or the module path that the group is known by (``layer1.0``, ``blocks.3``); unique.
        parameters: parameter names, in the order of their first use.
    """

    index: int
    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class GroupRow:
    """What is to be known of a layer group before anyone trains.

    Attributes:
        index: position from the input, 0 is the stem.
        name: the group's name.
        k: the depth at which the group thaws; the group nearest to the output has k = 1.
        parameters: count of parameters.
        share: share of all of the network's parameters, 0 to 1.
        output_shape: shape of the value that leaves the group for one image, without the batch dimension;
            None where the network does not run on the meta device.
        multiply_adds: multiply-adds of convolutions, linear layers and attention for one image; None as above.
    """

    index: int
    name: str
    k: int
    parameters: int
    share: float
    output_shape: tuple[int, ...] | None
    multiply_adds: int | None


def layer_groups(
    backbone: nn.Module,
    granularity: Granularity = "block",
    input_size: tuple[int, int] | None = None,
    order: Sequence[str] | None = None,
) -> tuple[LayerGroup, ...]:
    """The layer groups of a network without classifier, index 0 at the input.

    Every parameter is in exactly one group; the groups one after the other give the parameters in forward order.

    Args:
        backbone: maps images (B, 3, H, W) to features; it may be on the meta device. Nothing of it changes.
        granularity: residual blocks, transformer blocks or single layers (``block``), or their stages. A network that
            knows no stages is grouped by blocks.
        input_size: H and W of the images; default: what timm says of the model, else 224.
        order: the names of all parameters in forward order, where it is known already.
    """
    if order is None:
        order = forward_order(backbone, input_size)
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    weights = {name for name, parameter in backbone.named_parameters() if _is_weight(parameter)}
    labels = _contiguous(order, _labels(backbone, granularity, sizes, weights), sizes)
    groups = _merged(_with_unlabelled(order, labels, sizes, weights), weights)
    return tuple(
        LayerGroup(index, name, parameters)
        for index, (name, parameters) in enumerate(zip(_names(groups, sizes), groups, strict=True))
    )


def group_table(
    backbone: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int] | None = None
) -> tuple[GroupRow, ...]:
    """Parameters, output shape and multiply-adds of each layer group, for one image of `input_size` (H, W)."""
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    counts = [sum(sizes[name] for name in group.parameters) for group in groups]
    group_of = {name: group.index for group in groups for name in group.parameters}
    shapes, operations = _trace_groups(backbone, group_of, _input_size(backbone, input_size))
    return tuple(
        GroupRow(
            index=group.index,
            name=group.name,
            k=len(groups) - group.index,
            parameters=count,
            share=count / sum(counts),
            output_shape=shapes.get(group.index),
            multiply_adds=operations.get(group.index) if operations else None,
        )
        for group, count in zip(groups, counts, strict=True)
    )


def forward_order(module: nn.Module, input_size: tuple[int, int] | None = None) -> tuple[str, ...]:
    """The names of all parameters, in the order in which a forward pass first uses them.

    The pass runs on the meta device: no data, no memory. A parameter that it does not use follows the one defined
    before it. Where the network cannot run there, the order is that of definition.
    """
    used = used_parameters(module, input_size)
    order = list(used)
    previous: str | None = None
    for name, _ in module.named_parameters():
        if name not in used:
            order.insert(0 if previous is None else order.index(previous) + 1, name)
        previous = name
    return tuple(order)


def used_parameters(module: nn.Module, input_size: tuple[int, int] | None = None) -> tuple[str, ...]:
    """The names of the parameters that a forward pass in eval mode uses, in the order of first use.

    All names, in the order of definition, where the network cannot run on the meta device.
    """
    try:
        return trace(module, _input_size(module, input_size)).used
    except _META_FAILURES:
        return tuple(name for name, _ in module.named_parameters())


@dataclass(frozen=True)
class Trace:
    """A forward pass in eval mode on the meta device.

    Attributes:
        used: the parameters that it uses, in the order of first use.
        output_shape: of one image, without the batch dimension; None if the output is not one tensor.
    """

    used: tuple[str, ...]
    output_shape: tuple[int, ...] | None


def trace(module: nn.Module, input_size: tuple[int, int]) -> Trace:
    """A forward pass of one image of `input_size` (H, W), without data and memory.

    Raises:
        RuntimeError, ValueError, ...: the module does not take images of this size, or cannot run on the meta device.
    """
    from torch import Tensor

    used: dict[str, None] = {}

    def note(_: str, names: list[str], call: Callable[[], Any]) -> Any:
        used.update(dict.fromkeys(names))
        return call()

    output = _run_on_meta(module, input_size, note)
    return Trace(tuple(used), tuple(output.shape[1:]) if isinstance(output, Tensor) else None)


def feature_shape(module: nn.Module, input_size: tuple[int, int]) -> tuple[int, ...] | None:
    """The shape of the module's output for one image, without the batch dimension; None if it is not one tensor.

    Raises:
        RuntimeError, ValueError, ...: as `trace`.
    """
    return trace(module, input_size).output_shape


# What belongs together ----------


def _labels(
    backbone: nn.Module, granularity: Granularity, sizes: Mapping[str, int], weights: set[str]
) -> dict[str, Label | None]:
    """Parameter name -> the group that it is said to belong to, or None where nothing is said of it."""
    matcher = _matcher(backbone, granularity)
    if matcher is None:
        return _tree_labels(backbone, granularity, sizes, weights)
    from timm.models import group_parameters

    numbers = group_parameters(backbone, matcher, reverse=True)
    return {name: (numbers[name],) if _is_matched(matcher, name) else None for name in sizes}


def _matcher(backbone: nn.Module, granularity: Granularity) -> Any:
    """Timm's patterns for this model, or None; the fine ones where the model has no coarse ones (RDNet)."""
    make = getattr(backbone, "group_matcher", None)
    if make is None:
        return None
    if granularity == "stage":
        with contextlib.suppress(AssertionError, NotImplementedError):
            return make(coarse=True)
    return make(coarse=False)


def _is_matched(matcher: Any, name: str) -> bool:
    """Whether a pattern of the matcher speaks of this parameter; timm puts the others silently into the last group."""
    if not isinstance(matcher, Mapping):
        return True
    specifications = (spec for spec in matcher.values() if spec is not None)
    pairs = (((spec, None),) if isinstance(spec, str) else spec for spec in specifications)
    return any(re.match(pattern, name) for pattern, *_ in itertools.chain.from_iterable(pairs))


def _tree_labels(
    backbone: nn.Module, granularity: Granularity, sizes: Mapping[str, int], weights: set[str]
) -> dict[str, Label | None]:
    """Labels from the module tree, for networks without a matcher."""
    tree = _Tree(backbone, sizes, weights)
    units = tuple(tree.units(granularity))
    if granularity == "stage" and len(tree.weighted.intersection(units)) < _FEWEST_STAGES:
        units = tuple(tree.units("block"))
    labels: dict[str, Label | None] = dict.fromkeys(sizes)
    for unit in units:
        labels.update({name: (unit,) for name in sizes if name.startswith(f"{unit}.")})
    return labels


class _Tree:
    """Decides which modules are steps of depth and which are only boxes around several steps."""

    def __init__(self, root: nn.Module, sizes: Mapping[str, int], weights: set[str]) -> None:
        from torch import nn

        self._containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        self._root = root
        self._total = sum(sizes.values())
        self._counts: Counter[str] = Counter()
        self.weighted: set[str] = set()
        for name, size in sizes.items():
            for prefix in _prefixes(name):
                self._counts[prefix] += size
                if name in weights:
                    self.weighted.add(prefix)

    def units(self, granularity: Granularity) -> Iterator[str]:
        """The paths of the modules that are one step each, in the order of definition."""
        return self._units(self._root, "", granularity)

    def _units(self, module: nn.Module, path: str, granularity: Granularity) -> Iterator[str]:
        children = self._children(module, path)
        for child_path, child in children:
            if self._opens(child, child_path, children, granularity):
                yield from self._units(child, child_path, granularity)
            elif child_path in self._counts:
                yield child_path

    def _opens(
        self, module: nn.Module, path: str, siblings: list[tuple[str, nn.Module]], granularity: Granularity
    ) -> bool:
        if not self._is_box(module, path):
            return False
        # One large stage opens its smaller siblings too: all stages of a network are cut alike.
        large = any(type(other) is type(module) and self._counts[p] > _LARGE * self._total for p, other in siblings)
        if not isinstance(module, self._containers) and not large:
            return False
        if granularity == "block":
            return True
        # A box of blocks is a stage; only a box of such boxes is more than one.
        children = self._children(module, path)
        boxes = [(p, child) for p, child in children if self._opens(child, p, children, "block")]
        return len(boxes) > 1 or any(self._opens(child, p, children, "stage") for p, child in boxes)

    def _is_box(self, module: nn.Module, path: str) -> bool:
        """Whether the module is made of several steps: a container of them, or a module around such a container."""
        weighted = [(p, child) for p, child in self._children(module, path) if p in self.weighted]
        if isinstance(module, self._containers):
            return len(weighted) > 1 or any(self._is_box(child, p) for p, child in weighted)
        return any(self._holds_blocks(child, p) for p, child in weighted)

    def _holds_blocks(self, module: nn.Module, path: str) -> bool:
        """A container of blocks, not of single layers like a two-layer perceptron; or a module around one."""
        if not isinstance(module, self._containers):
            return self._is_box(module, path)
        blocks = [child for p, child in self._children(module, path) if p in self.weighted and list(child.children())]
        return len(blocks) > 1 or any(self._is_box(child, p) for p, child in self._children(module, path))

    def _children(self, module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
        return [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]


# In which order ----------


def _contiguous(
    order: Sequence[str], labels: Mapping[str, Label | None], sizes: Mapping[str, int]
) -> dict[str, Label | None]:
    """The labels without those of stragglers, so that each label holds one interval of the forward order.

    A straggler is, for example, a class token that a matcher puts into the stem although the last blocks are the first
    to use it. The smaller part of a torn group loses its label.
    """
    labels = dict(labels)
    while True:
        runs = [
            (label, list(run))
            for label, run in itertools.groupby((n for n in order if labels[n] is not None), labels.get)
        ]
        pieces = Counter(label for label, _ in runs)
        torn = [run for label, run in runs if pieces[label] > 1]
        if not torn:
            return labels
        for name in min(torn, key=lambda run: sum(sizes[name] for name in run)):
            labels[name] = None


def _with_unlabelled(
    order: Sequence[str], labels: Mapping[str, Label | None], sizes: Mapping[str, int], weights: set[str]
) -> list[tuple[str, ...]]:
    """Groups of parameters in forward order, with a place for those without a label.

    They join the group that is used just before them. Those before the first group join it, and those after the last
    one (a projection or fully connected layers on top of the blocks) are a group of their own.
    """
    runs = [(label, list(run)) for label, run in itertools.groupby(order, labels.get)]
    groups: list[list[str]] = []
    seen: set[Label] = set()
    waiting: list[str] = []
    for position, (label, run) in enumerate(runs):
        if label is None and position == len(runs) - 1:
            groups.extend(_top_groups(run, sizes, weights))
        elif label is None:
            (groups[-1] if groups else waiting).extend(run)
        elif label in seen:
            groups[-1].extend(run)
        else:
            groups.append(waiting + run)
            waiting = []
            seen.add(label)
    return [tuple(group) for group in groups]


def _top_groups(run: list[str], sizes: Mapping[str, int], weights: set[str]) -> list[list[str]]:
    """What comes after the last labelled group: one group, or one a layer where it holds much of the network (VGG)."""
    if sum(sizes[name] for name in run) <= _LARGE * sum(sizes.values()):
        return [run]
    groups: list[list[str]] = [[]]
    for name in run:
        if name in weights and any(other in weights for other in groups[-1]):
            groups.append([])
        groups[-1].append(name)
    return groups


def _merged(groups: list[tuple[str, ...]], weights: set[str]) -> list[tuple[str, ...]]:
    """Groups that hold a weight each: one without joins the group below it, or the next if it is the first."""
    merged: list[tuple[str, ...]] = []
    for group in groups:
        lacks_weight = not weights.intersection(group)
        if merged and (lacks_weight or not weights.intersection(merged[-1])):
            merged[-1] += group
        else:
            merged.append(group)
    return merged


def _is_weight(parameter: Tensor) -> bool:
    """Whether it has two or more dimensions: not a norm's scale, even one stored as (1, C, 1, 1)."""
    return sum(size > 1 for size in parameter.shape) > 1


# How a group is called ----------


def _names(groups: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> list[str]:
    """A readable name for each group, unique and the same for every model of the architecture."""
    owners: dict[str, set[int]] = {}
    for index, group in enumerate(groups):
        for name in group:
            for prefix in _prefixes(name):
                owners.setdefault(prefix, set()).add(index)
    names = ["stem"]
    for group in groups[1:]:
        name = _own_path(group, sizes, owners)
        names.append(name if name not in names else f"{name}-{names.count(name) + 1}")
    return names


def _own_path(group: Sequence[str], sizes: Mapping[str, int], owners: Mapping[str, set[int]]) -> str:
    """The shortest module path that belongs to this group alone, along the branch with most of its parameters."""
    members = list(group)
    depth = 1
    while True:
        counts: Counter[str] = Counter()
        for name in members:
            counts[".".join(name.split(".")[:depth])] += sizes[name]
        path = counts.most_common(1)[0][0]
        members = [name for name in members if name == path or name.startswith(f"{path}.")]
        if len(owners.get(path, ())) == 1 or path in members:
            return path
        depth += 1


def _prefixes(name: str) -> Iterator[str]:
    """The module paths around a parameter: ``a.b.weight`` -> ``a``, ``a.b``."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


# A forward pass without data ----------

_META_FAILURES = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, IndexError, AttributeError)
"""What networks raise that look at values, refuse the input size or keep tensors outside of parameters and buffers."""

_INSPECTIONS = frozenset({"__get__", "size", "dim", "stride", "numel", "is_floating_point", "is_complex"})
"""Functions that look at a tensor without using its values."""

_REARRANGEMENTS = frozenset(
    {"permute", "transpose", "reshape", "view", "flatten", "contiguous", "pad", "roll", "split", "chunk", "unbind"}
)
"""Functions that prepare a value for the next group rather than make it."""

Observer = Callable[[str, list[str], Callable[[], Any]], Any]
"""Runs a torch function, given its name, the names of the parameters among its arguments, and the call itself."""


def _run_on_meta(
    module: nn.Module, input_size: tuple[int, int], observe: Observer, finished: Callable[[Any], None] | None = None
) -> Any:
    """The module's output for one image on the meta device, in eval mode; the module itself stays as it is.

    `finished` is given the output of every part of the module.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    shadow = _shadow(module).eval()
    names = {id(parameter): name for name, parameter in shadow.named_parameters()}
    if finished is not None:
        for part in shadow.modules():
            part.register_forward_hook(lambda _module, _inputs, output: finished(output))

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            call = functools.partial(func, *args, **(kwargs or {}))
            if name in _INSPECTIONS:
                return call()
            used = [names[id(leaf)] for leaf in tree_leaves((args, kwargs)) if id(leaf) in names]
            result = observe(name, used, call)
            # torch 2.6 computes such a convolution on the meta device, though on no other.
            if name == "conv2d" and not result.numel():
                raise ValueError("the kernel of a convolution is larger than what it is applied to")
            return result

    images = torch.empty(1, 3, *input_size, device="meta")
    with torch.no_grad(), _without_autocast_on_meta(), Watch():
        return shadow(images)


@contextlib.contextmanager
def _without_autocast_on_meta() -> Iterator[None]:
    """Within the block autocast of the meta device does nothing; torch refuses it even with ``enabled=False``.

    Networks ask for it with the device of their input, some of timm below 1.0.30 among them (efficientvit).
    """
    import torch

    autocast = torch.autocast

    def replacement(device_type: str, *arguments: Any, **keywords: Any) -> Any:
        if device_type == "meta":
            return contextlib.nullcontext()
        return autocast(device_type, *arguments, **keywords)

    for module in (torch, torch.amp):
        setattr(module, "autocast", replacement)  # noqa: B010 - no type allows it
    try:
        yield
    finally:
        for module in (torch, torch.amp):
            setattr(module, "autocast", autocast)  # noqa: B010


def _shadow(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters and buffers are on the meta device, so that it takes no memory.

    A copy, because some networks keep what their first forward pass makes (position encodings, say).
    """
    import torch
    from torch import nn

    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        stand_ins[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, stand_ins)


def _trace_groups(
    backbone: nn.Module, group_of: Mapping[str, int], input_size: tuple[int, int]
) -> tuple[dict[int, tuple[int, ...]], dict[int, int]]:
    """Per group, the shape of the last value made before the next group begins, and the multiply-adds.

    An operation without parameters (the products of attention, an activation, pooling) counts for the group whose
    parameter was used last.
    """
    from torch import Tensor
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    shapes: dict[int, tuple[int, ...]] = {}
    operations: Counter[int] = Counter(dict.fromkeys(group_of.values(), 0))
    current = 0

    def keep_shape(output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 1:
            shapes[current] = tuple(output.shape[1:])

    def observe(function: str, used: list[str], call: Callable[[], Any]) -> Any:
        nonlocal current
        current = max([current, *(group_of[name] for name in used)])
        before = counter.get_total_flops()
        output = call()
        if function not in _REARRANGEMENTS:
            keep_shape(output)
        operations[current] += (counter.get_total_flops() - before) // 2  # one multiply-add is two of its operations
        return output

    try:
        with counter:
            _run_on_meta(backbone, input_size, observe, keep_shape)
    except _META_FAILURES:
        return {}, {}
    return shapes, dict(operations)


def _input_size(module: nn.Module, input_size: tuple[int, int] | None) -> tuple[int, int]:
    if input_size is not None:
        return input_size
    size = getattr(module, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    return (size[1], size[2])
