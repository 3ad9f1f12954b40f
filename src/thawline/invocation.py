"""What a command line says beside its overrides, for the record and for the processes that go on with its work.

A config file cannot say any of it: which packages ``_target_`` may name, and where the user's own options are.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from thawline.config_paths import own_folder, use_own_folder
from thawline.specs import allow_targets, allowed_extra_targets

_CHOOSING = ("--config-name", "-cn", "--config-path", "-cp")
"""Hydra's flags that decide which configuration the overrides are laid on."""


@dataclass(frozen=True)
class Invocation:
    """A command line: ``thawline VERB``, its arguments, and the options of every verb that name own code and options.

    Attributes:
        program: ``thawline`` and the verb.
        arguments: what follows the verb.
        allow: packages that ``_target_`` may name beside thawline's own and its libraries.
        config_dir: the folder of own config groups, or None.
    """

    program: str
    arguments: tuple[str, ...]
    allow: tuple[str, ...]
    config_dir: str | None

    @classmethod
    def current(cls) -> Invocation:
        """That of this process."""
        own = own_folder()
        return cls(
            sys.argv[0], tuple(sys.argv[1:]), allowed_extra_targets(), str(own.absolute()) if own is not None else None
        )

    def adopt(self) -> None:
        """Make it that of this process, which does a part of its work."""
        sys.argv = [self.program, *self.arguments]
        allow_targets(self.allow)
        use_own_folder(Path(self.config_dir) if self.config_dir is not None else None)

    @property
    def options(self) -> list[str]:
        """What a command needs beside overrides to find the same options and classes."""
        folder = None if self.config_dir is None else _shown(Path(self.config_dir))
        return [
            *(word for package in self.allow for word in ("--allow", package)),
            *(["--config-dir", folder] if folder is not None else []),
        ]

    @property
    def choosing(self) -> list[str]:
        """`options`, and Hydra's flags that choose another configuration than thawline's own ``config.yaml``."""
        chosen = list(self.options)
        for place, word in enumerate(self.arguments):
            if word in _CHOOSING:
                chosen += self.arguments[place : place + 2]
            elif word.partition("=")[0] in _CHOOSING:
                chosen.append(word)
        return chosen

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join([*self.program.split(), *self.options, *self.arguments])


def _shown(folder: Path) -> str:
    """The folder from where one stands, if it lies below."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
