"""Libraries that another one imports for what thawline does not use: imported when they are used, not before."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def import_torchmetrics() -> None:
    """Import torchmetrics without transformers.

    Where that is installed, torchmetrics imports its language models for two metrics of texts, and Lightning imports
    torchmetrics: a quarter of all that a command imports. Call this before the first import of either.
    """
    if "torchmetrics" in sys.modules:
        return
    # All that torchmetrics shares with others is imported outside of the block.
    import_module("torch")
    import_module("torchvision")
    try:
        with imported_later("transformers"):
            import_module("torchmetrics")
    except Exception:  # noqa: BLE001 - a version that does more with it: then it is imported after all
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]


@contextlib.contextmanager
def imported_later(library: str) -> Iterator[None]:
    """Within the block ``from library import Name`` imports nothing: the class is looked up when it is first used."""
    spec = find_spec(library) if library not in sys.modules else None
    if spec is None:
        yield
        return
    stand_in = _Library(library)
    stand_in.__spec__ = spec
    sys.modules[library] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(library) is stand_in:
            del sys.modules[library]


class _Library(ModuleType):
    """Stands for a library: every name in it is a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(name, (), {"__module__": self.__name__})


class _Later(type):
    """Stands for a class of a library."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._meant(), name)

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        return cls._meant()(*arguments, **keywords)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls._meant())

    def _meant(cls) -> Any:
        return getattr(import_module(cls.__module__), cls.__name__)
