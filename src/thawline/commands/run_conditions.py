"""Conditions on runs: ``backbone.name=resnet18``, ``optimizer.lr>0.001``, ``state!=done``, ``sweep=digits*``."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thawline.errors import nearest_path, usage_error

_CONDITION = re.compile(r"(?P<key>[^=!<>]+)(?P<sign>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_WORDS = {True: ("true", "yes", "on"), False: ("false", "no", "off"), None: ("null", "none", "")}
_DATE = "date"


@dataclass(frozen=True)
class Condition:
    """A condition on one key. ``!=`` is the opposite of ``=``: it also holds for a run that lacks the key.

    Texts may have the wildcards ``*`` and ``?``; numbers are compared by value, so ``1e-3`` is 0.001. ``<`` and ``>``
    hold for no run whose value is not a number, and compare dates as texts.
    """

    key: str
    sign: str
    value: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a run with these values (key -> value, or several values) meets it."""
        if self.key not in values:
            return self.sign == "!="
        found = values[self.key]
        if self.sign in _ORDERED:
            return self._is_ordered(found)
        several = found if isinstance(found, tuple) else (found,)
        return any(_equal(one, self.value) for one in several) == (self.sign == "=")

    def _is_ordered(self, found: Any) -> bool:
        if self.key == _DATE:
            return bool(found) and _ORDERED[self.sign](found, self.value)
        return _is_number(found) and _ORDERED[self.sign](found, float(self.value))


def read_conditions(texts: Iterable[str], known: Sequence[str]) -> list[Condition]:
    """The conditions that `texts` say, on keys of `known`.

    Raises:
        UsageError: one is no condition, names a key that no run has, or orders by what is not a number.
    """
    return [_condition(text, known) for text in texts]


def _condition(text: str, known: Sequence[str]) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise usage_error(
            "--where", f"{text!r} is no condition: KEY=VALUE, KEY!=VALUE, KEY<NUMBER, KEY>NUMBER (in quotes)"
        )
    key = require_key("--where", match["key"].strip(), known)
    condition = Condition(key, match["sign"], match["value"].strip())
    if condition.sign in _ORDERED and key != _DATE and not _is_number(_number(condition.value)):
        raise usage_error("--where", f"{text!r}: {condition.sign} needs a number, not {condition.value!r}")
    return condition


def require_key(option: str, key: str, known: Sequence[str]) -> str:
    """`key` if some run has it.

    Raises:
        UsageError: none has; the message has the fields of a group of that name, or the nearest keys.
    """
    if key in known:
        return key
    fields = [other for other in known if other.startswith(f"{key}.")]
    if fields:
        few = ", ".join(fields[:8]) + (", ..." if len(fields) > 8 else "")
        raise usage_error(option, f"{key!r} is a group of fields: {few}")
    raise usage_error(option, f"no run has a key {key!r}{nearest_path(key, known)}")


def _equal(found: Any, text: str) -> bool:
    for value, words in _WORDS.items():
        if found is value:
            return text.lower() in words
    if isinstance(found, (int, float)):
        return _number(text) == found
    shown = found if isinstance(found, str) else str(found)
    # A bracket begins a list here, not a set of characters.
    return fnmatch.fnmatchcase(_tight(shown), _tight(text).replace("[", "[[]"))


def _tight(text: str) -> str:
    """A list in one form, however it was spaced and quoted."""
    return re.sub(r"[\s'\"]", "", text) if text.startswith("[") else text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
