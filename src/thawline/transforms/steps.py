"""The steps of an augmentation: classes of torchvision.transforms.v2, built, and asked whether they move targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from thawline.specs import Component, import_class
from thawline.transforms.placement import Size

_KEEPS_THE_TARGET = dict.fromkeys(
    ("AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix"),
    "moves the image and cannot move masks and boxes with it",
)
_NEVER = {
    **_KEEPS_THE_TARGET,
    **dict.fromkeys(("MixUp", "CutMix"), "mixes the images of a batch, which masks and boxes do not follow"),
    **dict.fromkeys(("FiveCrop", "TenCrop"), "makes several images of one"),
    "RandomErasing": "erases pixels that masks and boxes go on showing",
    "ToPureTensor": "makes plain tensors of masks and boxes, which later steps do not move",
    "ConvertBoundingBoxFormat": "gives the numbers of a box another meaning",
    "SanitizeBoundingBoxes": "removes boxes without all that belongs to them; the boxes are sanitised after the steps",
}
"""Classes of torchvision.transforms.v2 that never move an image together with its target, and why."""


def build(target: str, arguments: Mapping[str, Any], size: Size) -> Callable[..., Any]:
    """An instance of a v2 transform, which may hold others.

    Raises:
        ValueError: the class is not a v2 transform, or it refuses its arguments.
    """
    from torchvision.transforms import v2

    found = import_class(target)
    if not issubclass(found, v2.Transform):
        # The older transforms draw from Python's own generator too, which nothing here seeds.
        raise ValueError(f"{target} is not a transform of torchvision.transforms.v2")
    values = {name: _argument(name, value, size) for name, value in arguments.items()}
    parameters = inspect.signature(found).parameters
    sized = parameters.get("size")
    if sized is not None and sized.default is sized.empty and "size" not in values:
        values["size"] = list(size)
    if "fill" in parameters and _is_torchvisions(found):
        values["fill"] = _masks_with_zeros(values.get("fill", parameters["fill"].default))
    try:
        transform: Callable[..., Any] = found(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{target}: {error}") from None
    return transform


def unmoved(steps: Sequence[Component], kind: str) -> Iterator[str]:
    """For each step, nested ones too, that cannot move a target of the kind: its class, and why."""
    for target, arguments in _all_of(steps):
        found = import_class(target)
        bases = {base.__name__ for base in found.__mro__ if _is_torchvisions(base)}
        reason = next((_NEVER[name] for name in bases if name in _NEVER), None) or _why_not(bases, arguments, kind)
        if reason is not None:
            yield f"{target} {reason}"


def _why_not(bases: set[str], arguments: Mapping[str, Any], kind: str) -> str | None:
    """What keeps a step of these classes from moving a target of this kind."""
    if "RandomIoUCrop" in bases:
        if kind == "mask":
            return "chooses the crop by boxes, and a mask has none"
        options = arguments.get("sampler_options")
        if options is not None and max(options, default=0.0) < 1:
            return "needs 1.0 among sampler_options: an image without objects has no other crop"
    if "ElasticTransform" in bases and kind != "mask":
        return "moves a box by its corners alone, which may end many pixels off what is in it"
    if bases & {"Pad", "RandomCrop"} and kind != "mask" and arguments.get("padding_mode", "constant") != "constant":
        return f"repeats objects by padding_mode={arguments['padding_mode']}, and not their boxes"
    return None


def _all_of(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every class with its arguments in a configuration of steps, which may hold others."""
    if isinstance(value, Component):
        yield value.target, value.arguments
        yield from _all_of(value.arguments)
    elif isinstance(value, Mapping):
        if "_target_" in value:
            yield value["_target_"], value
        for item in value.values():
            yield from _all_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _all_of(item)


def _is_torchvisions(found: type) -> bool:
    return found.__module__.partition(".")[0] == "torchvision"


def _masks_with_zeros(fill: Any) -> dict[Any, Any]:
    """A `fill` as v2 takes it, by kind, with zeros around masks (`thawline.transforms.targets.wrapped` says why)."""
    from torchvision import tv_tensors

    return {**(fill if isinstance(fill, dict) else {"others": fill}), tv_tensors.Mask: 0}


def _argument(name: str, value: Any, size: Size) -> Any:
    from torchvision.transforms import InterpolationMode

    if isinstance(value, Mapping) and "_target_" in value:
        inner = Component.model_validate(dict(value))
        return build(inner.target, inner.arguments, size)
    if isinstance(value, (list, tuple)):
        return [_argument(name, item, size) for item in value]
    if name == "interpolation" and isinstance(value, str):
        return InterpolationMode(value)
    return value
