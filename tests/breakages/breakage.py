"""What a breakage is, and the list of them: one yaml file per package beside this module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent


class NotApplied(Exception):
    """The text that a breakage replaces is not there exactly once."""


@dataclass(frozen=True)
class Breakage:
    """One deliberate fault.

    `old` stands exactly once in `file` and is replaced by `new`. Each of `tests` must then fail; a parametrised test
    that is named without its brackets fails when one of its cases does.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    def broken(self, source: str) -> str:
        """The text of `file` with the fault in it; raises `NotApplied`."""
        count = source.count(self.old)
        if count != 1:
            raise NotApplied(f"{self.name}: the old text stands {count} times in {self.file}, not once")
        return source.replace(self.old, self.new)


def load(folder: Path = HERE) -> list[Breakage]:
    """All breakages, by file and in each file's order."""
    found = []
    for file in sorted(folder.glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text()):
            found.append(Breakage(**{**entry, "tests": tuple(entry["tests"])}))
    return found
