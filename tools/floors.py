"""Print the lowest versions that pyproject.toml allows, as constraints for pip: ``python -m tools.floors``.

``make test-lowest`` installs them. pip's resolver takes the newest version of everything that pyproject.toml does not
name, as it does for a user.
"""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.requirements import PYPROJECT, requirements


def floor_of(requirement: Requirement) -> Version:
    """The lowest version that a requirement allows.

    Raises:
        ValueError: it has no ``>=`` or ``==``.
    """
    lowest = [Version(bound.version) for bound in requirement.specifier if bound.operator in (">=", "==", "~=")]
    if not lowest:
        raise ValueError(f"{requirement}: no lowest version; write NAME>=VERSION")
    return max(lowest)


def floors(pyproject: Path = PYPROJECT) -> list[str]:
    """One line ``NAME==VERSION`` for each package that the project or one of its extras asks for, by name.

    Raises:
        ValueError: a requirement has no lowest version.
    """
    lowest: dict[str, Version] = {}
    for asked in requirements(pyproject).values():
        for requirement in asked:
            name, floor = canonicalize_name(requirement.name), floor_of(requirement)
            lowest[name] = max(floor, lowest.get(name, floor))
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


if __name__ == "__main__":
    sys.stdout.write("\n".join(floors()) + "\n")
