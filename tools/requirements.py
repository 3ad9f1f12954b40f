"""What pyproject.toml asks for, by who asks: ``thawline``, or ``thawline[EXTRA]``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(pyproject: Path = PYPROJECT) -> dict[str, list[Requirement]]:
    """The requirements of the package and of each of its extras.

    Args:
        pyproject: a pyproject.toml with a ``[project]`` table.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    name: str = canonicalize_name(project["name"])
    found = {name: project.get("dependencies", [])}
    found |= {f"{name}[{extra}]": lines for extra, lines in project.get("optional-dependencies", {}).items()}
    return {who: [Requirement(line) for line in lines] for who, lines in found.items()}
