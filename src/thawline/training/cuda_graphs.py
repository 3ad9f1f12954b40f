"""Forward and backward passes as CUDA graphs: recorded once, then started with one call instead of hundreds.

A GPU that computes faster than the host can hand it operations waits for the host. A recorded pass starts all its
kernels at once: the same ones in the same order, so no bit changes. The loss and the optimizer's step are not recorded.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from thawline.thaw_line.random_state import random_state, same_random_state
from thawline.thaw_line.untouched import untouched

FEWEST_PASSES = 20
"""Of a fit, for recording to pay: it takes about as long as five."""

_WARM_UP = 2
Forward = Callable[..., Any]


class GraphedForward:
    """A forward pass that is recorded when inputs come that are shaped as the first ones were; others run as before.

    Where it cannot be recorded all run as before, and `reason` says why.

    Args:
        forward: inputs (B, ...) on a GPU -> outputs.
        trains: whether it is one of training, whose backward pass is recorded, too.
        reason: why it is not to be recorded at all.
    """

    def __init__(self, forward: Forward, *, trains: bool, reason: str = "") -> None:
        self._forward, self._trains = forward, trains
        self._first: tuple[Any, ...] | None = None
        self._recorded: Forward | None = None
        self._places: tuple[int, ...] = ()
        self.reason = reason

    def __call__(self, *inputs: Tensor, **more: Any) -> Any:
        """The outputs of the forward pass."""
        if self.reason or more or torch.is_grad_enabled() != self._trains:
            return self._forward(*inputs, **more)
        kind = (torch.is_inference_mode_enabled(), *((x.shape, x.stride(), x.dtype) for x in inputs))
        if self._first is None:
            self._first = kind
        elif kind == self._first:
            if self._recorded is None:
                self._recorded = self._record(inputs)
            if self._recorded is not None:
                return self._recorded(*inputs)
        return self._forward(*inputs)

    @property
    def report(self) -> str:
        """What became of it, for the record."""
        if self._recorded is not None:
            return "recorded"
        return f"not recorded: {self.reason or 'no two batches were shaped alike'}"

    def check(self) -> None:
        """Drop a recorded pass if the network's tensors have moved: it would read their former memory."""
        if self._recorded is not None and self._places != _places(self._forward):
            self._recorded, self.reason = None, "the network's tensors have moved"

    def _record(self, inputs: tuple[Tensor, ...]) -> Forward | None:
        forward = self._forward
        if not isinstance(forward, nn.Module):
            self.reason = "it is no module"
            return None
        record = _training if self._trains else _evaluation
        with untouched(forward, inputs[0].device):
            self.reason = _why_not(forward, inputs, trains=self._trains)
            if self.reason:
                return None
            try:
                with _uncached_autocast():
                    recorded = record(forward, tuple(value.clone() for value in inputs))
            except RuntimeError as error:
                self.reason = _first_line(error)
                torch.cuda.empty_cache()
                return None
        self._places = _places(forward)
        return recorded


def _training(forward: nn.Module, inputs: tuple[Tensor, ...]) -> Forward:
    # Of a module that is recorded `forward` is replaced, so it is given one of its own.
    recorded: Forward = torch.cuda.make_graphed_callables(
        _Passes(forward), inputs, num_warmup_iters=_WARM_UP, allow_unused_input=True
    )
    return recorded


class _Passes(nn.Module):
    def __init__(self, recorded: nn.Module) -> None:
        super().__init__()
        self.recorded = recorded

    def forward(self, *inputs: Tensor) -> Any:
        return self.recorded(*inputs)


def _evaluation(forward: nn.Module, inputs: tuple[Tensor, ...]) -> Forward:
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UP):
            forward(*inputs)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward(*inputs)

    def play(*values: Tensor) -> Any:
        for place, value in zip(inputs, values, strict=True):
            place.copy_(value)
        graph.replay()
        # The next pass writes where this one did.
        return tree_map(lambda output: output.clone(), outputs)

    return play


def _why_not(forward: nn.Module, inputs: tuple[Tensor, ...], *, trains: bool) -> str:
    """Why a pass cannot be recorded. It is tried before: a recording that fails can spoil torch's random numbers."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in forward.modules()):
        return "there are hooks on its modules"
    free, _ = torch.cuda.mem_get_info()
    if 3 * torch.cuda.max_memory_allocated() > free + torch.cuda.memory_reserved():
        return "it would take too much memory"
    before = random_state()
    try:
        with _waits_forbidden():
            outputs = tree_leaves(forward(*inputs))
            if not all(isinstance(output, Tensor) for output in outputs):
                return "its outputs are not tensors alone"
            if trains:
                trained = [parameter for parameter in forward.parameters() if parameter.requires_grad]
                ends = [output for output in outputs if output.requires_grad]
                torch.autograd.grad(ends, trained, [torch.zeros_like(end) for end in ends], allow_unused=True)
    except RuntimeError as error:
        return _first_line(error)
    return "" if same_random_state(before, random_state()) else "it draws random numbers on the host"


@contextmanager
def _waits_forbidden() -> Iterator[None]:
    """Within the block an operation for which the host waits is an error, such as reading a number to decide by it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _uncached_autocast() -> torch.autocast:
    """Mixed precision as it is here, but for the kept copies of weights, which would not be made anew."""
    is_on = torch.is_autocast_enabled("cuda")
    return torch.autocast("cuda", dtype=torch.get_autocast_dtype("cuda"), enabled=is_on, cache_enabled=False)


def _places(forward: Forward) -> tuple[int, ...]:
    tensors = (*forward.parameters(), *forward.buffers()) if isinstance(forward, nn.Module) else ()
    return tuple(tensor.data_ptr() for tensor in tensors)


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]
