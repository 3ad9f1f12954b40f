"""A record as a report reads it: numbers, words and nothing that a report does not need."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from thawline.dotted import leaves
from thawline.records import FeaturePass, Record, load_record
from thawline.records.metrics import MetricDefinition, exact_share
from thawline.records.names import PREDICTIONS_FILE

CountedFrom = Literal["output", "input"]
_ROUNDING = 1e-6
"""Of metrics that are computed in single precision."""


class _GroupDrift(BaseModel):
    model_config = ConfigDict(extra="ignore")
    distance: float | None
    relative: float | None


class _GroupCka(BaseModel):
    model_config = ConfigDict(extra="ignore")
    cka: float | None


class _Drift(BaseModel):
    model_config = ConfigDict(extra="ignore")
    groups: list[_GroupDrift] = []


class _Cka(BaseModel):
    model_config = ConfigDict(extra="ignore")
    groups: list[_GroupCka] = []


class _Diagnostics(BaseModel):
    model_config = ConfigDict(extra="ignore")
    drift: _Drift = _Drift()
    cka: _Cka = _Cka()


@dataclass(frozen=True)
class Change:
    """How far training took a layer group from the source: NaN where the record has no (finite) number.

    `drift` is ``‖w - w0‖``, `relative` its share of ``‖w0‖``, `cka` the linear CKA of the outputs with the source's.
    """

    drift: float
    relative: float
    cka: float


@dataclass(frozen=True)
class LoadedRun:
    """What a report needs of one record.

    Metrics that the record holds as null are NaN here; a metric that it lacks is absent. `definitions` says how each is
    read, and `tie_break` is the one that decides between runs that are equal by another. `trains` is what trained over
    all phases, and `additions` what the run adds to that (None: the record does not say). `trained` has for each layer
    group the share of its parameters that trained, from input to output; `counted_from` is the end of the network that
    the freeze policy counts its groups from. `changes` has one entry for each layer group, or none where the record has
    no diagnostics. `command` makes the run again. `recipe` has the settings of the training and their values, in words.
    `train_loss` and `validation` (by metric) have a number per epoch, and `phase_of_epoch` the name of its phase; they
    are empty where nothing was trained epoch by epoch. `chosen_epoch` is the one whose weights were kept. `settings`
    has what decides the numbers (of old records the whole configuration), each by its dotted name, as text.
    `margin` is the difference that the configuration says does not matter, if it says so. `entries` names the stored
    values that the run read, and `passes` are those over the images that it made. `predictions_sha256` is the digest of
    the predictions that the run has left, if it says so. `constant` has by split and metric what saying the same of
    every image can score, where that is known; `said_of_all` is what the run said of every test image, if it did.
    """

    identity: str
    folder: Path
    overrides: tuple[str, ...]
    settings: Mapping[str, str]
    command: tuple[str, ...]
    metrics: Mapping[str, Mapping[str, float]]
    definitions: Mapping[str, MetricDefinition]
    tie_break: str | None
    diverged: bool
    divergence: str
    trains: Literal["head", "all", "part"]
    monitor: str
    selection_tie_break: str | None
    groups: tuple[str, ...]
    trained: tuple[float, ...]
    counted_from: CountedFrom | None
    additions: tuple[str, ...] | None
    recipe: tuple[tuple[str, str], ...]
    train_loss: tuple[float, ...]
    validation: Mapping[str, tuple[float, ...]]
    phase_of_epoch: tuple[str, ...]
    chosen_epoch: int
    version: str
    image_score: str
    margin: float | None
    changes: tuple[Change, ...]
    trainable: int
    total: int
    head: int
    epochs: int
    total_seconds: float
    cpu_seconds: float | None
    train_seconds: float
    evaluate_seconds: float
    peak_memory_bytes: int
    provenance: tuple[tuple[str, str], ...]
    splits: tuple[tuple[str, int, str], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    predictions_sha256: str | None = None
    passes: tuple[FeaturePass, ...] = ()
    entries: frozenset[str] = frozenset()
    constant: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    said_of_all: str = ""

    @property
    def share(self) -> float:
        """Trainable parameters as a share of all, 0 to 1."""
        return self.trainable / self.total if self.total else math.nan

    @property
    def is_tested(self) -> bool:
        """Whether the run opened the test split."""
        return "test" in self.metrics

    @property
    def is_validated(self) -> bool:
        """Whether the run has a validation split: one that trains on it, too, has none."""
        return "val" in self.metrics

    @property
    def last_phase(self) -> str:
        """The name of the phase that was trained last."""
        return self.phase_of_epoch[-1] if self.phase_of_epoch else ""

    @property
    def depth(self) -> int:
        """The number of layer groups that trained, in whole or in part."""
        return sum(share > 0 for share in self.trained)

    @property
    def in_part(self) -> bool:
        """Whether a layer group trained in part only: its norms, its biases."""
        return any(0 < share < 1 for share in self.trained)

    @property
    def reached(self) -> str | None:
        """The trained layer group that is farthest from where the policy counts; None if the head alone trains."""
        names = [name for name, share in zip(self.groups, self.trained, strict=True) if share > 0]
        if not names:
            return None
        return names[-1] if self.counted_from == "input" else names[0]

    def value(self, split: str, metric: str) -> float:
        """A metric of a split; NaN where the record has none, or where the number is not finite."""
        return self.metrics.get(split, {}).get(metric, math.nan)

    def score(self, split: str, metric: str) -> float:
        """A metric as comparisons take it: a share of the images exactly (`exact_share`), NaN of a diverged run."""
        samples = next((count for name, count, _ in self.splits if name == split), 0)
        return math.nan if self.diverged else exact_share(self.value(split, metric), samples)

    def learned_nothing(self, split: str) -> bool:
        """Whether no metric of a split is better than saying the same of every image; no where that is not known."""
        known = self.constant.get(split, {})
        pairs = [(self.value(split, name), bound) for name, bound in known.items() if name in self.metrics[split]]
        return bool(pairs) and not self.diverged and all(value <= bound + _ROUNDING for value, bound in pairs)


def names_a_folder(identity: str) -> bool:
    """Whether the run of this identity can have a folder, which lies in that of all runs."""
    is_path = identity in ("", ".", "..") or Path(identity).name != identity
    return not is_path and "\x00" not in identity and len(identity) <= 255


def read_run(runs_folder: Path, identity: str) -> tuple[LoadedRun | None, str]:
    """The run of an identity, or why there is none."""
    if not names_a_folder(identity):
        return None, "not the identity of a run"
    folder = runs_folder / identity
    try:
        return loaded_run(load_record(folder), folder), ""
    except FileNotFoundError:
        return None, "missing"
    except ValidationError as error:
        first = error.errors()[0]
        return None, f"damaged record: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, ValueError) as error:
        return None, f"damaged record: {error}"


def loaded_run(record: Record, folder: Path) -> LoadedRun:
    """What a report needs of the record of the run in `folder`."""
    groups = sorted(record.layer_groups, key=lambda group: group.index)
    return LoadedRun(
        identity=record.identity,
        folder=folder,
        overrides=tuple(record.overrides),
        settings=_settings(record),
        command=_command(record),
        metrics={
            split: {name: math.nan if value is None else value for name, value in values.items()}
            for split, values in record.metrics.items()
        },
        diverged=record.diverged,
        divergence=record.divergence,
        trains=_trains(record),
        definitions=record.metric_definitions,
        tie_break=record.tie_break,
        monitor=record.selection.monitor,
        selection_tie_break=record.selection.tie_break,
        groups=tuple(group.name for group in groups),
        trained=tuple(group.trained / group.parameters if group.parameters else 0.0 for group in groups),
        # Records that do not say it are of versions whose reports counted from the output.
        counted_from=record.strategy.counted_from if record.strategy else "output",
        additions=tuple(record.strategy.additions) if record.strategy else None,
        image_score=record.image_score,
        margin=_margin(record),
        recipe=tuple(_recipe(record)),
        **_course(record),
        chosen_epoch=record.selection.epoch,
        version=record.provenance.made_by,
        changes=_changes(record),
        trainable=record.parameters.trainable,
        total=record.parameters.total,
        head=record.parameters.head,
        epochs=sum(phase.epochs for phase in record.phases),
        passes=tuple(each for phase in record.phases for each in phase.thaw_line.passes),
        entries=frozenset(entry for phase in record.phases for entry in phase.thaw_line.entries),
        total_seconds=record.cost.total_seconds,
        cpu_seconds=record.cost.cpu_seconds,
        train_seconds=record.cost.train_seconds,
        evaluate_seconds=record.cost.evaluate_seconds,
        peak_memory_bytes=record.cost.peak_memory_bytes,
        provenance=tuple(_texts(record.provenance.model_dump())),
        splits=tuple((name, split.samples, split.sha256) for name, split in record.splits.items()),
        notes=tuple(record.notes),
        warnings=tuple(record.warnings),
        predictions_sha256=record.files.get(PREDICTIONS_FILE),
        constant={name: split.constant_scores for name, split in record.splits.items()},
        said_of_all=record.said_of_all,
    )


def _settings(record: Record) -> dict[str, str]:
    parts = record.identity_parts
    if "settings" not in parts:
        return dict(_texts(record.config))
    data = {"data": record.provenance.data_fingerprint, "weights": parts.get("weights")}
    return dict(_texts(parts["settings"] | data))


def _trains(record: Record) -> Literal["head", "all", "part"]:
    """What trained, as the record states it; of records that do not, by their counts."""
    if record.strategy is not None:
        return record.strategy.trains
    counts = record.parameters
    if counts.trainable == counts.total:
        return "all"
    return "head" if counts.trainable == counts.head else "part"


def _recipe(record: Record) -> Iterator[tuple[str, str]]:
    if record.recipe is not None:
        for name, value in record.recipe.model_dump().items():
            if name == "label_smoothing" and value is None:
                continue  # the task knows of no such thing
            yield name.replace("_", " "), _in_words(value)


def _in_words(value: object) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {item}" for name, item in value.items())
    if isinstance(value, list):
        return (" x " if all(isinstance(item, int) for item in value) else ", ").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _margin(record: Record) -> float | None:
    """The difference that the run's configuration says does not matter."""
    report = record.config.get("report")
    margin = report.get("margin") if isinstance(report, Mapping) else None
    return float(margin) if isinstance(margin, (int, float)) and 0 < margin < math.inf else None


