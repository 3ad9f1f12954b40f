"""Bottleneck adapters: a small network beside a frozen one, through few features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, final

from pydantic import Field, field_validator

from thawline.adapters.adapter import expression, matching
from thawline.errors import usage_error
from thawline.layer_groups import LayerGroup, feature_shape
from thawline.layer_groups.meta_device import META_FAILURES
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHILD = "bottleneck"


@final
class Bottleneck(Spec):
    """``h + scale * U f(D h)`` at chosen outputs h of the network (Houlsby et al. 2019, "Parameter-Efficient ...").

    D maps the C features of h to `width`, U maps them back and starts at 0, so that the network starts as it is; f is
    the activation. ``form: parallel`` reads what the module reads instead of what it gives (Chen et al. 2022,
    "AdaptFormer", with width 64 and scale 0.1 at the perceptrons of a vision transformer).

    `target_modules` is a regular expression for the paths of modules. Without it: attention and perceptron of each
    block (``attn`` and ``mlp``; in parallel form ``mlp`` alone); in a network without them, the layer groups' modules
    but the stem. Convolutions of 1 x 1 are used for (B, C, H, W), linear layers for (B, ..., C).
    """

    width: int = Field(default=64, ge=1)
    scale: float = Field(default=1.0, gt=0.0)
    form: Literal["sequential", "parallel"] = "sequential"
    activation: Literal["relu", "gelu"] = "gelu"
    target_modules: str | None = None

    @field_validator("target_modules")
    @classmethod
    def _expression(cls, pattern: str | None) -> str | None:
        return expression(pattern)

    def insert(self, module: nn.Module, groups: Sequence[LayerGroup], input_size: tuple[int, int]) -> None:
        """See `Adapter.insert`."""
        from thawline.adapters.modules import BottleneckModule

        parallel = self.form == "parallel"
        targets = {path: module.get_submodule(path) for path in self._targets(module, groups)}
        for path, (read, given) in _shapes(module, targets, input_size).items():
            target = targets[path]
            last = _channels_last(target, given)
            source = read if parallel else given
            if _positions(source, last) != _positions(given, last):
                raise usage_error("adapter.form", f"parallel does not fit {path}: it changes {read} to {given}")
            axis = -1 if last else 0
            link = _last_link(target)
            added = BottleneckModule(
                source[axis], given[axis], self.width, self.scale, self.activation, channels_last=last
            )
            target.get_submodule(link).add_module(_CHILD, added)
            child = f"{link}.{_CHILD}" if link else _CHILD
            target.register_forward_hook(partial(_add, child=child, parallel=parallel))

    def merge(self, module: nn.Module) -> bool:
        """It is not linear, so it cannot be folded into the weights."""
        return False

    def _targets(self, module: nn.Module, groups: Sequence[LayerGroup]) -> list[str]:
        """The paths of the modules whose output is changed."""
        paths = [name for name, _ in module.named_modules() if name]
        if self.target_modules is None:
            wanted = ("mlp",) if self.form == "parallel" else ("attn", "mlp")
            known = {group.name for group in groups}
            paths = [name for name in paths if name.rpartition(".")[2] in wanted] or [n for n in paths if n in known]
        return matching(self.target_modules, paths, "module for bottlenecks")


def _last_link(module: nn.Module) -> str:
    """The path, inside the module, of the one that gives its output.

    A chain would run whatever is put into it as one more link, so it is put into its last one.
    """
    from torch import nn

    path = []
    while isinstance(module, nn.Sequential) and len(module):
        name, module = list(module.named_children())[-1]
        path.append(name)
    return ".".join(path)


def _add(module: nn.Module, args: tuple[Any, ...], output: Tensor, *, child: str, parallel: bool) -> Tensor:
    added: Tensor = output + module.get_submodule(child)(args[0] if parallel else output)
    return added


Shape = tuple[int, ...]


def _shapes(
    module: nn.Module, targets: dict[str, nn.Module], input_size: tuple[int, int]
) -> dict[str, tuple[Shape, Shape]]:
    """What each target reads and gives for one image, without the batch dimension."""
    seen: dict[str, tuple[Shape, Shape]] = {}

    def note(path: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[path] = (tuple(args[0].shape[1:]), tuple(output.shape[1:]))

    hooks = [target.register_forward_hook(partial(note, path)) for path, target in targets.items()]
    try:
        feature_shape(module, input_size)
    except META_FAILURES as error:
        raise usage_error("adapter", f"cannot put bottlenecks into this backbone: {error}") from None
    finally:
        for hook in hooks:
            hook.remove()
    for path in targets:
        if path not in seen:
            raise usage_error("adapter.target_modules", f"the backbone does not call {path}")
    return seen


def _channels_last(target: nn.Module, given: Shape) -> bool:
    """Whether the features are the last dimension of the target's output."""
    from torch import nn

    return len(given) < 3 or not any(isinstance(part, nn.Conv2d) for part in target.modules())


def _positions(shape: Shape, channels_last: bool) -> Shape:
    """The shape without the features."""
    return shape[:-1] if channels_last else shape[1:]
