"""Other ways to take the training steps of a suffix, on the stored values of a run: what would they gain?

``python -m benchmarks.suffix_ways RUN_FOLDER...`` prints a line of JSON for each way as soon as it is measured:
the step as it is, five seeds batched by ``torch.func.vmap``, a CUDA graph, ``torch.compile``; and what it takes to get
a batch of values from the store to the device, or to gather it there from values that are kept on the device.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.suffix_loop import start
from thawline.execution.arithmetic import mixed_dtype
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record

_SEEDS = 5
_SECONDS = 1.0
_WARM_UP = 5
Step = Callable[[], object]


class _WideNorms(TorchFunctionMode):
    """Batch norms in float32: vmap gives them a scale in the type of their values, which half precision forbids."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.batch_norm or args[0].dtype == torch.float32:
            return func(*args, **(kwargs or {}))
        return func(args[0].float(), *args[1:], **(kwargs or {})).to(args[0].dtype)


class NotHereError(Exception):
    """This machine cannot do it this way."""


@dataclass(frozen=True)
class Suffix:
    """A suffix in training, and a batch of its stored values.

    Attributes:
        forward: stored values -> outputs.
        read: the batch from the store, on the CPU.
        values: the same on the device.
        labels: of the batch.
        mixed: the type of mixed precision, if any.
        flops: of a training step.
    """

    forward: nn.Module
    read: Callable[[], tuple[torch.Tensor, ...]]
    values: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    mixed: torch.dtype | None
    flops: float

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.labels.device

    def loss(self, forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        """The cross-entropy of the batch; without the cache of autocast, which a graph must not hold."""
        kind, mixed = self.device.type, self.mixed
        with torch.autocast(kind, dtype=mixed, enabled=mixed is not None, cache_enabled=False):
            return F.cross_entropy(forward(*self.values).float(), self.labels)


def main() -> None:
    """Measure each way for each run; the one that takes longest to prepare comes last."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    suffixes = {folder: _suffix(Path(folder)) for folder in sys.argv[1:]}
    first = {"as it is": as_it_is, "five seeds by vmap": five_seeds, "as a CUDA graph": as_graph}
    read = {"values from the store": from_the_store, "values kept on the device": from_the_device}
    for ways in ({**first, **read}, {"compiled": compiled}):
        for folder, suffix in suffixes.items():
            for name, way in ways.items():
                print(json.dumps({"run": folder, "way": name, **_measured(way, suffix)}), flush=True)


def _suffix(folder: Path) -> Suffix:
    record = load_record(folder)
    session = Session()
    run = RunContext(plan_run(record.config, (), session), session)
    inputs = start(run)[1]
    part, settings = inputs.parts["train"], run.settings.trainer
    rows = part.rows[: settings.batch_size]
    if not isinstance(inputs.forwards.train, nn.Module):
        raise TypeError("the suffix of a network with maps is in two parts")
    return Suffix(
        inputs.forwards.train,
        lambda: part.inputs.read(0, rows),
        tuple(value.to(run.device) for value in part.inputs.read(0, rows)),
        torch.as_tensor(part.targets.read(0, rows)).to(run.device),
        mixed_dtype(settings),
        3.0 * len(rows) * (record.phases[0].thaw_line.suffix_flops_per_sample or float("nan")),
    )


def _measured(way: Callable[[Suffix], Step], suffix: Suffix) -> dict[str, Any]:
    """Seconds of a step, or why there are none."""
    about: dict[str, Any] = {"flops": suffix.flops, "seeds": _SEEDS if way is five_seeds else 1}
    try:
        began = time.perf_counter()
        step = way(suffix)
        for _ in range(_WARM_UP):
            step()
        _settle(suffix.device)
        about["prepared_seconds"] = time.perf_counter() - began
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < _SECONDS:
            for _ in range(_WARM_UP):
                step()
            _settle(suffix.device)
            count += _WARM_UP
        about["seconds"] = (time.perf_counter() - began) / count
    except Exception as error:  # noqa: BLE001 - that a way does not work is a finding
        about["why_not"] = str(error).strip().partition("\n")[0] or type(error).__name__
    return about


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def as_it_is(suffix: Suffix) -> Step:
    """One step after the other."""
    return _step(suffix, suffix.forward)


def compiled(suffix: Suffix) -> Step:
    """Forward and backward by ``torch.compile``; on a CPU without making code, which takes a minute and did not pay."""
    backend = "inductor" if suffix.device.type == "cuda" else "aot_eager"
    return _step(suffix, torch.compile(suffix.forward, backend=backend))


def as_graph(suffix: Suffix) -> Step:
    """The whole step recorded once as a CUDA graph, then played."""
    if suffix.device.type != "cuda":
        raise NotHereError("CUDA graphs need a GPU")
    step = _step(suffix, suffix.forward)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def five_seeds(suffix: Suffix) -> Step:
    """Five copies of the suffix with weights of their own, each operation on all of them at once."""
    forward = suffix.forward
    trained = {name: p.detach() for name, p in forward.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in forward.named_parameters() if not p.requires_grad}
    # vmap's gradients do not know channels last.
    values = tuple(value.contiguous() for value in suffix.values)
    weights = {name: torch.stack([p.contiguous()] * _SEEDS) for name, p in trained.items()}
    buffers = {name: torch.stack([b.detach()] * _SEEDS) for name, b in forward.named_buffers()}
    momentum = {name: torch.zeros_like(w) for name, w in weights.items()}

    def loss(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        with _WideNorms():
            return suffix.loss(lambda *_: functional_call(forward, {**own, **fixed, **state}, values))

    gradients = vmap(grad(loss), in_dims=(0, 0), randomness="different")

    def step() -> None:
        found = gradients(weights, buffers)
        names = list(weights)
        moved, kept = [momentum[name] for name in names], [weights[name] for name in names]
        torch._foreach_mul_(moved, 0.9)
        torch._foreach_add_(moved, [found[name] for name in names])
        torch._foreach_add_(kept, moved, alpha=-0.001)

    return step


def from_the_store(suffix: Suffix) -> Step:
    """A batch from the page cache to page-locked memory and to the device."""
    on_gpu = suffix.device.type == "cuda"

    def step() -> list[torch.Tensor]:
        read = suffix.read()
        pinned = [value.pin_memory() for value in read] if on_gpu else read
        return [value.to(suffix.device, non_blocking=True) for value in pinned]

    return step


def from_the_device(suffix: Suffix) -> Step:
    """A batch gathered from values that lie on the device."""
    order = torch.randperm(len(suffix.labels), device=suffix.device)
    return lambda: [value[order] for value in suffix.values]


def _step(suffix: Suffix, forward: Callable[..., torch.Tensor]) -> Step:
    trained = list(_trained(suffix.forward))
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        suffix.loss(forward).backward()
        optimizer.step()

    return step


def _trained(forward: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in forward.parameters() if parameter.requires_grad)


if __name__ == "__main__":
    main()
