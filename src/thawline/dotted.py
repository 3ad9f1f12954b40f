"""Nested mappings by dotted names, as the fields of a configuration are written: ``optimizer.lr``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def dotted(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its name, a mapping before what is in it; `above` is the name of all of them."""
    for key, value in values.items():
        name = f"{above}.{key}" if above else str(key)
        yield name, value
        if isinstance(value, Mapping):
            yield from dotted(value, name)


def leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value that holds no others with its name; an empty mapping is one."""
    return ((name, value) for name, value in dotted(values) if not (isinstance(value, Mapping) and value))
