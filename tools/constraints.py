"""Print the installed versions of all that the project needs, with who asks for each: ``python -m tools.constraints``.

``make constraints`` writes constraints.txt with it. What is installed but needed by neither the project nor an extra of
it is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.requirements import PYPROJECT, requirements

HEADER = """\
# The versions that the tests were run with, and who asks for each. Written by `make constraints`.
"""


def applies(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    """Whether this interpreter and platform need a requirement, given the extras that were asked for."""
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras))
    )


def needed(roots: Mapping[str, Iterable[Requirement]]) -> dict[str, set[str]]:
    """Who asks for each installed package: package -> keys of `roots` and names of packages.

    Args:
        roots: requirements by who asks for them.

    Raises:
        PackageNotFoundError: a package that is needed is not installed.
    """
    asked_by: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(who, requirement) for who, lines in roots.items() for requirement in lines if applies(requirement)]
    while waiting:
        who, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        asked_by.setdefault(name, set()).add(who)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            waiting += [(name, line) for line in _requirements_of(name, extra)]
    return asked_by


def _requirements_of(name: str, extra: str) -> list[Requirement]:
    """What an installed package needs by itself, or with one extra beyond that."""
    lines = [Requirement(line) for line in distribution(name).requires or ()]
    plain = [line for line in lines if applies(line)]
    return [line for line in lines if applies(line, [extra]) and line not in plain] if extra else plain


def constraints(pyproject: Path = PYPROJECT) -> str:
    """The text of constraints.txt for the packages that are installed here.

    Raises:
        PackageNotFoundError: something that the project or one of its extras needs is not installed.
    """
    lines = []
    for name, who in sorted(needed(requirements(pyproject)).items()):
        # A local version (2.6.0+cpu) is the same release, and not to be had everywhere.
        version = distribution(name).version.partition("+")[0]
        lines.append(f"{name}=={version}  # via {', '.join(sorted(who))}\n")
    return HEADER + "".join(lines)


if __name__ == "__main__":
    try:
        sys.stdout.write(constraints())
    except PackageNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed: install the project with all of its extras first")
