"""What the runs of a sweep need at thaw lines, on disk: a worker that has one run at a time learns it of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter

from thawline.files import read_json, write_json
from thawline.planning.needs import LineNeed
from thawline.planning.plan import Plan
from thawline.planning.session import Session
from thawline.planning.stored_phases import needs_of
from thawline.records.names import NEEDS_FILE

_CONTENT = TypeAdapter(list[tuple[LineNeed, int]])


def write_needs(folder: Path, plans: Iterable[Plan]) -> None:
    """Write what these runs of the sweep in `folder` need.

    Raises:
        WriteError: the folder cannot be written.
    """
    needs = Counter(need for plan in plans for need in needs_of(plan))
    write_json(folder / NEEDS_FILE, _CONTENT.dump_python(list(needs.items()), mode="json"))


def expect_sweep(folder: Path, session: Session) -> None:
    """Let the session expect the runs of the sweep in `folder`, where it says what they need."""

    def read() -> list[tuple[LineNeed, int]]:
        try:
            return _CONTENT.validate_python(read_json(folder / NEEDS_FILE))
        except (OSError, ValueError):
            return []  # then each run sees to itself

    needs = session.once("needs", str(folder), read)
    session.needs.expect(f"sweep {folder}", dict(needs))
