"""Hydra stops at the first override that does not fit; this finds them all and names what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from thawline.config_paths import conf_folder, options
from thawline.errors import Problem, nearest

_UNKNOWN_KEY = re.compile(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'")
_UNKNOWN_OPTION = re.compile(r"(?:Could not find|In '[^']*': Could not find) '([^']+)'")


def diagnose(argv: Sequence[str], error: Exception) -> list[Problem]:
    """The problems of a command line that Hydra refused with `error`, one for each override at fault."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    overrides = [argument for argument in argv if "=" in argument and not argument.startswith("-")]
    overrides = [override for override in overrides if not _sweeps(override)]
    problems: list[Problem] = []
    current: Exception | None = error
    while current is not None:
        problem, culprit = _explain(current, overrides)
        if problem not in problems:
            problems.append(problem)
        if culprit is None:
            break
        overrides.remove(culprit)
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(conf_folder()), version_base="1.3"):
                compose("config", overrides)
            current = None
        except (HydraException, OmegaConfBaseException) as next_error:
            current = next_error
    return problems


def _explain(error: Exception, overrides: Sequence[str]) -> tuple[Problem, str | None]:
    """One problem, and the override that causes it."""
    text = str(error)
    key = _UNKNOWN_KEY.search(text)
    if key:
        culprit = _of_key(key.group(1), overrides)
        known = _known_keys(key.group(1))
        return Problem(key.group(1), f"unknown field{nearest(key.group(1), known)}"), culprit
    option = _UNKNOWN_OPTION.search(text)
    if option:
        group, _, name = option.group(1).rpartition("/")
        culprit = _of_key(group, overrides)
        return Problem(group, f"there is no option {name!r}{nearest(name, options(group)) or _all(group)}"), culprit
    first = text.strip().splitlines()[0]
    culprit = next((override for override in overrides if override in text), None)
    return Problem("", first), culprit


def _all(group: str) -> str:
    names = ", ".join(options(group))
    return f"; options: {names}" if names else ""


def _of_key(key: str, overrides: Sequence[str]) -> str | None:
    return next((override for override in overrides if override.lstrip("+~").partition("=")[0] == key), None)


def _sweeps(override: str) -> bool:
    """A sweep is not composed as it is; its values are checked cell by cell."""
    value = override.partition("=")[2]
    return "," in value and not value.startswith(("[", "{", "'", '"')) or bool(re.match(r"(range|choice|glob)\(", value))


def _known_keys(key: str) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("config"), resolve=False)
    return _flat(config)


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [name for key, value in node.items() for name in _flat(value, f"{prefix}{key}.")]
