"""Weights from files: read without running code, matched strictly, classifier rows apart."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.backbones.backbone import WeightsOrigin
from thawline.errors import UsageError, usage_error
from thawline.files import sha256_of_file
from thawline.network import SourceClassifier

if TYPE_CHECKING:
    import torch
    from torch import nn

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_NESTED = ("state_dict", "model", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_FIELD = "backbone.weights"


def is_path(weights: str) -> bool:
    """Whether this names a file rather than a tag of the library."""
    return weights.endswith(_SUFFIXES) or "/" in weights or "\\" in weights


def check_file(path: Path) -> None:
    """Raise a `UsageError` where there is no such file."""
    if not path.is_file():
        raise usage_error(_FIELD, f"{path}: " + ("is a folder, not a file" if path.is_dir() else "no such file"))


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, without wrappers of other programs.

    Raises:
        UsageError: it is not there, is damaged, or holds more than tensors and plain values.
    """
    import torch
    from safetensors import SafetensorError

    check_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise usage_error(_FIELD, f"{path}: refused, it is not a plain file of tensors: {reason}") from None
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise usage_error(_FIELD, f"{path}: not a readable weights file: {first}") from None
    return _unwrapped(state, path)


def _unwrapped(state: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    for name in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    tensors = (
        {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
        if isinstance(state, Mapping)
        else {}
    )
    if not tensors:
        raise usage_error(_FIELD, f"{path}: holds no tensors")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def load_backbone(
    module: nn.Module, path: Path, classifier: str | None
) -> tuple[WeightsOrigin, SourceClassifier | None]:
    """Load a file into a backbone without classifier.

    Args:
        module: the backbone.
        path: the file: of the library's model, or of a model that thawline trained.
        classifier: the name of the library's classifier, e.g. ``fc``.

    Raises:
        UsageError: tensors are missing, left over, or of other shapes; names them.
    """
    state = read_state(path)
    if any(key.startswith("backbone.") for key in state):
        own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
        head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
    else:
        prefix = f"{classifier}." if classifier else "\0"
        own = {key: value for key, value in state.items() if not key.startswith(prefix)}
        head = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    expected = module.state_dict()
    kept = {key: value for key, value in own.items() if key in expected}
    problems = [f"lacks {key}" for key in expected if key not in own]
    problems += [f"has {key}, which the network has not" for key in own if key not in expected]
    problems += [
        f"{key} is {tuple(value.shape)}, not {tuple(expected[key].shape)}"
        for key, value in kept.items()
        if value.shape != expected[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise usage_error(_FIELD, f"{path} does not fit {type(module).__name__}: {shown}")
    module.load_state_dict(kept, strict=True)
    return WeightsOrigin(str(path), sha256_of_file(path)), linear_classifier(head)


def linear_classifier(head: Mapping[str, torch.Tensor]) -> SourceClassifier | None:
    """The classifier's weight and bias, if it is one linear layer."""
    weight = head.get("weight")
    if weight is None or weight.dim() != 2 or set(head) - {"weight", "bias"}:
        return None
    return SourceClassifier(weight, head.get("bias"))


def state_hash(module: nn.Module) -> str:
    """The SHA-256 of a module's state, names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def unreachable(name: str, error: Exception) -> UsageError:
    """What is said when the library's weights cannot be fetched."""
    first = (str(error) or type(error).__name__).splitlines()[0]
    return usage_error(
        _FIELD, f"the weights of {name} cannot be fetched ({first}); give a local file, or null for random weights"
    )
