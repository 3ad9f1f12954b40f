"""Several source models ranked for one target by their transferability scores, before anything is trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thawline.errors import Problem, UsageError, usage_error
from thawline.execution.source_scores import Scores, source_scores
from thawline.execution.weights import source_backbone
from thawline.files import write_json
from thawline.invocation import Invocation
from thawline.ledger import provenance
from thawline.planning.context import RunContext
from thawline.planning.plan import Plan, plan_run
from thawline.planning.session import Session
from thawline.records import identity_of, require_record, run_folder
from thawline.runtime.clock import now

SCORES = ("logme", "shrunk_h_score", "h_score", "leep", "nce")
"""What sources can be ranked by; higher is better for each."""

RANKING_FILE = "ranking.json"


@dataclass(frozen=True)
class Candidate:
    """A source that is to be ranked: how it is called, and the configuration of a run that would start from it."""

    label: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class RankedSource:
    """A source with its scores; `source_classes` is None where it has no classifier of its own."""

    label: str
    backbone: str
    weights: Mapping[str, Any]
    feature_dim: int
    source_classes: int | None
    scores: Scores
    seconds: float


@dataclass(frozen=True)
class SourceRanking:
    """Sources from the best to the worst by one score; those without it come last."""

    identity: str
    folder: Path
    by: str
    target: Mapping[str, Any]
    sources: tuple[RankedSource, ...]


def of_run(config: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """`config` with the network of a finished run in place of its own.

    Raises:
        UsageError: there is no such run.
    """
    record = require_record(run_folder(Path(config["output_dir"]), identity))
    return {**config, "backbone": {**record.config["backbone"], "weights": f"run:{identity}"}, "source": None}


def rank(
    candidates: Sequence[Candidate], by: str, session: Session, on_source: Callable[[str], None] = lambda label: None
) -> SourceRanking:
    """Score every candidate on the target's training split, and order them.

    Args:
        candidates: the sources; their configurations name the same target.
        by: one of `SCORES`.
        session: what they share.
        on_source: told the label of each source before its turn.

    Raises:
        UsageError: with the problems of all candidates, before any is scored.
    """
    plans = _plans(candidates, session)
    scored = []
    for candidate, plan in zip(candidates, plans, strict=True):
        on_source(candidate.label)
        scored.append(_scored(RunContext(plan, session), candidate.label))
    target = plans[0].splits
    decides = {
        "target": [target.fingerprint, target.train.sha256, plans[0].settings.deciding()["transform"]],
        "sources": sorted(
            identity_of(
                {"weights": source.weights, "backbone": source.backbone, "transform": plan.transform.deciding()}
            )
            for source, plan in zip(scored, plans, strict=True)
        ),
    }
    identity = identity_of(decides)
    return SourceRanking(
        identity=identity,
        folder=plans[0].settings.output_dir / "rankings" / identity,
        by=by,
        target={
            "dataset": plans[0].settings.deciding()["dataset"],
            "data_seed": plans[0].settings.data_seed,
            "data_fingerprint": target.fingerprint,
            "split": "train",
            "split_sha256": target.train.sha256,
            "samples": len(target.train),
            "classes": list(target.classes),
        },
        sources=tuple(sorted(scored, key=lambda source: _place(source.scores[by]))),
    )


def write_ranking(ranking: SourceRanking) -> Path:
    """Write the ranking with what made it, as JSON; gives the file."""
    path = ranking.folder / RANKING_FILE
    values = dataclasses.asdict(ranking) | {"schema_version": 1, "folder": str(ranking.folder)}
    made = {"command": Invocation.current().command, "made_at": now(), **provenance.software().model_dump()}
    write_json(path, {**values, "provenance": made})
    return path


def _plans(candidates: Sequence[Candidate], session: Session) -> list[Plan]:
    plans: list[Plan] = []
    problems: dict[str, Problem] = {}
    for candidate in candidates:
        try:
            plans.append(plan_run(candidate.config, (), session))
        except UsageError as error:
            for problem in error.problems:
                problems.setdefault(str(problem), Problem(problem.field, f"{problem.message} ({candidate.label})"))
    if problems:
        raise UsageError(list(problems.values()))
    for candidate, plan in zip(candidates, plans, strict=True):
        if _target(plan) != _target(plans[0]):
            raise usage_error("dataset", f"{candidate.label} has another target than {candidates[0].label}")
    task, known = plans[0].settings.task, plans[0].settings.diagnostics.TASKS_WITH_TRANSFERABILITY
    if task.NAME not in known:
        raise usage_error("task", f"sources are ranked by scores of classes, and the task is {task.NAME}")
    return plans


def _target(plan: Plan) -> tuple[str, str]:
    return plan.splits.fingerprint, plan.splits.train.sha256


def _scored(run: RunContext, label: str) -> RankedSource:
    began = time.perf_counter()
    backbone = source_backbone(run)
    scores = source_scores(run, backbone)
    classifier = backbone.source_classifier
    return RankedSource(
        label=label,
        backbone=backbone.name,
        weights=backbone.weights.model_dump(),
        feature_dim=backbone.feature_dim,
        source_classes=None if classifier is None else len(classifier.weight),
        scores=scores,
        seconds=time.perf_counter() - began,
    )


def _place(score: float | None) -> tuple[bool, float]:
    return (score is None, -(score or 0.0))
