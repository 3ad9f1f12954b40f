"""Two records of the same run: do they say the same, and if not, what differs around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thawline.dotted import leaves
from thawline.records import Record, ThawLineRecord

Verdict = Literal["identical", "equal within tolerance", "different"]
_OF_THE_MOMENT = {"command", "options", "started_at", "finished_at", "resumed"}
_UNTIMED = frozenset({"seconds"})


@dataclass(frozen=True)
class Difference:
    """A value that two records do not share."""

    name: str
    recorded: Any
    again: Any


@dataclass(frozen=True)
class RecordComparison:
    """How two records of one run compare.

    Attributes:
        verdict: identical (every number and every file's hash), equal within the tolerance, or different.
        numbers: the numbers that differ at all, the largest difference first.
        files: files whose hashes differ.
        environment: what differs in software, hardware, threads, data, or in how the values were computed.
    """

    verdict: Verdict
    numbers: tuple[Difference, ...]
    files: tuple[Difference, ...]
    environment: tuple[Difference, ...]

    @property
    def largest(self) -> float:
        """The largest difference of a number; infinite where one is missing."""
        return _distance(self.numbers[0]) if self.numbers else 0.0


def compare(recorded: Record, again: Record, tolerance: float) -> RecordComparison:
    """Compare a record with that of the same run made again; a number may differ by `tolerance`."""
    numbers = sorted(_differences(_numbers(recorded), _numbers(again)), key=_distance, reverse=True)
    files = tuple(_differences(recorded.files, again.files))
    same = not numbers and not files and recorded.selection == again.selection
    largest = _distance(numbers[0]) if numbers else 0.0
    verdict: Verdict = "identical" if same else "equal within tolerance" if largest <= tolerance else "different"
    environment = tuple(_differences(_environment(recorded), _environment(again)))
    return RecordComparison(verdict, tuple(numbers), files, environment)


def _numbers(record: Record) -> dict[str, Any]:
    """Every number that training decides: metrics of each split, and of each epoch."""
    found: dict[str, Any] = {
        f"{split}/{name}": value for split, values in record.metrics.items() for name, value in values.items()
    }
    for row in record.history:
        found |= {f"epoch {row['epoch']} {key}": value for key, value in row.items() if key not in _UNTIMED}
    return found


def _environment(record: Record) -> dict[str, Any]:
    values = record.provenance.model_dump(exclude=_OF_THE_MOMENT)
    trainer = record.config.get("trainer") or {}
    values["trainer"] = {key: trainer.get(key) for key in ("accelerator", "devices")}
    values["thaw_line"] = {phase.name: _computed(phase.thaw_line) for phase in record.phases}
    values["identity"] = record.identity
    values["splits"] = {name: split.sha256 for name, split in record.splits.items()}
    return dict(leaves(values))


def _computed(line: ThawLineRecord) -> str:
    """How the outputs of a phase came about."""
    if not line.stored:
        return "whole model"
    together = f", {line.packed} probes as one problem" if line.packed > 1 else ""
    return f"stored values ({line.dtype}){together}"


def _differences(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[Difference]:
    for name in [*recorded, *(name for name in again if name not in recorded)]:
        one, other = recorded.get(name, "absent"), again.get(name, "absent")
        if one != other and not _both_nan(one, other):
            yield Difference(name, one, other)


def _both_nan(one: Any, other: Any) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in (one, other))


def _distance(difference: Difference) -> float:
    values: Sequence[Any] = (difference.recorded, difference.again)
    if all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return abs(float(values[0]) - float(values[1]))
    return math.inf
