"""A protocol: its stages are run one after the other, each a sweep with a manifest of its own, up to its test stage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thawline.commands.candidates import compared
from thawline.commands.composing import Composer, changed, key_of
from thawline.commands.diagnosis import checked
from thawline.commands.outcome import FinishedSweep
from thawline.invocation import Invocation
from thawline.protocols import Candidate, Finished, Point, Protocol, Stage
from thawline.records import Record, StageRecord, require_record, run_folder
from thawline.records.protocol import CandidateEntry, PointEntry, ProtocolManifest, StageEntry
from thawline.sweeps.cells import CellConfig, for_each
from thawline.sweeps.manifest import write_protocol

if TYPE_CHECKING:
    from thawline.commands.launching import Launching
    from thawline.planning.plan import Plan
    from thawline.planning.session import Session
    from thawline.sweeps.sweep import PlannedSweep

_RETRAINED = "train_on=train_val"


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
    protocol, candidates, plans, axes, session = compared(composer, arguments, launching.new_session)
    name = plans[0].settings.sweep.name or f"{launching.label}-{_digest(protocol, candidates, plans)}"
    return _Stages(launching, composer, session, protocol, candidates, axes, name).run()


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
        if self._protocol.retrains and not is_test:
            self._require_retrainable(cells)
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
        is_test = stage.purpose == "test"
        own = [f"open_test={'true' if is_test else 'false'}"]
        own += [_RETRAINED] if is_test and self._protocol.retrains else []
        cell = changed(self._composer, candidate.overrides, [*point.overrides, *own], {*candidate.values, *stage.axes})
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

    def _require_retrainable(self, cells: Sequence[CellConfig]) -> None:
        """Refuse, before anything is tuned, what the test stage could not train without validation images."""
        from thawline.planning.plan import plan_run

        key, value = _RETRAINED.split("=")

        def planned(cell: CellConfig) -> Plan:
            return plan_run({**cell.config, "open_test": True, key: value}, cell.overrides, self._session, cell.label)

        for_each(((cell.label, cell) for cell in cells), len(cells), planned)

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
