"""Weights from files: read without running code, found under the names that programs save them by, matched strictly."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.backbones.descriptions import FIELD, Description
from thawline.backbones.transformers_names import from_transformers
from thawline.errors import UsageError, first_line, usage_error
from thawline.files import sha256_of_file
from thawline.network import SourceClassifier
from thawline.records import WeightsRecord
from thawline.tensor_files import is_whole

if TYPE_CHECKING:
    import torch
    from torch import nn

    StateDict = dict[str, torch.Tensor]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema",
    "state_dict", "model_state_dict", "model_state", "model", "teacher", "target_encoder", "student", "encoder",
    "backbone", "net", "network", "module", "weights", "params", "checkpoint",
)  # fmt: skip
"""Where training programs keep the weights inside a checkpoint; averaged ones are what they report, so those first. Of
a self-supervised pair the teacher (DINO, iBOT) or target encoder (I-JEPA) is the one that its authors evaluate."""
_PREFIXES = (
    "module", "_orig_mod", "model", "net", "network", "backbone", "_backbone", "encoder", "encoder_q", "base_encoder",
    "teacher", "ema_model", "online_network", "online_encoder", "feature_extractor", "timm_model", "visual", "trunk",
    "base_model", "student", "momentum_encoder", "encoder_k",
)  # fmt: skip
"""What wrappers and training programs put before the names of a network, alone or one after the other. Of two parts
that hold the network alike, the one whose prefix stands further to the front is taken."""
_AUXILIARY = ("n_averaged", "mask_token", "masked_embed", "decoder_", "queue", "total_ops", "total_params")
"""Tensors that are no part of a classification network: counts of averages, parts of masked autoencoders and of MoCo,
and what counters of operations leave."""
_COUNTER = ".num_batches_tracked"
_SHOWN = 5


@dataclass(frozen=True)
class SavedNetwork:
    """The tensors of a weights file.

    Attributes:
        path: the file.
        backbone: those of the network by its own names; with its classifier, where the file has no `head` apart.
        head: those of a head that is saved beside the backbone, as thawline does; else None.
        container: the entry of the checkpoint that held them.
        prefix: what stood before their names.
        left_out: what else is in the file: the first part of a name, and how many tensors.
    """

    path: Path
    backbone: StateDict
    head: StateDict | None
    container: str = ""
    prefix: str = ""
    left_out: Mapping[str, int] | None = None

    def origin(self, description: Description) -> WeightsRecord:
        """The origin of these weights, for the record."""
        return WeightsRecord(
            description=str(self.path),
            sha256=sha256_of_file(self.path),
            container=self.container,
            prefix=self.prefix,
            left_out=None if self.left_out is None else dict(self.left_out),
            described_by=description.file,
        )


def is_path(weights: str) -> bool:
    """Whether this names a file rather than a tag of the library."""
    return weights.endswith(_SUFFIXES) or "/" in weights or "\\" in weights


def check_file(path: Path) -> None:
    """Raise a `UsageError` where there is no such file."""
    if not path.is_file():
        raise usage_error(FIELD, f"{path}: " + ("is a folder, not a file" if path.is_dir() else "no such file"))


def read_network(path: Path, expected: Collection[str], prefix: str | None = None) -> SavedNetwork:
    """The tensors of a network in a weights file.

    Args:
        path: the file.
        expected: the names of the network's tensors.
        prefix: what stands before them in the file; None finds it.

    Raises:
        UsageError: it is absent or damaged, holds more than tensors and plain values, or has nothing below `prefix`.
    """
    content = _read(path)
    container, tensors = _contained(content, path)
    _check_finite(path, tensors)
    if prefix is not None:
        found = _below(tensors, prefix)
        if not found:
            container, tensors = "", dict(_flat("", content))
            found = _below(tensors, prefix)
        if not found:
            starts = ", ".join(list(_counts(tensors))[:10])
            raise usage_error("backbone.prefix", f"{path}: no tensor's name begins with {prefix!r}; there are {starts}")
    else:
        tensors = from_transformers(tensors)
        prefix = _prefix_of(tensors, expected)
    backbone = _below(tensors, prefix)
    head = None
    if prefix.endswith("backbone."):
        head = _below(tensors, prefix.removesuffix("backbone.") + "head.")
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    auxiliary = {name for name in backbone if name not in expected and name.startswith(_AUXILIARY)}
    rest |= {name: backbone.pop(name) for name in auxiliary}
    outside = {name: tensor for name, tensor in rest.items() if not head or not name.endswith(tuple(head))}
    return SavedNetwork(path, backbone, head, container, prefix, _counts(outside) or None)


def _read(path: Path) -> Any:
    import argparse

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_file(path)
    try:
        if path.suffix == ".safetensors":
            if is_whole(path) is False:
                raise usage_error(FIELD, f"{path}: damaged: its tensors are not those that were written")
            return load_file(path)
        # timm's training checkpoints carry their command line, which is plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        raise usage_error(
            FIELD, f"{path}: refused, it is not a plain file of tensors: {reason}. {_resaving(path)}"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, SafetensorError) as error:
        raise usage_error(FIELD, f"{path}: not a readable weights file: {first_line(error)}") from None


def _resaving(path: Path) -> str:
    """How a file that holds more than tensors becomes one that does not."""
    return (
        "Such a file can run code. If you trust it, save its tensors alone, and use the new file: "
        f"python -c \"import torch; c = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "c = c.state_dict() if hasattr(c, 'state_dict') else c.get('state_dict', c.get('model', c)); "
        f'torch.save({{k: v for k, v in c.items() if torch.is_tensor(v)}}, {path.stem + "_tensors.pth"!r})"'
    )


def _contained(content: Any, path: Path) -> tuple[str, StateDict]:
    """The tensors by name of a checkpoint, and the path of the entry that holds them."""
    place: list[str] = []
    state = content
    while isinstance(state, Mapping):
        entry = next((name for name in _CONTAINERS if isinstance(state.get(name), Mapping) and state[name]), None)
        if entry is None:
            break
        place.append(entry)
        state = state[entry]
    tensors = dict(_flat("", state))
    if not tensors:
        keys = [str(key) for key in content][:10] if isinstance(content, Mapping) else []
        there = f"; it is a dictionary of {', '.join(keys)}" if keys else f", it is of type {type(content).__name__}"
        raise usage_error(FIELD, f"{path}: holds no tensors by name{there}")
    return ".".join(place), tensors


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    items = value.items() if isinstance(value, Mapping) else ()
    for key, item in items:
        if not isinstance(key, str):
            continue
        if isinstance(item, torch.Tensor):
            yield prefix + key, item
        elif isinstance(item, Mapping) and key not in _NO_WEIGHTS:
            yield from _flat(f"{prefix}{key}.", item)


_NO_WEIGHTS = ("optimizer", "optimizer_states", "lr_schedulers", "scaler", "loops", "callbacks")


def _prefix_of(tensors: Mapping[str, torch.Tensor], expected: Collection[str]) -> str:
    """The prefix under which most of the expected names are; without any of them, what wrappers put before all."""
    known = frozenset(expected)
    found = {"": 0}
    for name in tensors:
        parts = name.split(".")
        for depth in range(len(parts)):
            if depth and parts[depth - 1] not in _PREFIXES:
                break
            prefix = "".join(f"{part}." for part in parts[:depth])
            found[prefix] = found.get(prefix, 0) + (name.removeprefix(prefix) in known)
    best = max(found.values())
    if best:
        return min((prefix for prefix, count in found.items() if count == best), key=_rank)
    shared = [prefix for prefix in found if all(name.startswith(prefix) for name in tensors)]
    return max(shared, key=len)


def _rank(prefix: str) -> tuple[int, int]:
    places = [_PREFIXES.index(part) for part in prefix.split(".")[:-1]]
    return max(places, default=-1), len(places)


def _check_finite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        listed = ", ".join(broken[:_SHOWN])
        raise usage_error(FIELD, f"{path}: holds values that are not finite, in {listed}{more}: a diverged model?")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers only; minus infinity stands in attention masks, which some programs save."""
    return not tensor.is_floating_point() or not bool((tensor.isnan() | (tensor == float("inf"))).any())


