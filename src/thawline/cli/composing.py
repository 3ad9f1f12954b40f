"""From the overrides of a grid to the configuration of every cell.

Hydra takes tens of milliseconds to compose a configuration. Where only plain values differ between cells it composes
once, and the values are set as it would set them; for every choice of options it composes anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from thawline.errors import usage_error
from thawline.sweeps.cells import Cell

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.types import HydraContext


class Grid:
    """The cells of a sweep: the full product of the swept keys' values, the last key fastest.

    Args:
        context: Hydra's.
        config: the configuration of the multirun, without the grid.
        arguments: the overrides of the command and of the experiment, sweeps among them.

    Raises:
        UsageError: an interval is swept.
    """

    def __init__(self, context: HydraContext, config: DictConfig, arguments: Sequence[str]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._loader, self._config = context.config_loader, config
        self._parser = OverridesParser.create(config_loader=context.config_loader)
        values: dict[str, list[str]] = {}
        swept: dict[str, bool] = {}
        for override in self._parser.parse_overrides(list(arguments)):
            key = override.get_key_element()
            values[key], swept[key] = _values(override), override.is_sweep_override()
        self.axes = {key: values[key] for key in values if swept[key]}
        self._lines = [[_line(key, value) for value in chosen] for key, chosen in values.items()]
        self._read: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._set_later = [swept[key] and self._is_plain(key, list(values)) for key in values]

    def __len__(self) -> int:
        length = 1
        for lines in self._lines:
            length *= len(lines)
        return length

    def __iter__(self) -> Iterator[tuple[Cell, DictConfig]]:
        """Each cell, and its configuration before interpolations are resolved (valid until the next cell)."""
        for lines in itertools.product(*self._lines):
            composed = self._compose(lines)
            swept = [line for line in lines if line.partition("=")[0] in self.axes]
            yield Cell(tuple(lines), " ".join(swept or lines), plain(composed)), composed

    def _compose(self, lines: Sequence[str]) -> DictConfig:
        base = tuple(line for line, later in zip(lines, self._set_later, strict=True) if not later)
        later = [self._parsed(line) for line, later in zip(lines, self._set_later, strict=True) if later]
        if base not in self._composed:
            self._composed[base] = self._loader.load_sweep_config(self._config, list(base))
        composed = self._composed[base]
        if all(_exists(composed, override) for override in later):
            for override in later:
                OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
            return composed
        # An unknown key: Hydra has the words for it.
        return self._loader.load_sweep_config(self._config, list(lines))

    def _is_plain(self, key: str, keys: Sequence[str]) -> bool:
        """Whether a swept key takes values that change nothing else and that nothing else changes."""
        if not key.replace("_", "").replace(".", "").isalnum() or self._is_group(key) or self._has_mapping(key, keys):
            return False
        # An option of a group is there before any value is set; a mapping in its place is set like other values.
        others = [other for other in keys if not self._is_group(other) or self._has_mapping(other, keys)]
        names = [other.lstrip("+~") for other in others if other != key]
        return not any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in names)

    def _is_group(self, key: str) -> bool:
        return bool(self._loader.get_group_options(key.lstrip("+~").partition("@")[0]))

    def _has_mapping(self, key: str, keys: Sequence[str]) -> bool:
        return any(isinstance(self._parsed(line).value(), Mapping) for line in self._lines[keys.index(key)])

    def _parsed(self, line: str) -> Override:
        if line not in self._read:
            (self._read[line],) = self._parser.parse_overrides([line])
        return self._read[line]


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration without Hydra's own node, as plain containers."""
    return {str(key): _resolved(config, str(key)) for key in config if key != "hydra"}


def _resolved(config: DictConfig, key: str) -> Any:
    if OmegaConf.is_missing(config, key):
        return "???"
    value = config[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
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
