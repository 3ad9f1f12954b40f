"""thawline: how many layers to unfreeze, and which transfer strategy is best, answered with evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thawline.api import Run, RunFailed, Sweep, SweepIncomplete, UsageError, load_run, load_sweep, train

__version__ = "0.1.0"
__all__ = ["Run", "RunFailed", "Sweep", "SweepIncomplete", "UsageError", "load_run", "load_sweep", "train"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported at its first use (PEP 562)."""
    if name in __all__:
        import thawline.api

        return getattr(thawline.api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
