"""What a run leaves: one validated record. Reports read records, nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from thawline.preprocessing import Preprocessing
from thawline.records.fitting import FreezeContractRecord, PhaseRecord, Recipe, Selection, Strategy
from thawline.records.metrics import (
    CLASSIFICATION_HEADLINE,
    CLASSIFICATION_TIE_BREAK,
    MetricDefinition,
    classification_definitions,
    exact_share,
)
from thawline.records.part import RecordPart
from thawline.records.provenance import Provenance


class SplitRecord(RecordPart):
    """Which samples a split holds: how many, and the SHA-256 of their keys in order.

    `constant_scores` are by metric what saying the same of every sample can score at best, where the task knows it.
    """

    samples: int
    sha256: str
    per_class: list[int]
    constant_scores: dict[str, float] = Field(default_factory=dict)


class GroupRecord(RecordPart):
    """One layer group and how much of it trained (over all phases)."""

    index: int
    name: str
    parameters: int
    trained: int


class Parameters(RecordPart):
    """Counts of parameters; frozen + trainable = total. `trainable` counts what trained in any phase.

    `head` and `adapter` count those of the new parts.
    """

    total: int
    trainable: int
    frozen: int
    head: int
    adapter: int = 0


class Cost(RecordPart):
    """What the run cost. Seconds are wall-clock; the peak is of the process (CPU) or of the device (GPU).

    `cpu_seconds` are those of all threads of the run's process. What probes that train as one problem cost is shared
    out among them, as are their seconds.
    """

    total_seconds: float
    cpu_seconds: float | None = None
    train_seconds: float
    evaluate_seconds: float
    peak_memory_bytes: int
    train_samples_per_second: float | None


class Record(RecordPart):
    """Everything that is known of one finished run.

    `metrics` maps a split to its metrics: ``val`` and ``test`` of the selected checkpoint, ``before/target`` and
    ``before/source`` of the transferred copy before any tuning, further test sets under ``test/<name>``.
    `metric_definitions` says of every metric, by its name, which direction is better, its label and its bounds;
    `headline` is the metric that stands for the run where one number is shown, `tie_break` the one that decides between
    runs that are equal by the metric compared. Records written before these fields are classification's.
    `confusion_matrix` and `per_class` are of the test split, where the task has them: the counts of classification,
    and class -> metric -> value of tasks that measure each class apart, None where a value does not exist, as of a
    class that no image shows. `image_score` says what the score of each test image is, of a task that keeps them.
    `identity_format` says what the identity was made from (1: before records said so); a run of an earlier format
    is not found again by its configuration. `strategy` and `recipe` state in words what the configuration makes
    (None in records of versions that did not). `identity_parts` are what it was made from: `identity_of` them is
    the identity. `preprocessing` is how images became the network's input, and travels with the weights; records of
    earlier versions have none. A run that ended without a usable model is `diverged`, and `divergence` says why: it
    is done, and its numbers are shown, but they enter no mean. `history` has one entry per epoch. Non-finite
    numbers are None.
    `warnings` are what a reader has to know of the data before believing the numbers, such as images that are in train
    and in test; `notes` say what else was done. `left_out` counts by ending the files among the images that are not
    part of the data set; folders end in a slash. `seal` is `seal_of` everything else, as the file had it when the run
    wrote it; records of earlier versions have none.
    """

    schema_version: Literal[1] = 1
    identity: str
    identity_format: int = 1
    identity_parts: dict[str, Any] = Field(default_factory=dict)
    status: Literal["done"] = "done"
    diverged: bool = False
    divergence: str = ""
    task: str = "classification"
    config: dict[str, Any]
    overrides: list[str]
    strategy: Strategy | None = None
    recipe: Recipe | None = None
    classes: list[str]
    preprocessing: Preprocessing | None = None
    provenance: Provenance
    splits: dict[str, SplitRecord]
    layer_groups: list[GroupRecord]
    parameters: Parameters
    phases: list[PhaseRecord]
    history: list[dict[str, Any]]
    selection: Selection
    metrics: dict[str, dict[str, float | None]]
    metric_definitions: dict[str, MetricDefinition]
    headline: str = CLASSIFICATION_HEADLINE
    tie_break: str | None = CLASSIFICATION_TIE_BREAK
    confusion_matrix: list[list[int]] = Field(default_factory=list)
    per_class: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    image_score: str = ""
    freeze_contract: FreezeContractRecord
    cost: Cost
    files: dict[str, str] = Field(default_factory=dict)
    diagnostics: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    left_out: dict[str, int] = Field(default_factory=dict)
    seal: str = ""

    @model_validator(mode="before")
    @classmethod
    def _defined_metrics(cls, values: Any) -> Any:
        """Give a record from before metrics were defined in it the definitions of classification."""
        if not isinstance(values, Mapping) or not isinstance(values.get("metrics"), Mapping):
            return values
        names = {str(name) for split in values["metrics"].values() if isinstance(split, Mapping) for name in split}
        if "metric_definitions" not in values:
            return {**values, "metric_definitions": classification_definitions(names) | _selected_by(values, names)}
        missing = sorted(names - set(values["metric_definitions"]))
        if missing:
            raise ValueError(f"metric_definitions lacks {', '.join(missing)}")
        return values

    @property
    def said_of_all(self) -> str:
        """The one class that was said of every test image; empty: of several, or all these images are of one class."""
        counts = self.confusion_matrix
        said: set[int] = set()
        for row in counts:
            said.update(index for index, images in enumerate(row) if images)
            if len(said) > 1:
                return ""  # mostly after the first row: a matrix of many classes is not read to its end
        if not said or sum(map(any, counts)) < 2:
            return ""
        (index,) = said
        return self.classes[index] if index < len(self.classes) else ""

    def scores(self, split: str) -> dict[str, float | None]:
        """The metrics of a split as comparisons take them: shares of its samples exactly (see `exact_share`)."""
        samples = self.splits[split].samples if split in self.splits else 0
        found = self.metrics[split]
        return {name: None if value is None else exact_share(value, samples) for name, value in found.items()}


def _selected_by(values: Mapping[str, Any], names: Collection[str]) -> dict[str, MetricDefinition]:
    """The definition of the metric that an old record selected by, where classification has none of that name."""
    selection = values.get("selection")
    if not isinstance(selection, Mapping) or selection.get("mode") not in ("min", "max"):
        return {}
    name = str(selection.get("monitor", "")).removeprefix("val/")
    if name not in names or classification_definitions([name]):
        return {}
    return {name: MetricDefinition(direction=selection["mode"], label=name)}
