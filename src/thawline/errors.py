"""What ends with one clear message instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LONGEST = 300
"""Letters of a line that a library has written."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input: where, and what.

    `wants_text` marks a field that takes text and has a number or a truth value, as YAML reads ``2024`` and ``nan``.
    """

    field: str
    message: str
    wants_text: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class UsageError(Exception):
    """The input cannot be used; carries every problem found, one message each.

    The command line prints the problems, without a traceback, and ends with exit status 2.
    """

    def __init__(self, problems: Problem | Sequence[Problem] | str) -> None:
        if isinstance(problems, str):
            # Of an error in a loader's process torch makes another one, of the text that ends with its message.
            problems = Problem("", problems.rpartition(f"{type(self).__name__}: ")[2].strip())
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def of(self, field: str, part: str) -> UsageError:
        """The same error of a `part` that the configuration has under another `field`."""
        return UsageError([Problem(each.field.replace(part, field, 1), each.message) for each in self.problems])

    def __reduce__(self) -> tuple[type[UsageError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class WriteError(OSError):
    """A file of ours cannot be written: a full disk, a folder that is read-only or not a folder."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


def first_line(error: Exception | str) -> str:
    """The first line of a message: torch's and pydantic's go on for pages. Of an error without one it is its kind."""
    lines = str(error).strip().splitlines()
    if isinstance(error, str):
        return lines[0] if lines else ""
    return lines[0][:_LONGEST] if lines else type(error).__name__


def counted(count: int, what: str) -> str:
    """A number of things in words: ``1 run``, ``1,000 runs``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def usage_error(field: str, message: str) -> UsageError:
    """A `UsageError` with a single problem."""
    return UsageError(Problem(field, message))


def nearest(name: str, names: Iterable[str], most: int = 3) -> str:
    """A hint ``; nearest: a, b`` for a misspelt `name`, or an empty string where nothing is near."""
    # A name that was refused is not what was meant.
    candidates = [candidate for candidate in names if candidate != name]
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=0.5)
    contained = [low for low in by_lower if name and name.lower() in low][:most]
    hits = list(dict.fromkeys(by_lower[low] for low in [*found, *contained]))[:most]
    return f"; nearest: {', '.join(hits)}" if hits else ""


def nearest_path(path: str, known: Iterable[str]) -> str:
    """A hint at fields that a misspelt `path` may mean: those of the same last name, or near ones."""
    known = list(known)
    name = path.rpartition(".")[2]
    same = [other for other in known if other != path and other.rpartition(".")[2] == name]
    return f"; nearest: {', '.join(dict.fromkeys(same))}" if same else nearest(path, known)
