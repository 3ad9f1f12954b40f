"""Trials compared on validation: what each one reached, the best of them, and whether it lies at an edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from thawline.protocols.protocol import Finished
from thawline.records import Record
from thawline.records.metrics import NEVER, SelectionRule, comparable, selection_rule
from thawline.statistics import end_of

_FEW_TRIALS = 4


@dataclass(frozen=True)
class Tried:
    """A setting and what its runs of one stage reached on validation.

    Attributes:
        number: of the trial.
        changes: its overrides, without the seed.
        seeds: of its runs.
        metric: the name of the metric that it is compared by.
        value: the mean of it over the runs; None where one of them has none.
        rank: larger is better; a setting of which a run diverged is the worst.
    """

    number: int
    changes: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    value: float | None
    rank: tuple[float, float]


def tried(finished: Finished, candidate: int) -> list[Tried]:
    """The settings that a stage tried for a candidate, in the order of the trials."""
    runs: dict[int, list[tuple[int, tuple[str, ...], Record]]] = {}
    for point, record in finished.of(candidate):
        runs.setdefault(point.trial or 0, []).append((point.seed, point.changes, record))
    found = []
    for number, group in sorted(runs.items()):
        records = [record for _, _, record in group]
        rule = rule_of(records[0])
        scores = [record.scores("val") for record in records]
        means = {name: _mean([found.get(name) for found in scores]) for name in _names(rule)}
        diverged = any(record.diverged for record in records)
        rank = NEVER if diverged else rule.rank({name: comparable(mean) for name, mean in means.items()})
        seeds = tuple(seed for seed, _, _ in group)
        found.append(Tried(number, group[0][1], seeds, rule.metric, means[rule.metric], rank))
    return found


def best_first(trials: Sequence[Tried]) -> list[Tried]:
    """The trials, the best one first; of equals the one that was tried first."""
    return sorted(trials, key=lambda trial: (-trial.rank[0], -trial.rank[1], trial.number))


def edge_warnings(chosen: Sequence[str], trials: Sequence[Sequence[str]]) -> list[str]:
    """A warning for each learning rate of the chosen setting that is the smallest or the largest of those tried.

    None after few `trials`: of n independent ones the best is at an end in two of n cases, wherever the best rate lies.
    """
    warnings: list[str] = []
    if len(trials) <= _FEW_TRIALS:
        return warnings
    for field, value in (item.split("=", 1) for item in chosen):
        if field.rpartition(".")[2] != "lr":
            continue
        values = sorted({float(other) for setting in trials for other in _values(setting, field)})
        end = end_of(float(value), values)
        if end is not None:
            warnings.append(
                f"{field}={value} is the {end} of {len(values)} that were tried ({values[0]:g} to {values[-1]:g}): "
                f"better ones may lie beyond; widen protocol.space.{field}"
            )
    return warnings


def _values(setting: Sequence[str], field: str) -> list[str]:
    return [value for name, value in (item.split("=", 1) for item in setting) if name == field]


def rule_of(record: Record) -> SelectionRule:
    """The rule that the run chose its epoch by."""
    metric = record.selection.monitor.removeprefix("val/")
    return selection_rule(metric, record.metric_definitions, record.tie_break)


def _names(rule: SelectionRule) -> list[str]:
    return [rule.metric, *([rule.tie_break] if rule.tie_break else [])]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if known and len(known) == len(values) else None
