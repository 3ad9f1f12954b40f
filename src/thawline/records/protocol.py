"""``protocol.json``: the stages of a protocol, each of them a sweep, and what was chosen after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from thawline.files import read_json
from thawline.records.names import PROTOCOL_FILE
from thawline.records.provenance import Purpose


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")


class PointEntry(_Entry):
    """One run of a stage.

    Attributes:
        identity: of its run.
        candidate: index of the candidate that it belongs to.
        trial: number of the trial whose setting it has; None where nothing is tuned.
        seed: the seed of the run.
        changes: the overrides that the stage lays on those of the candidate: a setting that is tried, or chosen.
        stand_in: further ones, that make a cheaper run stand in for the candidate, such as a shallower one.
    """

    identity: str
    candidate: int
    trial: int | None = None
    seed: int | None = None
    changes: list[str] = []
    stand_in: list[str] = []


class StageEntry(_Entry):
    """A stage that has begun: its sweep lies in ``sweeps/<sweep>``, its points in the order of that sweep's grid."""

    name: str
    purpose: Purpose
    sweep: str
    points: list[PointEntry]


class ChoiceEntry(_Entry):
    """What the runs before test chose for a candidate, on validation.

    Attributes:
        changes: the overrides that are frozen.
        trial: number of the trial that they come from; None where nothing is tuned.
        metric: what was compared: the mean of it over `seeds`.
        value: that mean.
        seeds: of the runs that decided.
        stage: the stage of these runs.
        warnings: what a reader has to know of the choice, such as a rate at the edge of what was tried.
    """

    changes: list[str]
    trial: int | None = None
    metric: str = ""
    value: float | None = None
    seeds: list[int] = []
    stage: str = ""
    warnings: list[str] = []


class DropEntry(_Entry):
    """Why a candidate is no longer run: some other one was told apart from it as the better one.

    Attributes:
        stage: the stage at whose end it was dropped.
        seeds: how many seeds it has run on by then.
        winner: index of the candidate that beat it, the best of those that did.
        p: of the paired test, corrected for all pairs of the look.
        level: what p was compared with.
        audited: whether it is run in the test stage all the same, to learn how often drops are wrong.
    """

    stage: str
    seeds: int
    winner: int
    p: float
    level: float
    audited: bool = False


class CandidateEntry(_Entry):
    """One of what is compared: a cell of the command's grid.

    Attributes:
        label: its swept overrides.
        values: its place on the axes of the grid.
        overrides: all overrides of the command that make it.
        space: what is tuned: field -> kind and bounds (``["log", 0.001, 1.0]``), or kind and choices.
        trials: how many settings are tried, the same number for every candidate.
        choice: what was chosen, as soon as it is.
        drop: why it was dropped, where it was.
    """

    label: str
    values: dict[str, str]
    overrides: list[str]
    space: dict[str, list[Any]] = {}
    trials: int = 0
    choice: ChoiceEntry | None = None
    drop: DropEntry | None = None


class ProtocolManifest(_Entry):
    """A protocol in progress or done: its command and settings, what it compares, and the stages so far.

    `independent_trials` says whether what is tried is drawn independently: only then can tuning curves be computed.
    """

    schema_version: Literal[1] = 1
    name: str
    kind: str
    command: str = ""
    settings: dict[str, Any] = {}
    candidates: list[CandidateEntry]
    stages: list[StageEntry]
    independent_trials: bool = True
    complete: bool = False


def load_protocol(folder: Path) -> ProtocolManifest | None:
    """The manifest of the protocol whose test stage is the sweep in `folder`; None where there is none.

    Raises:
        ValueError: it is damaged; a `ValidationError` says where.
    """
    try:
        values = read_json(folder / PROTOCOL_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return ProtocolManifest.model_validate(values)
