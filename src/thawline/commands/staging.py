"""A protocol: its stages are run one after the other, each a sweep with a manifest of its own, up to its test stage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from thawline.commands.composing import Composer, Grid, changed, key_of
from thawline.commands.composing import Point as Cell
from thawline.commands.diagnosis import checked
from thawline.commands.outcome import FinishedSweep
from thawline.dotted import dotted
from thawline.errors import Problem, UsageError, nearest_path, usage_error
from thawline.freeze_policies import LastK
from thawline.invocation import Invocation
from thawline.protocols import Candidate, Finished, Point, Protocol, Stage
from thawline.protocols.space import Dimension, dimension, tuned_fields
from thawline.records import Record, StageRecord, require_record, run_folder
from thawline.records.protocol import CandidateEntry, PointEntry, ProtocolManifest, StageEntry
from thawline.specs import resolve
from thawline.sweeps.cells import CellConfig, for_each
from thawline.sweeps.manifest import write_protocol

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from thawline.commands.launching import Launching
    from thawline.planning.plan import Plan
    from thawline.planning.session import Session
    from thawline.sweeps.sweep import PlannedSweep

_ITS_OWN = {
    "seed": "a protocol gives its runs their seeds; protocol.seed changes them all",
    "open_test": "a protocol opens the test split in its last stage and in no other",
    "sweep.stage": "a protocol sets it",
}
_SPACE = "protocol.space."


def run_protocol(launching: Launching, composer: Composer, arguments: Sequence[str]) -> FinishedSweep:
    """Run the stages of a protocol, or what is missing of them, and report its test stage.

    Args:
        launching: plans and runs the cells of a stage.
        composer: composes their configurations.
        arguments: the overrides of the command and of the experiment.

    Raises:
        UsageError: the protocol or a run cannot be used; nothing of its stage has been run.
        SweepIncomplete: a run of a stage is not done, so that the next stage cannot begin.
    """
    grid = Grid(composer, arguments)
    _refuse(arguments, grid)
    bases = for_each(((cell.label, cell) for cell in grid), len(grid), _base)
    protocol = bases[0].protocol
    session = launching.new_session(len(bases) * max(1, protocol.budget))
    plans = for_each(((base.label, base) for base in bases), len(bases), lambda base: _planned(base, session))
    numbered = ((base.label, (index, base, plan)) for index, (base, plan) in enumerate(zip(bases, plans, strict=True)))
    axes = {key: values for key, values in grid.axes.items() if not _of_protocol(key)}
    candidates = for_each(numbered, len(bases), lambda item: _candidate(*item, axes))
    name = plans[0].settings.sweep.name or f"{launching.label}-{_digest(protocol, candidates, plans)}"
    return _Stages(launching, composer, session, protocol, candidates, axes, name).run()


@dataclass(frozen=True)
class _Base:
    """A cell of the command's grid.

    Attributes:
        overrides: without those of the protocol.
        label: what of them is swept.
        strategy: the option of ``strategy``, or else of ``freeze_policy``.
        values: the configuration of a run, which keeps the test split closed.
        protocol: with the space of this cell.
        tuned: the fields that the command itself puts into the space.
    """

    overrides: tuple[str, ...]
    label: str
    strategy: str
    values: Mapping[str, Any]
    protocol: Protocol
    tuned: frozenset[str]


def _base(cell: Cell) -> _Base:
    """The cell with its values and its protocol, right as far as that can be known without torch."""
    own = tuple(line for line in cell.overrides if not _of_protocol(key_of(line)))
    if not any(key_of(line).lstrip("+") == "protocol" for line in cell.overrides):
        own = (*own, "protocol=none")  # an experiment has chosen it, and would for the command of each run
    spaces = (key_of(line).lstrip("+") for line in cell.overrides)
    tuned = frozenset(key.removeprefix(_SPACE) for key in spaces if key.startswith(_SPACE))
    choices = cell.config.hydra.runtime.choices
    chosen = {key_of(line): line.partition("=")[2] for line in own}
    strategy = next(
        str(value)
        for group in ("strategy", "freeze_policy")
        if (value := chosen.get(group, choices.get(group))) not in (None, "null")
    )
    values = {**checked(cell.config, own), "open_test": False}
    label = cell.label if cell.label != " ".join(cell.overrides) else strategy
    return _Base(own, label, strategy, values, _protocol(cell.config), tuned)


def _protocol(config: DictConfig) -> Protocol:
    node = OmegaConf.to_container(config.protocol, resolve=True)
    found = resolve(node, "protocol")
    if not isinstance(found, Protocol):
        raise usage_error("protocol", f"{config.protocol._target_} is no protocol")
    return found


def _planned(base: _Base, session: Session) -> Plan:
    from thawline.planning.plan import plan_run

    return plan_run(base.values, base.overrides, session, base.label)


def _candidate(index: int, base: _Base, plan: Plan, axes: Collection[str]) -> Candidate:
    """What of the grid is compared, with its space: what the command itself sets is not tuned."""
    given = {key_of(line).lstrip("+") for line in base.overrides}
    groups = len(plan.network.groups)
    entries = {field: entry for field, entry in tuned_fields(base.protocol.space) if field not in given}
    problems = [Problem(f"{_SPACE}{field}", "the command sets this field, too") for field in sorted(base.tuned & given)]
    space: dict[str, Dimension] = {}
    for field, entry in entries.items():
        try:
            space[field] = dimension(field, entry, _configured(base.values, field), groups)
        except UsageError as error:
            problems += error.problems
    if not problems and base.protocol.budget and not space:
        problems.append(Problem("protocol.space", "no field is left that could be tuned"))
    if problems:
        raise UsageError(problems)
    chosen = {key_of(line): line.partition("=")[2] for line in base.overrides}
    place = {key: chosen[key] for key in axes}
    policy = plan.settings.freeze_policy
    depth = policy.count(plan.network) if isinstance(policy, LastK) else None
    return Candidate(index, base.label, base.strategy, base.overrides, place, space, depth)


def _configured(values: Mapping[str, Any], field: str) -> Any:
    """The value of a field of a configuration.

    Raises:
        UsageError: it has no such field.
    """
    known = dict(dotted(values))
    if field not in known:
        raise usage_error(f"{_SPACE}{field}", f"there is no field {field!r}{nearest_path(field, known)}")
    return known[field]


class _Stages:
    """The stages of one command, from the first one on."""

    def __init__(
        self,
        launching: Launching,
        composer: Composer,
        session: Session,
        protocol: Protocol,
        candidates: Sequence[Candidate],
        axes: Mapping[str, list[str]],
        name: str,
    ) -> None:
        self._launching, self._composer, self._session = launching, composer, session
        self._protocol, self._candidates, self._axes, self._name = protocol, candidates, axes, name
        self._entries: list[StageEntry] = []
        self._done: list[Finished] = []

    def run(self) -> FinishedSweep:
        """Run one after the other; the test stage is the last one."""
        while (stage := self._protocol.next_stage(self._candidates, self._done)) is not None:
            finished = self._run(stage)
            if stage.purpose == "test":
                return finished
        raise RuntimeError(f"{type(self._protocol).__name__} has no test stage")

    def _run(self, stage: Stage) -> FinishedSweep:
        is_test = stage.purpose == "test"
        name = self._name if is_test else f"{self._name}-{stage.name}"
        _require_fresh_seeds(stage, self._done)
        labels = (f"{self._candidates[point.candidate].label} {' '.join(point.overrides)}" for point in stage.points)
        cells = for_each(
            zip(labels, stage.points, strict=True), len(stage.points), lambda point: self._cell(stage, name, point)
        )
        planned = self._launching.plan(cells, {**self._axes, **_axes_of(stage)}, self._session)
        if not is_test and any("test" in plan.splits.opened for plan in planned.plans):
            raise RuntimeError(f"a run of stage {stage.name} has a test split")
        self._entries.append(_stage_entry(stage, planned))
        folder = planned.output_dir / "sweeps" / self._name
        write_protocol(folder, self._manifest())
        finished = self._launching.run(planned, self._session, report=is_test, data=not self._done)
        self._done.append(Finished(stage, _records(planned)))
        manifest = self._manifest(complete=is_test)
        write_protocol(folder, manifest)
        return dataclasses.replace(finished, protocol=manifest)

    def _cell(self, stage: Stage, name: str, point: Point) -> CellConfig:
        """The run of a point: nothing that the protocol says can open the test split, or close it where it is due."""
        candidate = self._candidates[point.candidate]
        opened = f"open_test={'true' if stage.purpose == 'test' else 'false'}"
        cell = changed(
            self._composer, candidate.overrides, [*point.overrides, opened], {*candidate.values, *stage.axes}
        )
        values = checked(cell.config, cell.overrides)
        asked = StageRecord(
            protocol=self._name,
            kind=type(self._protocol).__name__,
            stage=stage.name,
            purpose=stage.purpose,
            candidate=candidate.label,
            trials=self._protocol.budget,
        )
        values["sweep"] = {**values["sweep"], "name": name, "stage": asked.model_dump()}
        return CellConfig(cell.overrides, cell.label, values)

    def _manifest(self, *, complete: bool = False) -> ProtocolManifest:
        choices = self._protocol.choices(self._candidates, self._done)
        drops = self._protocol.drops(self._candidates, self._done)
        return ProtocolManifest(
            name=self._name,
            kind=type(self._protocol).__name__,
            command=Invocation.current().command,
            settings=self._protocol.model_dump(mode="json"),
            candidates=[
                CandidateEntry(
                    label=candidate.label,
                    values=dict(candidate.values),
                    overrides=list(candidate.overrides),
                    space={field: dimension.plain for field, dimension in candidate.space.items()},
                    trials=self._protocol.budget,
                    choice=choices.get(candidate.index),
                    drop=drops.get(candidate.index),
                )
                for candidate in self._candidates
            ],
            stages=self._entries,
            independent_trials=self._protocol.independent_trials,
            complete=complete,
        )


def _refuse(arguments: Sequence[str], grid: Grid) -> None:
    """Refuse fields that are the protocol's to set, and a sweep over its own.

    Raises:
        UsageError: with a problem for each.
    """
    keys = dict.fromkeys(key_of(line).lstrip("+~") for line in arguments)
    problems = [Problem(key, _ITS_OWN[key]) for key in keys if key in _ITS_OWN]
    swept = [key.lstrip("+~") for key in grid.axes]
    problems += [Problem(key, "is the same for all that is compared") for key in swept if _of_protocol(key)]
    problems += [Problem(key, _ITS_OWN["seed"]) for key in swept if key == "data_seed"]
    if problems:
        raise UsageError(problems)


def _of_protocol(key: str) -> bool:
    return key.lstrip("+~").partition(".")[0] == "protocol"


def _digest(protocol: Protocol, candidates: Sequence[Candidate], plans: Sequence[Plan]) -> str:
    """What tells protocols without a name apart: their settings, spaces, and what is compared."""
    spaces = [{field: one.plain for field, one in candidate.space.items()} for candidate in candidates]
    settings = protocol.model_dump(mode="json", exclude={"space"})
    content = [type(protocol).__name__, settings, spaces, [plan.identity for plan in plans]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _axes_of(stage: Stage) -> dict[str, list[str]]:
    """The axes of a stage with their values, in the order of its points."""
    axes: dict[str, dict[str, None]] = {key: {} for key in stage.axes}
    for point in stage.points:
        for line in point.overrides:
            if key_of(line) in axes:
                axes[key_of(line)][line.partition("=")[2]] = None
    return {key: list(values) for key, values in axes.items()}


def _require_fresh_seeds(stage: Stage, done: Sequence[Finished]) -> None:
    used = {point.seed for finished in done for point in finished.stage.points}
    if stage.purpose == "test" and used & {point.seed for point in stage.points}:
        raise RuntimeError(f"stage {stage.name} tests on seeds that chose what is tested")


def _stage_entry(stage: Stage, planned: PlannedSweep[Plan]) -> StageEntry:
    points = [
        PointEntry(
            identity=identity,
            candidate=point.candidate,
            trial=point.trial,
            seed=point.seed,
            changes=list(point.changes),
            stand_in=list(point.stand_in),
        )
        for point, identity in zip(stage.points, planned.cells, strict=True)
    ]
    return StageEntry(name=stage.name, purpose=stage.purpose, sweep=planned.name, points=points)


def _records(planned: PlannedSweep[Plan]) -> tuple[Record, ...]:
    """The record of each cell; equal cells share one."""
    return tuple(require_record(run_folder(planned.output_dir, identity)) for identity in planned.cells)
