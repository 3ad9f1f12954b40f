"""From Python values to the overrides that the command line would have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from thawline.commands.quoting import quoted
from thawline.errors import usage_error


def overrides_of(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """An override ``field=value`` for each field.

    A mapping stands for the fields below its name. A list, a range or an array holds the values of a sweep; a tuple is
    one value that is a list.

    Raises:
        UsageError: a value is of a type that no field takes, or there is nothing to sweep.
    """
    for name, value in values.items():
        field = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and value:
            yield from overrides_of(value, field)
        elif is_swept(value):
            texts = [_text(field, item) for item in _items(value)]
            if not texts:
                raise usage_error(field, "an empty list has nothing to sweep; an empty tuple is a value")
            yield f"{field}={','.join(texts)}"
        else:
            yield f"{field}={_text(field, value)}"


def sweeps(values: Mapping[str, Any]) -> bool:
    """Whether any field has several values."""
    return any(is_swept(value) or (isinstance(value, Mapping) and sweeps(value)) for value in values.values())


def is_swept(value: object) -> bool:
    """Whether a value holds the values of a sweep: a list, a range, or an array of at least one dimension."""
    return isinstance(value, (list, range)) or bool(getattr(value, "ndim", 0))


def _items(value: Any) -> list[Any]:
    return list(value.tolist() if hasattr(value, "tolist") else value)


def _text(field: str, value: Any, *, inside: bool = False) -> str:
    """A value as Hydra's grammar reads it; `inside` a list or a mapping."""
    if hasattr(value, "item") and not getattr(value, "ndim", 0):
        value = value.item()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (str, PurePath)):
        return _quoted_where_needed(field, str(value), inside=inside)
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_text(field, item, inside=True) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{key}:{_text(f'{field}.{key}', item, inside=True)}" for key, item in value.items())
        return f"{{{','.join(pairs)}}}"
    raise usage_error(field, f"a value of type {type(value).__name__} cannot be a setting (got {value!r:.80})")


def _quoted_where_needed(field: str, text: str, *, inside: bool) -> str:
    """The text as it is where Hydra reads it as this text, so that a record has the same override as of a command."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key = field if not inside else "value"
    try:
        (read,) = OverridesParser.create().parse_overrides([f"{key}=[{text}]" if inside else f"{key}={text}"])
        same = read.value() == ([text] if inside else text) and not read.is_sweep_override()
    except HydraException:
        same = False
    return text if same and text else quoted(text)
