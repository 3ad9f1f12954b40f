"""Files that compute: ONNX and TorchScript graphs of the whole model, from uint8 images to what is shown of them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from thawline.errors import counted, usage_error
from thawline.exports.agreement import agreement
from thawline.exports.finished import FinishedModel

if TYPE_CHECKING:
    from thawline.tasks import Task

INPUT, OUTPUTS, VALUES = "images", "outputs", "values"
_TRACED_IMAGES = 2
"""A batch of one would be taken for a constant by torch.export."""
_MOST_BYTES = 2**31 - 2**20
"""What one ONNX file holds, with room for the graph."""
_ABOUT = "thawline.json"
"""What is known of the model, in a TorchScript file."""


@final
class Onnx:
    """An ONNX graph for any batch size, by torch.export."""

    NAME = "onnx"
    SUFFIX = ".onnx"

    def refusal(self, finished: FinishedModel) -> str:
        """See `thawline.exports.writing.Format`."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in finished.model.state_dict().values())
        if size > _MOST_BYTES:
            return "one ONNX file holds 2 GiB, and its weights are more"
        return _no_tensor(finished.plan.settings.task)

    def write(self, finished: FinishedModel, target: Path) -> str:
        """See `thawline.exports.writing.Format`."""
        _require("onnx", "onnxscript", "onnxruntime")
        images, split = finished.images()
        module = Deployed(finished.model, finished.plan.settings.task)
        names = [OUTPUTS, VALUES][: len(module(images[:1]))]
        with _quiet(), _naming(self.NAME):
            program = torch.onnx.export(
                module,
                (_some(images),),
                dynamo=True,
                input_names=[INPUT],
                output_names=names,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                external_data=False,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("no program")
        program.model.metadata_props.update(finished.about_graph)
        program.save(str(target))
        difference = agreement(module, _onnx_session(target), images)
        return f"held against the model in onnxruntime on {counted(len(images), f'{split} image')}: {difference}"


@final
class TorchScript:
    """A TorchScript file for any batch size, traced."""

    NAME = "torchscript"
    SUFFIX = ".pt"

    def refusal(self, finished: FinishedModel) -> str:
        """See `thawline.exports.writing.Format`."""
        return _no_tensor(finished.plan.settings.task)

    def write(self, finished: FinishedModel, target: Path) -> str:
        """See `thawline.exports.writing.Format`."""
        images, split = finished.images()
        module = Deployed(finished.model, finished.plan.settings.task)
        with _quiet(), torch.no_grad():
            with _naming(self.NAME):
                traced = torch.jit.trace(module, (_some(images),), check_trace=False)
            torch.jit.save(traced, str(target), _extra_files={_ABOUT: json.dumps(finished.about_graph)})
            difference = agreement(module, torch.jit.load(str(target)), images)
        return f"held against the model on {counted(len(images), f'{split} image')}: {difference}"


class Deployed(nn.Module):
    """uint8 images (B, 3, H, W) -> the outputs of the head (B, ...), and what is shown of them where that is more."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs and values; outputs alone where the values are the outputs."""
        outputs = self.model(images)
        values = self._task.values(outputs)
        return (outputs,) if values is outputs else (outputs, values)


def _onnx_session(file: Path) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> list[torch.Tensor]:
        results: list[Any] = list(session.run(None, {INPUT: images.numpy()}))
        return [torch.from_numpy(result) for result in results]

    return run


def _some(images: torch.Tensor) -> torch.Tensor:
    return images.repeat(_TRACED_IMAGES, 1, 1, 1)[:_TRACED_IMAGES]


def _no_tensor(task: Task) -> str:
    if task.SHOWN.HAS_SCORES:
        return f"task {task.NAME} finds another number of objects in each image"
    return ""


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise usage_error("--format", f"onnx needs {', '.join(missing)}: pip install 'thawline[export]'")


@contextlib.contextmanager
def _naming(form: str) -> Iterator[None]:
    """Turn an error of torch into one that names the format; networks of one's own may do what no graph can."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
        raise usage_error("--format", f"{form}: torch cannot make a graph of this network: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings of its own plans, and of Python values in a trace: what is traced is compared."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
