"""Hydra's program with less to do: it composes a configuration to learn the mode, and again to run it; here, once.

Each composition takes a tenth of a second. What the two give is the same but for what is said below. To list the
options of a group Hydra copies all that it knows, so that its help takes three seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hydra._internal import hydra as program
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig

from thawline.config_paths import shipped_root

_SWEEPS = (",", "(")
"""One of these is in every override that sweeps: ``1,2``, ``range(0,5)``, ``glob(*)``."""


@contextlib.contextmanager
def composing_once(*, multirun: bool) -> Iterator[None]:
    """Within the block Hydra's program runs the configuration by which it has learned the mode.

    Args:
        multirun: whether the command asks for it (``-m``).
    """
    before = program.Hydra
    program.Hydra = _Multirun if multirun else _Run  # type: ignore[misc]  # a subclass in its place
    try:
        yield
    finally:
        program.Hydra = before  # type: ignore[misc]


class _Loader(ConfigLoaderImpl):
    """Lists groups and options without a copy of all that Hydra knows of configurations."""

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """The names of the options of a group."""
        if config_name is not None or overrides:  # which may say where else to look
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        return self.repository.get_group_options(group_name, results_filter)

    def list_groups(self, parent_name: str) -> list[str]:
        """The groups below another one; of the folder with the experiments, which may be a checkout, these alone."""
        if parent_name:
            return super().list_groups(parent_name)
        root = str(shipped_root())
        places = [source for source in self.repository.get_sources() if source.path != root and source.is_group("")]
        found = {group for place in places for group in place.list("", ObjectType.GROUP)}
        return sorted({*found, "experiments"})


class _Run(program.Hydra):
    """Keeps the configuration of `get_mode` for the `compose_config` that follows with the same arguments."""

    _asked = RunMode.RUN
    _kept: tuple[tuple[Any, ...], DictConfig] | None = None

    @classmethod
    def create_main_hydra2(cls, task_name: str, config_search_path: ConfigSearchPath) -> program.Hydra:
        """Hydra with a loader that lists options quickly."""
        found = cls(task_name, _Loader(config_search_path))
        GlobalHydra.instance().initialize(found)
        return found

    def get_mode(self, config_name: str | None, overrides: list[str]) -> Any:
        """The mode that the configuration asks for; None where it does not say."""
        try:
            # Not as Hydra does, for a multirun whatever is asked for: that would let options be missing.
            config = super().compose_config(config_name, overrides, self._asked, validate_sweep_overrides=False)
        except Exception:  # noqa: BLE001 - whatever it is, it comes again where Hydra reports it
            return super().get_mode(config_name, overrides)
        said, written = config.hydra.mode, list(overrides)
        if said is None:
            # As if Hydra had been told: it will say so in an override.
            written.append(f"hydra.mode={self._asked.name}")
            config.hydra.mode = self._asked
            config.hydra.overrides.hydra.append(written[-1])
        if said in (None, self._asked) and not config.hydra.verbose:
            self._kept = (config_name, written, self._asked), config
        return said

    def compose_config(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        with_log_configuration: bool = False,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The configuration that was kept, if it is the one that is asked for; else a new one."""
        kept, self._kept = self._kept, None
        if kept is None or kept[0] != (config_name, overrides, run_mode) or not with_log_configuration:
            return super().compose_config(
                config_name, overrides, run_mode, with_log_configuration, from_shell, validate_sweep_overrides
            )
        if validate_sweep_overrides:
            sweeping = [override for override in overrides if any(sign in override for sign in _SWEEPS)]
            parsed = OverridesParser.create().parse_overrides(sweeping)
            ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        configure_log(kept[1].hydra.hydra_logging, kept[1].hydra.verbose)
        return kept[1]


class _Multirun(_Run):
    """The same for a command with ``-m``."""

    _asked = RunMode.MULTIRUN