def _course(record: Record) -> dict[str, Any]:
    """The numbers of each epoch; none for what is not trained epoch by epoch (an average, a solved probe)."""
    rows = [row for row in record.history if "train/loss" in row]
    if not rows or len(rows) != len(record.history):
        return {"train_loss": (), "validation": {}, "phase_of_epoch": ()}
    metrics = [key for key in rows[0] if key.startswith("val/")]
    return {
        "train_loss": tuple(_finite(row["train/loss"]) for row in rows),
        "validation": {key.removeprefix("val/"): tuple(_finite(row.get(key)) for row in rows) for key in metrics},
        "phase_of_epoch": tuple(str(row.get("phase", "")) for row in rows),
    }


def _command(record: Record) -> tuple[str, ...]:
    """What makes the run again: an average by its own verb, from the runs that are there."""
    if record.config.get("average") is None:
        return ("thawline", "train", *record.provenance.options, *record.overrides)
    try:
        words = shlex.split(record.provenance.command)
    except ValueError:
        words = []
    return tuple(words) if words[:1] == ["thawline"] else ("thawline", "average")


def _changes(record: Record) -> tuple[Change, ...]:
    """The diagnostics of each layer group, from the stem to the output."""
    found = _Diagnostics.model_validate(record.diagnostics)
    count = len(record.layer_groups)
    if {len(found.drift.groups), len(found.cka.groups)} - {0, count}:
        raise ValueError(f"diagnostics of other layer groups than the record's {count}")
    if not found.drift.groups and not found.cka.groups:
        return ()
    unknown = _GroupDrift(distance=None, relative=None), _GroupCka(cka=None)
    drifts = found.drift.groups or [unknown[0]] * count
    ckas = found.cka.groups or [unknown[1]] * count
    return tuple(
        Change(_finite(drift.distance), _finite(drift.relative), _finite(cka.cka))
        for drift, cka in zip(drifts, ckas, strict=True)
    )


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every value by its dotted name, as text."""
    return [(name, ", ".join(map(str, _listed(value)))) for name, value in leaves(values)]


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
