"""From the overrides of a grid to the configuration of every cell.

Hydra takes tens of milliseconds to compose a configuration. Where only plain values differ between cells it composes
once, and the values are set as it would set them; for every choice of options it composes anew.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thawline.errors import Problem, UsageError, usage_error

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.types import HydraContext


_NOT_OF_A_RUN = ("hydra", "protocol")
"""What of a configuration is of the command: a protocol makes runs, and each is the same without it."""


@dataclass(frozen=True)
class Point:
    """A cell of a grid: its overrides, what to call it, and its configuration before interpolations are resolved."""

    overrides: tuple[str, ...]
    label: str
    config: DictConfig


class Composer:
    """Configurations of lists of overrides; those that differ in plain values alone are composed once.

    Args:
        context: Hydra's.
        config: the configuration of the multirun.
    """

    def __init__(self, context: HydraContext, config: DictConfig) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._loader, self._config = context.config_loader, config
        self._parser = OverridesParser.create(config_loader=context.config_loader)
        self._read: dict[str, Override] = {}
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}

    def compose(self, lines: Sequence[str], later: Collection[str]) -> DictConfig:
        """The configuration of overrides, valid until the next one; the values of the keys `later` are set last."""
        base = tuple(line for line in lines if key_of(line) not in later)
        values = [self.parsed(line) for line in lines if key_of(line) in later]
        # What is composed once is left with the values of the last one: the next has to set the same keys.
        place = (base, tuple(sorted(value.key_or_group for value in values)))
        if place not in self._composed:
            self._composed[place] = self._loader.load_sweep_config(self._config, list(base))
        composed = self._composed[place]
        if all(_exists(composed, value) for value in values):
            for value in values:
                OmegaConf.update(composed, value.key_or_group, value.value(), merge=True)
            return composed
        # An unknown key: Hydra has the words for it.
        return self._loader.load_sweep_config(self._config, list(lines))

    def is_plain(self, key: str, lines: Mapping[str, Sequence[str]]) -> bool:
        """Whether a key takes values that change nothing else and that nothing else changes.

        Args:
            key: the key.
            lines: the overrides of every key that is set, with all their values.
        """
        if not key.replace("_", "").replace(".", "").isalnum() or self._is_group(key) or self._has_mapping(lines[key]):
            return False
        # An option of a group is there before any value is set; a mapping in its place is set like other values.
        others = [other for other in lines if not self._is_group(other) or self._has_mapping(lines[other])]
        names = [other.lstrip("+~") for other in others if other != key]
        return not any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in names)

    def parsed(self, line: str) -> Override:
        """The override that a line is."""
        if line not in self._read:
            self._read[line] = self._parser.parse_override(line)
        return self._read[line]

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """The overrides of a command, sweeps among them."""
        return self._parser.parse_overrides(list(arguments))

    def _is_group(self, key: str) -> bool:
        return bool(self._loader.get_group_options(key.lstrip("+~").partition("@")[0]))

    def _has_mapping(self, lines: Sequence[str]) -> bool:
        return any(isinstance(self.parsed(line).value(), Mapping) for line in lines)


class Grid:
    """The cells of a sweep: the full product of the swept keys' values, the last key fastest.

    Args:
        composer: composes each of them.
        arguments: the overrides of the command and of the experiment, sweeps among them.

    Raises:
        UsageError: an interval is swept.
    """

    def __init__(self, composer: Composer, arguments: Sequence[str]) -> None:
        self._composer = composer
        values: dict[str, list[str]] = {}
        swept: dict[str, bool] = {}
        for override in composer.parse(arguments):
            key = override.get_key_element()
            values[key], swept[key] = _values(override), override.is_sweep_override()
        self.axes = {key: values[key] for key in values if swept[key]}
        self._lines = {key: [_line(key, value) for value in chosen] for key, chosen in values.items()}
        self._later = {key for key in self.axes if composer.is_plain(key, self._lines)}

    def __len__(self) -> int:
        length = 1
        for lines in self._lines.values():
            length *= len(lines)
        return length

    def __iter__(self) -> Iterator[Point]:
        """Each cell with its configuration, which is valid until the next one."""
        for lines in itertools.product(*self._lines.values()):
            composed = self._composer.compose(lines, self._later)
            yield Point(tuple(lines), _label(lines, self.axes), composed)


def changed(composer: Composer, overrides: Sequence[str], changes: Sequence[str], axes: Collection[str]) -> Point:
    """The cell of `overrides` with further ones in place of those of the same keys; `axes` are the keys of its label.

    Its configuration is valid until the next one.
    """
    keys = {key_of(line) for line in changes}
    lines = (*(line for line in overrides if key_of(line) not in keys), *changes)
    by_key = {key_of(line): [line] for line in lines}
    later = {key for key in keys if composer.is_plain(key, by_key)}
    return Point(lines, _label(lines, axes), composer.compose(lines, later))


def key_of(line: str) -> str:
    """The key that an override is for, with Hydra's ``+`` or ``~``."""
    return line.partition("=")[0]


