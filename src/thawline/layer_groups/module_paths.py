"""The paths of the modules around a parameter."""

from __future__ import annotations

from collections.abc import Iterator


def prefixes(name: str) -> Iterator[str]:
    """The module paths around a parameter: ``a.b.weight`` -> ``a``, ``a.b``."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))