def _below(state: Mapping[str, torch.Tensor], prefix: str) -> StateDict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _counts(names: Collection[str]) -> dict[str, int]:
    """How many names begin with each first part, most first."""
    return dict(Counter(name.partition(".")[0] for name in names).most_common())


def completed(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], classifiers: Sequence[str]
) -> StateDict:
    """`state` without heads that are no classifier of the network's, and with the counters that old files lack.

    Args:
        state: the tensors of a file.
        expected: those of the network without its classifier.
        classifiers: the paths of the network's classifiers, whose place other heads take (MoCo, DINO).
    """
    import torch

    heads = tuple(f"{name}." for name in classifiers if name)
    own = {name: tensor for name, tensor in state.items() if name in expected or not (heads and name.startswith(heads))}
    # Batch norms count batches since torch 0.4.1; nothing but momentum=None reads it.
    missing = (name for name in expected if name not in own and name.endswith(_COUNTER))
    return own | {name: torch.tensor(0) for name in missing if name.removesuffix(_COUNTER) + ".running_mean" in own}


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


def does_not_fit(saved: SavedNetwork, network: str, problems: list[str], expected: Collection[str]) -> UsageError:
    """What is said when a file's tensors are not the network's."""
    path, names = saved.path, list(saved.backbone)
    if not any(name in expected for name in names):
        called = ", ".join(names[:3])
        return usage_error(
            FIELD,
            f"{path} does not fit {network}: none of its {len(names)} tensors is called as in this network; they are "
            f"called {called}, ... Where the network is a part of the file, give what stands before its names: "
            "backbone.prefix=PART.",
        )
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return usage_error(
        FIELD,
        f"{path} does not fit {network}: {'; '.join(problems[:_SHOWN])}{more}. Is it of another variant "
        "(backbone.name), or built with other backbone.arguments?",
    )


def divided(state: Mapping[str, torch.Tensor], classifier: Collection[str]) -> tuple[StateDict, StateDict]:
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


def state_hash(module: nn.Module) -> str:
    """The SHA-256 of a module's state, names and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
