"""What a run leaves: one validated record, and the identity that finds it again. Reports read records, nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thawline.errors import usage_error
from thawline.files import finite, read_json, write_json
from thawline.preprocessing import Preprocessing
from thawline.records.metrics import (
    CLASSIFICATION_HEADLINE,
    CLASSIFICATION_TIE_BREAK,
    Direction,
    MetricDefinition,
    SelectionRule,
    classification_definitions,
)
from thawline.records.names import RECORD_FILE

IDENTITY_LENGTH = 20


class _Part(BaseModel):
    # A newer version may know more fields: what this one does not know, it does not read.
    model_config = ConfigDict(extra="ignore")


class SplitRecord(_Part):
    """Which samples a split holds: how many, and the SHA-256 of their keys in order."""

    samples: int
    sha256: str
    per_class: list[int]


class GroupRecord(_Part):
    """One layer group and how much of it trained (over all phases)."""

    index: int
    name: str
    parameters: int
    trained: int


class OptimizerGroup(_Part):
    """One group of the optimizer: how much it holds, its learning rate at the start, and its weight decay."""

    name: str = ""
    tensors: int = 0
    parameters: int
    lr: float
    weight_decay: float = 0.0


class StoredValue(_Part):
    """One value that passes the thaw line, without the batch dimension."""

    name: str
    shape: list[int]
    dtype: str


class ThawLineRecord(_Part):
    """How a phase got its outputs: from values stored at the thaw line, or from the whole model.

    Attributes:
        stored: whether stored values were read.
        reason: why, or why not.
        values: what passes the line; empty where no line was looked for.
        line: where the line lies.
        decision: what the cost model said of storing.
        bytes_per_sample: of the values.
        prefix_flops_per_sample: of the frozen side, what storing saves per sample and epoch.
        suffix_flops_per_sample: of the thawed side.
        dtype: the type that float32 values are stored in; None where nothing is stored.
        bytes: what the stored values take on disk; None where nothing is stored.
        packed: how many probes were trained as one problem on them.
    """

    stored: bool = False
    reason: str = ""
    values: list[StoredValue] = Field(default_factory=list)
    line: str = ""
    decision: str = ""
    bytes_per_sample: int | None = None
    prefix_flops_per_sample: float | None = None
    suffix_flops_per_sample: float | None = None
    dtype: str | None = None
    bytes: int | None = None
    packed: int = 1


class RegularizerRecord(_Part):
    """What a regularizer says of itself, in fields of its own, and how many parameters train beside the model for it.

    The fields are the regularizer's: DELTA lists its ``layers``, feature matching its ``pairs``, StochNorm counts its
    ``batch_norms``.
    """

    model_config = ConfigDict(extra="allow")
    companion_parameters: int = 0


class PhaseRecord(_Part):
    """One phase: a fixed set of trainable parameters, the optimizer groups that moved them, and the regularizers."""

    name: str
    epochs: int
    trainable_parameters: int
    trainable_tensors: int
    optimizer_groups: list[OptimizerGroup]
    thaw_line: ThawLineRecord = ThawLineRecord()
    regularizers: dict[str, RegularizerRecord] = Field(default_factory=dict)


class ContractRecord(_Part):
    """What the freeze contract counted and checked in one phase.

    Attributes:
        phase: the phase's name.
        frozen_tensors: parameters and buffers that were compared with their start, bit for bit.
        trainable_tensors: parameters that train.
        frozen_parameters: numbers in frozen parameters; with `trainable_parameters` all of the model's.
        trainable_parameters: numbers in parameters that train.
        companion_parameters: numbers that regularizers train beside the model.
        checks: how often the frozen tensors were compared.
        unused: trainable parameters that the forward pass does not read.
    """

    phase: str = ""
    frozen_tensors: int
    trainable_tensors: int
    frozen_parameters: int
    trainable_parameters: int
    companion_parameters: int = 0
    checks: int = 0
    unused: list[str] = Field(default_factory=list)


class FreezeContractRecord(_Part):
    """The freeze contract of every phase that trained; of an average of runs there is none."""

    phases: list[ContractRecord] = Field(default_factory=list)


class Commit(_Part):
    """The commit of thawline's own checkout, and the SHA-256 of what was not committed; None where there is none."""

    sha: str | None = None
    dirty_sha256: str | None = None


class Software(_Part):
    """Version of Python and of each package ("absent" where it is not installed), and thawline's commit."""

    python: str
    packages: dict[str, str]
    commit: Commit = Commit()


