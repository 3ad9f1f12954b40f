"""Values of overrides as text: what Hydra's grammar cannot read, or reads as a number, is meant as it is written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from thawline.errors import Problem, UsageError

_STRUCTURED = frozenset("[]{}()'\"")
"""Signs of lists, mappings, functions and quotes: a value with one of them that cannot be read is a mistake."""
_INTERVAL = re.compile(r"(\d+)(?:\.{2,3}|:|-)(\d+)")
"""``0..4``, ``0:4`` and ``0-4``, as other programs write the numbers from 0 to 4."""


def quoted(text: str) -> str:
    """`text` as the value of an override that is read as this text, whatever is in it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def in_shell(argument: str) -> str:
    """An argument as one types it: in double quotes, which a reader sees through, where those will do."""
    return shlex.quote(argument) if set('"$`!\\') & set(argument) else f'"{argument}"'


def as_text(argument: str) -> str:
    """An override whose value the grammar cannot read, with the value quoted: ``weights=epoch=3.ckpt``, ``root=Größe``.

    Each of several values (a sweep's) is quoted where it needs it. What looks like a list, a mapping, a function or a
    quotation is left alone, so that its mistake is named.
    """
    key, _, value = argument.partition("=")
    if not value or _STRUCTURED & set(value) or "${" in value or _readable(argument):
        return argument
    values = [item.strip() for item in value.split(",")]
    return f"{key}={','.join(item if _readable(f'{key}={item}') else quoted(item) for item in values)}"


def with_ranges(error: UsageError, arguments: Sequence[str]) -> UsageError:
    """The error; for a field that was given an interval such as ``0..4`` it says how a sweep writes it."""
    written = {key.lstrip("+"): text for key, _, text in (item.partition("=") for item in arguments)}
    return UsageError([_with_range(problem, written.get(problem.field, "")) for problem in error.problems])


def _with_range(problem: Problem, text: str) -> Problem:
    match = _INTERVAL.fullmatch(text)
    if match is None:
        return problem
    meant = in_shell(f"{problem.field}=range({match[1]},{int(match[2]) + 1})")
    return Problem(problem.field, f"{problem.message}; each from {match[1]} to {match[2]}: -m {meant}")


def _readable(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return False
    return True


def restore_text(values: dict[str, Any], overrides: Sequence[str], fields: Sequence[str]) -> bool:
    """Set each of `fields` in `values` to what an override has written, where Hydra has read it as something else.

    ``sweep.name=2024_01`` is the number 202401 to Hydra; a field that takes text gets ``2024_01``.

    Returns:
        Whether anything was set.
    """
    written = {key.lstrip("+"): text for key, _, text in (item.partition("=") for item in overrides)}
    restored = False
    for field in fields:
        above, _, name = field.rpartition(".")
        node: Any = values
        for part in above.split(".") if above else ():
            node = node.get(part) if isinstance(node, Mapping) else None
        text = written.get(field, "")
        if isinstance(node, dict) and isinstance(node.get(name), (bool, int, float)) and text.strip():
            node[name] = text.strip()
            restored = True
    return restored
