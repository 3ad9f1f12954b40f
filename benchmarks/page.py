"""The page of a benchmark: a section for each thing measured, of which some can be measured anew and the rest kept."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A section as it was measured.

    Attributes:
        lines: its Markdown, without the heading.
        where: machine, Python, thawline's version and the day.
        figures: what the lines were made from.
    """

    lines: Sequence[str]
    where: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class Page:
    """A Markdown page and the sections that it is made of, in a JSON file of the same name beside it.

    Args:
        path: the Markdown file.
        order: the titles of all sections, as the page has them; others are dropped.
    """

    def __init__(self, path: Path, order: Sequence[str]) -> None:
        self._path, self._kept = path, path.with_suffix(".json")
        found = json.loads(self._kept.read_text()) if self._kept.is_file() else {}
        self._sections = {title: Measured(**section) for title, section in found.items()}
        self._order = order

    def put(self, title: str, lines: Sequence[str], rate: float, figures: Mapping[str, Any] | None = None) -> None:
        """Put what was measured now in the place of an earlier section.

        Args:
            title: one of `order`.
            lines: its Markdown, without the heading.
            rate: measured FLOPs of a second, of large products.
            figures: what the lines were made from, for the JSON file.
        """
        self._sections[title] = Measured(lines, _here(rate), figures or {})

    def write(self, head: Sequence[str], before: Mapping[str, Sequence[str]], end: Sequence[str] = ()) -> str:
        """Write both files; the page's text.

        Args:
            head: the lines at its top.
            before: title -> lines that stand before that section; before the first of those that share them.
            end: the lines at its end.
        """
        lines = list(head)
        kept = {title: self._sections[title] for title in self._order if title in self._sections}
        chapters: list[Sequence[str]] = []
        for title, section in kept.items():
            if (opening := before.get(title, ())) not in chapters:
                lines += opening
                chapters.append(opening)
            lines += [f"## {title}", "", *section.lines, "", section.where, ""]
        text = "\n".join([*lines, *end, *([""] if end else [])])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(text)
        self._kept.write_text(json.dumps({title: asdict(section) for title, section in kept.items()}, indent=1) + "\n")
        return text


def _here(rate: float) -> str:
    from thawline import __version__
    from thawline.ledger.provenance import hardware

    machine = hardware()
    name = ", ".join([machine.processor, *machine.gpus])
    return (
        f"Measured on {date.today().isoformat()} with thawline {__version__}: {name}, {machine.cores} cores, Python "
        f"{platform.python_version()}, {rate / 1e9:.0f} GFLOP/s in large products."
    )