class Hardware(_Part):
    """Operating system, processor, the cores that the process may use, and the names of the GPUs."""

    platform: str
    processor: str
    cores: int | None
    gpus: list[str]


class WeightsRecord(_Part):
    """The weights that a backbone started from: in words, and their SHA-256 (None: random).

    Attributes:
        description: in words, or the path of the file.
        sha256: of the file or of the state dict; None for random weights.
        container: the entry of a checkpoint that held the weights, if it was inside one.
        prefix: what was taken off the names of the tensors.
        left_out: what the file holds beside the network: the first part of a name -> how many tensors.
        described_by: the file that names the classes and the preprocessing, if any.
    """

    description: str
    sha256: str | None
    container: str = ""
    prefix: str = ""
    left_out: dict[str, int] | None = None
    described_by: str = ""


class SourceFileRecord(_Part):
    """A file of a user's code, by its path below the folder that Python found it in, and the SHA-256 of its bytes."""

    file: str
    sha256: str


class Resumption(_Part):
    """A run that was interrupted went on: in which phase, from which of its epochs, and when (UTC, ISO 8601)."""

    phase: str
    epoch: int
    at: str


class Provenance(Software):
    """Where the numbers come from: software, hardware, data, weights, command.

    Attributes:
        hardware: of the machine.
        threads: CPU threads of an operation.
        command: the command line of the process.
        options: what a command of this run needs before its overrides: ``--allow``, ``--config-dir``, ...
        started_at: UTC, ISO 8601.
        finished_at: UTC, ISO 8601.
        resumed: each time that the run went on after an interruption.
        data_fingerprint: SHA-256 of the data set and its splits.
        own_code: module -> file, of own classes and of what they import.
        weights: what the backbone started from.
        source_run: identity of the run that trained the source model, where the same command asks for it.
    """

    hardware: Hardware
    threads: int | None = None
    command: str = ""
    options: list[str] = Field(default_factory=list)
    started_at: str = ""
    finished_at: str = ""
    resumed: list[Resumption] = Field(default_factory=list)
    data_fingerprint: str
    own_code: dict[str, SourceFileRecord] = Field(default_factory=dict)
    weights: WeightsRecord
    source_run: str | None = None


class Strategy(_Part):
    """What kind of transfer a run is, as its plan states it: nobody has to guess it from class names.

    Attributes:
        trains: the head alone, all of the backbone and the head, or another part; over all phases.
        additions: what the run adds to training these parameters in one phase at one learning rate: regularizers, rates
            by depth, further phases, an adapter, ... Without any it is the plain linear probe or full fine-tuning that
            others are compared with.
        counted_from: the end of the network that the freeze policy's `k` or `depth` counts layer groups from; None
            where the policy does not count them.
    """

    trains: Literal["head", "all", "part"]
    additions: list[str] = Field(default_factory=list)
    counted_from: Literal["output", "input"] | None = None


class Recipe(_Part):
    """How a run was trained. A class is named with the settings that are not its defaults.

    Attributes:
        optimizer: class and arguments.
        lr: the base learning rate.
        weight_decay: with whether norms and biases are decayed too.
        learning_rates: how the rate is spread over the layer groups and the head.
        schedule: of the learning rate.
        epochs: the most that the run could train, over all phases.
        early_stopping: epochs without a better validation metric that end a phase; None: it is not stopped early.
        batch_size: samples of a step, of all devices together.
        gradient_clip: the largest norm of the gradient; None: not clipped.
        label_smoothing: 0 to 1; None where the task has none.
        precision: of the arithmetic.
        input_size: height and width of the network's input in pixels.
        resize: how an image comes to that size in evaluation.
        augmentation: what is done to a training image, in order.
        head: what stands on the backbone.
        adapter: what is added to the backbone; None: nothing.
        regularizers: what is added to the loss, by name.
        probe: how a linear probe is solved where it is not trained step by step.
    """

    optimizer: str
    lr: float
    weight_decay: str
    learning_rates: str
    schedule: str
    epochs: int
    early_stopping: int | None
    batch_size: int
    gradient_clip: float | None
    label_smoothing: float | None = None
    precision: str
    input_size: list[int]
    resize: str
    augmentation: list[str]
    head: str
    adapter: str | None
    regularizers: dict[str, str]
    probe: str | None


