"""How a run trained: its strategy, recipe, phases, freeze contract, and the epoch that was chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from thawline.records.metrics import Direction, SelectionRule
from thawline.records.part import RecordPart


class Strategy(RecordPart):
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


class Recipe(RecordPart):
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


class OptimizerGroup(RecordPart):
    """One group of the optimizer: how much it holds, its learning rate at the start, and its weight decay."""

    name: str = ""
    tensors: int = 0
    parameters: int
    lr: float
    weight_decay: float = 0.0


class StoredValue(RecordPart):
    """One value that passes the thaw line, without the batch dimension."""

    name: str
    shape: list[int]
    dtype: str


class PassedLine(RecordPart):
    """A thaw line whose values a pass over the images has stored.

    Attributes:
        entry: the stored values, as `ThawLineRecord.entries` of the phases that read them names them.
        line: where it lies.
        bytes: what the values take on disk.
        share: of the cost of the pass, between 0 and 1: an equal part of the way to each line that lies before it or
            is it, and its own writing.
    """

    entry: str
    line: str
    bytes: int
    share: float


class FeaturePass(RecordPart):
    """A pass over the images that stored values at thaw lines; its cost is part of the run's.

    Attributes:
        samples: how many images (or augmented views) were passed.
        start: the line whose stored values it went on from; empty where it began at the images.
        lines: those that it stored, in the order of the pass; other runs need all but the last. Their shares make 1.
        seconds: wall-clock.
        cpu_seconds: of all threads of the process.
    """

    samples: int
    start: str = ""
    lines: list[PassedLine]
    seconds: float
    cpu_seconds: float


class ThawLineRecord(RecordPart):
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
        entries: the stored values that were read, by their names in the store.
        passes: the passes over the images that this phase made for them.
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
    entries: list[str] = Field(default_factory=list)
    passes: list[FeaturePass] = Field(default_factory=list)


class RegularizerRecord(RecordPart):
    """What a regularizer says of itself, in fields of its own, and how many parameters train beside the model for it.

    The fields are the regularizer's: DELTA lists its ``layers``, feature matching its ``pairs``, StochNorm counts its
    ``batch_norms``.
    """

    model_config = ConfigDict(extra="allow")
    companion_parameters: int = 0


class PhaseRecord(RecordPart):
    """One phase: a fixed set of trainable parameters, the optimizer groups that moved them, and the regularizers.

    `cuda_graphs` says of the passes of training and evaluation whether they were recorded, and why not; empty where no
    GPU computed.
    """

    name: str
    epochs: int
    trainable_parameters: int
    trainable_tensors: int
    optimizer_groups: list[OptimizerGroup]
    thaw_line: ThawLineRecord = ThawLineRecord()
    regularizers: dict[str, RegularizerRecord] = Field(default_factory=dict)
    cuda_graphs: dict[str, str] = Field(default_factory=dict)


class ContractRecord(RecordPart):
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


class FreezeContractRecord(RecordPart):
    """The freeze contract of every phase that trained; of an average of runs there is none."""

    phases: list[ContractRecord] = Field(default_factory=list)


class Selection(RecordPart):
    """The checkpoint that was tested: the best epoch on validation, or the last one where there is no validation split.

    Attributes:
        monitor: the metric that chose it, ``val/top1``; of the last epoch the name of the metric alone, which chose
            nothing.
        mode: which direction of it is better.
        tie_break: the metric that decided where `monitor` tied; None: the first of the equals was kept.
        value: of the metric at the epoch; None: it has no finite one, or nothing was chosen.
        phase: the index of its phase.
        epoch: its number in the run.
        kept: the best epoch, or the last one.
    """

    monitor: str
    mode: Direction
    tie_break: str | None = None
    value: float | None
    phase: int
    epoch: int
    kept: Literal["best", "last"] = "best"

    @classmethod
    def last(cls, rule: SelectionRule, *, phase: int, epoch: int) -> Selection:
        """The last epoch, of a run that has no validation split; it is compared with others by the rule's metric."""
        return cls(monitor=rule.metric, mode=rule.direction, value=None, phase=phase, epoch=epoch, kept="last")

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
