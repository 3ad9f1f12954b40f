"""The points of a grid before they are planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from thawline.errors import Problem, UsageError, counted

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class CellConfig:
    """One point of the grid: what the command changes, what of it is swept, and the resolved configuration."""

    overrides: tuple[str, ...]
    label: str
    config: Mapping[str, Any]


def for_each(cells: Iterable[tuple[str, _Given]], total: int, make: Callable[[_Given], _Made]) -> list[_Made]:
    """What `make` gives for each of `total` cells, in order.

    Args:
        cells: the label of each, and what `make` takes.
        total: how many there are.
        make: may raise a `UsageError`.

    Raises:
        UsageError: with the problems of all cells, each one once with the cells that have it.
    """
    made: list[_Made] = []
    problems: dict[Problem, list[str]] = {}
    for label, given in cells:
        try:
            made.append(make(given))
        except UsageError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(label)
    if problems:
        raise UsageError([Problem(p.field, f"{p.message}{_where(labels, total)}") for p, labels in problems.items()])
    return made


def _where(labels: Sequence[str], total: int) -> str:
    """Which cells have the problem, unless all have."""
    if len(labels) == total:
        return ""
    more = f" and {counted(len(labels) - 1, 'more cell')}" if len(labels) > 1 else ""
    return f"  [{labels[0]}{more}]"