class Selection(_Part):
    """The checkpoint that was tested, chosen on validation.

    `tie_break` is the metric that decided where `monitor` tied; None: the first of the equals was kept.
    """

    monitor: str
    mode: Direction
    tie_break: str | None = None
    value: float | None
    phase: int
    epoch: int

    @classmethod
    def by(cls, rule: SelectionRule, *, value: float | None, phase: int, epoch: int) -> Selection:
        """The epoch that `rule` chose on validation."""
        tie_break = f"val/{rule.tie_break}" if rule.tie_break else None
        return cls(
            monitor=f"val/{rule.metric}",
            mode=rule.direction,
            tie_break=tie_break,
            value=value,
            phase=phase,
            epoch=epoch,
        )


class Parameters(_Part):
    """Counts of parameters; frozen + trainable = total. `trainable` counts what trained in any phase.

    `head` and `adapter` count those of the new parts.
    """

    total: int
    trainable: int
    frozen: int
    head: int
    adapter: int = 0


class Cost(_Part):
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


class Record(_Part):
    """Everything that is known of one finished run.

    `metrics` maps a split to its metrics: ``val`` and ``test`` of the selected checkpoint, ``before/target`` and
    ``before/source`` of the transferred copy before any tuning, further test sets under ``test/<name>``.
    `metric_definitions` says of every metric, by its name, which direction is better, its label and its bounds;
    `headline` is the metric that stands for the run where one number is shown, `tie_break` the one that decides between
    runs that are equal by the metric compared. Records written before these fields are classification's.
    `identity_format` says what the identity was made from (1: before records said so); a run of an earlier format is
    not found again by its configuration. `strategy` and `recipe` state in words what the configuration makes (None in
    records of versions that did not). `identity_parts` are what it was made from: `identity_of` them is the identity.
    `preprocessing` is how images became the network's input, and travels with the weights; records of earlier versions
    have none. A run that ended without a usable model is `diverged`, and `divergence` says why: it is done, and its
    numbers are shown, but they enter no mean. `history` has one entry per epoch. Non-finite numbers are None.
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


def _selected_by(values: Mapping[str, Any], names: Collection[str]) -> dict[str, MetricDefinition]:
    """The definition of the metric that an old record selected by, where classification has none of that name."""
    selection = values.get("selection")
    if not isinstance(selection, Mapping) or selection.get("mode") not in ("min", "max"):
        return {}
    name = str(selection.get("monitor", "")).removeprefix("val/")
    if name not in names or classification_definitions([name]):
        return {}
    return {name: MetricDefinition(direction=selection["mode"], label=name)}


def run_folder(output_dir: Path, identity: str) -> Path:
    """The folder of the run with this identity."""
    return output_dir / "runs" / identity


def identity_of(decides: Mapping[str, Any]) -> str:
    """The identity of a run: a hash of everything that decides its numbers, as hexadecimal digits."""
    return _digest(decides)[:IDENTITY_LENGTH]


def seal_of(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a record's content, as read from its file, without the seal itself: any edit changes it."""
    return _digest({key: value for key, value in content.items() if key != "seal"})


def _digest(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_record(folder: Path, record: Record) -> Path:
    """Write the record of the run in `folder`, atomically and sealed; a run is done when this file exists."""
    path = folder / RECORD_FILE
    content = finite(record.model_dump(mode="json"))
    write_json(path, {**content, "seal": seal_of(content)})
    return path


def read_record(folder: Path) -> Record | None:
    """The valid record of the run in `folder`, or None where the run has none or a damaged one."""
    try:
        return load_record(folder)
    except (OSError, ValueError, ValidationError):
        return None


def load_record(folder: Path) -> Record:
    """The record of the run in `folder`.

    Raises:
        OSError: there is none.
        ValueError: it is damaged, or it is not the record of this folder's run.
    """
    record = Record.model_validate(read_json(folder / RECORD_FILE))
    if record.identity != folder.name:
        raise ValueError(f"{folder / RECORD_FILE} is the record of run {record.identity}")
    return record


def require_record(folder: Path) -> Record:
    """The record of the run in `folder`, or a `UsageError` that says what is wrong with it."""
    try:
        return load_record(folder)
    except FileNotFoundError:
        raise usage_error("", f"{folder / RECORD_FILE}: no such record") from None
    except (OSError, ValueError) as error:
        raise usage_error("", f"{folder / RECORD_FILE}: not a valid record: {error}") from None
