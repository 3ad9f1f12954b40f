"""The names of timm's and torchvision's networks, read from their sources: importing them takes seconds."""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

_TIMM = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)
_TORCHVISION = re.compile(r"^@register_model\(\)\n(?:(?!def )[^\n]*\n)*def (\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Family:
    """The names of the networks that a library's module `family` defines, sorted."""

    library: str
    family: str
    names: tuple[str, ...]


@functools.cache
def families() -> tuple[Family, ...]:
    """All networks of timm, by module, then those of torchvision that classify."""
    found = [Family("timm", file.stem, _names(file, _TIMM)) for file in sorted(_folder("timm").glob("*.py"))]
    theirs = [name for file in _folder("torchvision").glob("*.py") for name in _names(file, _TORCHVISION)]
    found.append(Family("torchvision", "torchvision", tuple(sorted(theirs))))
    return tuple(family for family in found if family.names)


def names_of(library: str) -> tuple[str, ...]:
    """The names of a library's networks, sorted."""
    return tuple(sorted(name for family in families() if family.library == library for name in family.names))


def _names(file: Path, pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(sorted(pattern.findall(file.read_text(encoding="utf-8"))))


def _folder(library: str) -> Path:
    """Where a library defines its networks; the library itself is not imported."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(library)
    return Path(spec.origin).parent / "models"
