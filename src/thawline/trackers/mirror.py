"""A run's mirror: where its curves and final numbers are shown, row by row. Records are the truth."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from thawline.records.metrics import Direction

if TYPE_CHECKING:
    from thawline.records import Record

log = logging.getLogger("thawline")


@dataclass(frozen=True)
class Mirrored:
    """What a mirror is told of a run when it opens.

    Attributes:
        folder: Its files go there.
        identity: The run's.
        name: What it is called.
        group: The sweep that it belongs to.
        config: The resolved configuration.
        directions: Of metrics by their name in a row of the history, whether less or more is better.
        model: Gives the file of the whole model, once the run is done; None: there will be none.
    """

    folder: Path
    identity: str
    name: str
    group: str | None
    config: Mapping[str, Any]
    directions: Mapping[str, Direction] = field(default_factory=dict)
    model: Callable[[], Path] | None = None


class Mirror(Protocol):
    """An open logger of one run."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show one row of the run's history."""
        ...

    def close(self, record: Record | None) -> None:
        """End with the record of the finished run; None: it failed."""
        ...


@runtime_checkable
class LoggerSpec(Protocol):
    """Opens a mirror for one run."""

    def open(self, run: Mirrored) -> Mirror:
        """The mirror of `run`."""
        ...


def summary_of(record: Record) -> dict[str, float | int]:
    """The final numbers of a run by name; a number that is not finite is absent.

    These are ``SPLIT/METRIC``, counts of parameters, what the run cost, how many layer groups trained (in whole or in
    part) and which share that is, the chosen epoch with the value that it was chosen by, and whether the run diverged.
    """
    numbers = {
        f"{split}/{name}": value
        for split, values in record.metrics.items()
        for name, value in values.items()
        if value is not None
    }
    counts = {"parameters/trainable": record.parameters.trainable, "parameters/total": record.parameters.total}
    cost = {f"cost/{name}": value for name, value in record.cost.model_dump().items() if value is not None}
    trained, groups = sum(group.trained > 0 for group in record.layer_groups), len(record.layer_groups)
    depth = {"depth/k": trained, "depth/groups": groups, "depth/fraction": trained / groups if groups else 0.0}
    chosen: dict[str, float | int] = {"selection/epoch": record.selection.epoch, "diverged": int(record.diverged)}
    if record.selection.value is not None:
        chosen["selection/value"] = record.selection.value
    return {**numbers, **counts, **cost, **depth, **chosen}


@dataclass
class Mirroring:
    """A run's mirror while the run is on. What goes wrong with it is said once, and the run goes on without."""

    mirror: Mirror | None
    on_epoch: Callable[[Mapping[str, Any]], None]
    record: Record | None = None

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell the run's observer and the mirror of an epoch."""
        self.on_epoch(row)
        if self.mirror is not None:
            with self.forgiving():
                self.mirror.epoch(row)

    def close(self) -> None:
        """End the mirror, with the record where there is one."""
        if self.mirror is not None:
            with self.forgiving():
                self.mirror.close(self.record)

    @contextlib.contextmanager
    def forgiving(self) -> Iterator[None]:
        """Within the block an error ends the mirror, not the run."""
        try:
            yield
        except Exception:
            self.mirror = None
            log.warning("the logger failed; the run goes on, and its record stays whole", exc_info=True)


@contextlib.contextmanager
def mirroring(
    spec: LoggerSpec | None, run: Mirrored, on_epoch: Callable[[Mapping[str, Any]], None]
) -> Iterator[Mirroring]:
    """Mirror a run while the block runs; the mirror ends with the block, as failed where that leaves no record."""
    session = Mirroring(None, on_epoch)
    if spec is not None:
        with session.forgiving():
            session.mirror = spec.open(run)
    try:
        yield session
    finally:
        session.close()
