"""The options of every command, laid on those of the project file: packages to allow, and a folder of own options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from thawline.commands.project import read_project, use_outputs
from thawline.config_paths import overridden, use_own_folder
from thawline.errors import usage_error
from thawline.specs import allow_targets


class Taken(NamedTuple):
    """The values of ``--allow`` and of ``--config-dir``, and the other arguments."""

    allow: list[str]
    folders: list[str]
    rest: list[str]


def take_options(arguments: Sequence[str]) -> Taken:
    """Take the options of every command out of its arguments.

    Raises:
        UsageError: an option has no value.
    """
    taken = Taken([], [], [])
    homes = {"--allow": taken.allow, "--config-dir": taken.folders, "-cd": taken.folders}
    waiting = iter(arguments)
    for argument in waiting:
        option, equals, value = argument.partition("=")
        if option not in homes:
            taken.rest.append(argument)
            continue
        value = value if equals else next(waiting, "")
        if not value:
            raise usage_error(option, "needs a value")
        if homes[option] is taken.folders and not Path(value).is_dir():
            raise usage_error(option, f"there is no folder {value!r}")
        homes[option].append(value)
    return taken


def use_options(allow: Sequence[str], config_dir: Path | None, *, quiet: bool = False) -> None:
    """Let these options, laid on those of the project file, hold in this process.

    Args:
        allow: packages that ``_target_`` may name.
        config_dir: a folder of own config groups; None: the project file's.
        quiet: do not say what the project file says.

    Raises:
        UsageError: the project file is wrong.
    """
    project = read_project()
    allowed = project.allowed(allow) if project is not None else ()
    allow_targets([*allow, *allowed])
    settings = project.settings if project is not None else None
    use_own_folder(config_dir or (settings.config_dir if settings is not None else None))
    use_outputs(settings.output_dir if settings is not None else None)
    if project is not None and not quiet:
        print("\n".join(project.describe(allowed)), file=sys.stderr)


def print_replaced() -> None:
    """Say which of thawline's own options the user's folder replaces."""
    if replaced := overridden():
        names = ", ".join(f"{name} ({file})" for name, file in replaced.items())
        print(f"note: used instead of thawline's own: {names}", file=sys.stderr)
