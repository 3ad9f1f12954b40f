"""The project file: what every command in a folder would repeat, in ``thawline.toml`` or in ``pyproject.toml``.

It is read in the folder that one stands in and nowhere else. A file that came with a data set must not run code, so the
packages in its ``allow`` count only once the user has named them on the command line in this folder; that is remembered
in the user's own configuration, outside the project.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import field_validator

from thawline.errors import usage_error
from thawline.files import read_json, write_json
from thawline.specs import Spec, validate

PROJECT_FILE = "thawline.toml"
_DEFAULT_OUTPUTS = Path("outputs")
_outputs: list[Path] = []


class ProjectSettings(Spec):
    """The fields of ``thawline.toml``, or of ``[tool.thawline]``; paths are relative to the file.

    Attributes:
        allow: packages that ``_target_`` may name, as ``--allow``.
        config_dir: a folder of own config groups, as ``--config-dir``.
        output_dir: where runs, sweeps and stores go, as ``output_dir=`` of train and ``--outputs`` of the other verbs.
    """

    allow: tuple[str, ...] = ()
    config_dir: Path | None = None
    output_dir: Path | None = None

    @field_validator("allow", mode="before")
    @classmethod
    def _one_is_a_list(cls, allow: object) -> object:
        return [allow] if isinstance(allow, str) else allow


@dataclass(frozen=True)
class Project:
    """A project file and what it says."""

    file: Path
    settings: ProjectSettings

    def allowed(self, named: Sequence[str]) -> tuple[str, ...]:
        """The packages of its ``allow`` that the user has named in this folder, now (`named`) or before."""
        known = _remembered()
        key = str(self.file.parent.resolve())
        before = known.get(key, [])
        now = [package for package in self.settings.allow if package in named or package in before]
        if set(now) - set(before):
            with contextlib.suppress(OSError):  # a home that cannot be written: to be named each time
                write_json(_memory(), {**known, key: sorted({*before, *now})})
        return tuple(now)

    def describe(self, allowed: Sequence[str]) -> list[str]:
        """What it says that counts, on one line, and a line for each package that does not count yet."""
        said = [f"--allow {package}" for package in allowed]
        if self.settings.config_dir is not None:
            said.append(f"--config-dir {self.settings.config_dir}")
        if self.settings.output_dir is not None:
            said.append(f"output_dir={self.settings.output_dir}")
        waiting = [package for package in self.settings.allow if package not in allowed]
        return [
            f"{self.file.name}: {', '.join(said) or 'nothing'}",
            *(
                f"note: {self.file.name} asks to allow {package}; a file alone allows no code: give --allow {package} "
                "once in this folder, and it holds from then on"
                for package in waiting
            ),
        ]


def read_project() -> Project | None:
    """The project file of the current folder, if there is one; ``thawline.toml`` comes before ``pyproject.toml``.

    Raises:
        UsageError: it cannot be read, or a field is wrong.
    """
    own = Path(PROJECT_FILE)
    if own.is_file():
        return Project(own, _settings(own, _read(own)))
    shared = Path("pyproject.toml")
    # Most files of this name say nothing of thawline; a broken one is for their own tools to refuse.
    if not shared.is_file() or "thawline" not in shared.read_text(encoding="utf-8", errors="replace"):
        return None
    tool = _read(shared).get("tool")
    node = tool.get("thawline") if isinstance(tool, dict) else None
    return Project(shared, _settings(shared, node)) if isinstance(node, dict) else None


def use_outputs(folder: Path | None) -> None:
    """Let `folder` be where runs and sweeps lie unless a command says otherwise."""
    _outputs[:] = [] if folder is None else [folder]


def project_outputs() -> Path | None:
    """The folder that `use_outputs` was given last."""
    return _outputs[0] if _outputs else None


def outputs() -> Path:
    """Where runs and sweeps lie unless a command says otherwise."""
    return _outputs[0] if _outputs else _DEFAULT_OUTPUTS


def with_output_dir(overrides: Sequence[str]) -> list[str]:
    """The overrides, with the project's ``output_dir`` before them if they name none."""
    from thawline.commands.quoting import quoted

    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    if not _outputs or "output_dir" in given:
        return list(overrides)
    return [f"output_dir={quoted(str(_outputs[0]))}", *overrides]


def _settings(file: Path, values: dict[str, Any]) -> ProjectSettings:
    settings: ProjectSettings = validate(ProjectSettings, values, file.name)
    if settings.config_dir is not None and not settings.config_dir.is_dir():
        raise usage_error(f"{file.name}.config_dir", f"there is no folder '{settings.config_dir}'")
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise usage_error(file.name, f"cannot be read: {error}") from None


def _memory() -> Path:
    """The file in the user's own configuration that holds which packages are allowed in which folder."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home, "thawline", "allowed.json")


def _remembered() -> dict[str, list[str]]:
    try:
        found = read_json(_memory())
    except (OSError, ValueError, RuntimeError):
        return {}
    lists = found.items() if isinstance(found, dict) else ()
    return {str(key): [str(item) for item in value] for key, value in lists if isinstance(value, list)}
