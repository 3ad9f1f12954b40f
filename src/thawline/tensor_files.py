"""Safetensors files that can be checked by themselves: the SHA-256 of their tensors stands in their metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DIGEST = "tensors_sha256"
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


def to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of these tensors and this metadata, and the digest of the tensors; always the same bytes.

    The library writes metadata in an order that changes from call to call.
    """
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header, values = _divided(save(whole))
    about = {**metadata, DIGEST: _digest(header, values)}
    text = json.dumps({_METADATA: dict(sorted(about.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + values


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a file; empty where it has none, or is no safetensors file."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if length > path.stat().st_size:
                return {}
            found = json.loads(stream.read(length)).get(_METADATA, {})
    except (OSError, ValueError, AttributeError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def is_whole(path: Path) -> bool | None:
    """Whether the tensors are those that the metadata speaks of; None where it does not say."""
    said = metadata_of(path).get(DIGEST)
    if said is None:
        return None
    try:
        return _digest(*_divided(path.read_bytes())) == said
    except (OSError, ValueError):
        return False


def _divided(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header without metadata, and the values."""
    view = memoryview(content)
    end = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
    header = json.loads(bytes(view[_LENGTH_BYTES:end]))
    return {name: item for name, item in header.items() if name != _METADATA}, view[end:]


def _digest(header: Mapping[str, Any], values: memoryview) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(values)
    return digest.hexdigest()
