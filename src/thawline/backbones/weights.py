"""Weights from files: read without running code, matched strictly, classifier rows apart."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.errors import UsageError, usage_error
from thawline.files import read_json, sha256_of_file
from thawline.network import SourceClassifier

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = dict[str, torch.Tensor]

FIELD = "backbone.weights"

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training programs keep the weights inside a checkpoint; averaged ones are what they report, so those first."""
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel and torch.compile."""
_OWN_PREFIXES = ("", "model.")
"""Where the backbone is in a file of thawline's: its model file, and a Lightning checkpoint."""
_SHOWN = 5


@dataclass(frozen=True)
class WeightsOrigin:
    """Where the weights come from: in words, and the SHA-256 of the file or of the state dict (None: random)."""

    description: str
    sha256: str | None


@dataclass(frozen=True)
class SavedNetwork:
    """The tensors of a weights file.

    Attributes:
        path: the file.
        backbone: all tensors of a library's file, with the classifier's; those of the backbone in a file of thawline's.
        head: the head's tensors in a file of thawline's, else None.
    """

    path: Path
    backbone: State
    head: State | None


def is_path(weights: str) -> bool:
    """Whether this names a file rather than a tag of the library."""
    return weights.endswith(_SUFFIXES) or "/" in weights or "\\" in weights


def check_file(path: Path) -> None:
    """Raise a `UsageError` where there is no such file."""
    if not path.is_file():
        raise usage_error(FIELD, f"{path}: " + ("is a folder, not a file" if path.is_dir() else "no such file"))


def read_network(path: Path) -> SavedNetwork:
    """The tensors of a weights file, without wrappers of other programs.

    Raises:
        UsageError: it is not there, is damaged, or holds more than tensors and plain values.
    """
    state = _unwrapped(_read(path), path)
    for prefix in _OWN_PREFIXES:
        backbone = _below(state, f"{prefix}backbone.")
        if backbone:
            return SavedNetwork(path, backbone, _below(state, f"{prefix}head."))
    return SavedNetwork(path, state, None)


def _read(path: Path) -> Any:
    import argparse

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # timm's training checkpoints carry their command line, which is plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        raise usage_error(FIELD, f"{path}: refused, it is not a plain file of tensors: {reason}") from None
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, SafetensorError) as error:
        raise usage_error(FIELD, f"{path}: not a readable weights file: {first_line(error)}") from None


def _unwrapped(state: Any, path: Path) -> State:
    import torch

    for name in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    items = state.items() if isinstance(state, Mapping) else ()
    tensors = {key: value for key, value in items if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise usage_error(FIELD, f"{path}: holds no tensors by name")
    while wrapper := next((w for w in _WRAPPERS if all(key.startswith(w) for key in tensors)), None):
        tensors = _below(tensors, wrapper)
    return tensors


def _below(state: Mapping[str, torch.Tensor], prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def misfits(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps `state` from filling a network whose state is `expected`, one line each."""
    problems = [f"lacks {key}" for key in expected if key not in state]
    problems += [f"has {key}, which the network has not" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    return problems


def does_not_fit(path: Path, network: str, problems: list[str]) -> UsageError:
    """What is said when a file's tensors are not the network's."""
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return usage_error(FIELD, f"{path} does not fit {network}: {'; '.join(problems[:_SHOWN])}{more}")


def divided(state: Mapping[str, torch.Tensor], classifier: Collection[str]) -> tuple[State, State]:
    """The tensors of the backbone, and those named in `classifier`."""
    own = {key: tensor for key, tensor in state.items() if key not in classifier}
    return own, {key: tensor for key, tensor in state.items() if key in classifier}


def linear_classifier(head: Mapping[str, torch.Tensor]) -> SourceClassifier | None:
    """The classifier, if its tensors are those of one linear layer: a weight (C, D) and at most a bias (C,)."""
    by_kind = {key.rpartition(".")[2]: tensor for key, tensor in head.items()}
    weight = by_kind.get("weight")
    if weight is None or weight.dim() != 2 or len(by_kind) != len(head) or set(by_kind) - {"weight", "bias"}:
        return None
    bias = by_kind.get("bias")
    return SourceClassifier(weight.detach().clone(), None if bias is None else bias.detach().clone())


def with_class_names(classifier: SourceClassifier | None, path: Path) -> SourceClassifier | None:
    """The classifier with the names of its classes, where they are known.

    They are in the record beside a model that thawline trained, and for other files in a text file beside it that is
    called ``<file without its suffix>.labels.txt``, one name a line, in the order of the rows.
    """
    if classifier is None:
        return None
    labels, record = path.with_suffix(".labels.txt"), path.with_name("record.json")
    try:
        names = labels.read_text().splitlines() if labels.is_file() else read_json(record).get("classes", [])
    except (OSError, ValueError, AttributeError):
        return classifier
    if len(names) != len(classifier.weight):
        return classifier
    return replace(classifier, classes=tuple(str(name) for name in names))


def file_origin(path: Path) -> WeightsOrigin:
    """The origin of weights from a file."""
    return WeightsOrigin(str(path), sha256_of_file(path))


def state_hash(module: nn.Module) -> str:
    """The SHA-256 of a module's state, names and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
