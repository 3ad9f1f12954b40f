"""``sweep.json``: what a sweep consists of."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from thawline.files import read_json
from thawline.records.names import SWEEP_FILE


class CellEntry(BaseModel):
    """One cell: the identity of its run, and the overrides that make it."""

    model_config = ConfigDict(extra="ignore")
    identity: str
    overrides: list[str]


class Manifest(BaseModel):
    """A sweep: the command that makes it again, its axes with their values, and its cells in the grid's order.

    `options` is what the command of one cell needs before its overrides (``--allow``, ``--config-dir``).
    """

    model_config = ConfigDict(extra="ignore")
    schema_version: Literal[1] = 1
    name: str
    command: str = ""
    options: list[str] = []
    axes: dict[str, list[str]]
    cells: list[CellEntry]
    runs_folder: str = "../../runs"

    def label(self, cell: CellEntry) -> str:
        """The cell's overrides that are swept; all of them where none is."""
        swept = [override for override in cell.overrides if override.partition("=")[0] in self.axes]
        return " ".join(swept or cell.overrides)


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the sweep in `folder`; that its identities are those of runs is not checked.

    Raises:
        OSError: there is none.
        ValueError: it is damaged; a `ValidationError` says where.
    """
    return Manifest.model_validate(read_json(folder / SWEEP_FILE))