def _label(lines: Sequence[str], axes: Collection[str]) -> str:
    return " ".join([line for line in lines if key_of(line) in axes] or lines)


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration of a run as plain containers: without the nodes of Hydra and of the protocol.

    Raises:
        UsageError: interpolations lead nowhere; each is named once, not the fields that only repeat it.
    """
    try:
        return {str(key): _resolved(config, str(key)) for key in config if key not in _NOT_OF_A_RUN}
    except OmegaConfBaseException:
        problems = unresolvable(config)
        if not problems:
            raise
        raise UsageError(problems) from None


def unresolvable(config: DictConfig) -> list[Problem]:
    """A problem for each field whose interpolation cannot be resolved by its own fault."""
    found = {field: (written, error) for field, written, error in _failing(config, "")}
    own = [field for field, (written, _) in found.items() if not _mentioned(written, field) & found.keys()]
    return [Problem(field, _in_words(*found[field])) for field in own or list(found)[:1]]


def _failing(node: Any, path: str) -> Iterator[tuple[str, str, Exception]]:
    """The fields below `node` that cannot be resolved: path, what is written there, the error."""
    if not OmegaConf.is_config(node) or node._is_none() or node._is_missing():
        return
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        field = f"{path}.{key!s}" if path else str(key)
        if field == "hydra":
            continue
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException as error:
            written: Any = OmegaConf.to_container(node, resolve=False)
            yield field, str(written[key]), error
        else:
            yield from _failing(value, field)


def _mentioned(written: str, field: str) -> set[str]:
    """The fields that an interpolation names."""
    names = re.findall(r"\$\{(\.*)([\w.]+)\}", written)
    above = field.split(".")
    return {".".join([*(above[: -len(dots)] if dots else []), name]) for dots, name in names}


def _in_words(written: str, error: Exception) -> str:
    text = str(error).strip().splitlines()[0]
    unset = re.search(r"Environment variable '([^']*)' not found", text)
    lost = re.search(r"Interpolation key '([^']*)' not found", text)
    if unset:
        cause = f"the environment variable {unset[1]!r} is not set"
    elif lost:
        cause = f"there is no field {lost[1]!r}"
    elif "Recursive interpolation" in text:
        cause = "it leads back to itself"
    else:
        cause = text
    return f"{written} cannot be resolved: {cause}"


def _resolved(config: DictConfig, key: str) -> Any:
    if OmegaConf.is_missing(config, key):
        return "???"
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        # As it was written: a field that takes text has 2024_01, not the number that Hydra reads.
        return [str(override.input_line).partition("=")[2].strip()]
    if not override.is_discrete_sweep():
        message = "an interval cannot be swept as a grid; name the values or use range()"
        raise usage_error(override.get_key_element(), message)
    return list(override.sweep_string_iterator())


def _line(key: str, value: str) -> str:
    return key if key.startswith("~") else f"{key}={value}"


def _exists(config: DictConfig, override: Override) -> bool:
    above, _, name = override.key_or_group.rpartition(".")
    parent = OmegaConf.select(config, above) if above else config
    return isinstance(parent, DictConfig) and name in list(parent)
