"""The whole configuration of a run, typed: what Hydra composed, validated field by field before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from thawline.adapters import Adapter
from thawline.backbones import BackboneSpec
from thawline.datasets import Dataset
from thawline.errors import Problem, UsageError, nearest
from thawline.freeze_policies import FreezePolicy
from thawline.heads import Head
from thawline.optimization.learning_rates import LearningRates
from thawline.optimization.optimizers import Optimizer
from thawline.optimization.probes import LBFGSPath
from thawline.optimization.schedulers import Scheduler
from thawline.planning.shift import Shift
from thawline.records import Record, StageRecord
from thawline.records.metrics import SelectionRule, selection_rule
from thawline.regularizers import Regularizer
from thawline.specs import Spec, resolve, validate
from thawline.tasks import Task
from thawline.tasks.classification import Classification
from thawline.trackers import LoggerSpec
from thawline.transforms import Transform

_Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]  # it names a folder, so it may be nothing else
_LOGGED = frozenset({"loss", "top1", "objective"})


class TrainerSettings(Spec):
    """How the fit runs. `batch_size` is that of all devices together.

    `channels_last` is a layout in memory: the same mathematics in other last bits, and about half the time for mobile
    networks on a CPU. "auto" takes it where it pays (`thawline.execution.weights`).

    Attributes:
        max_epochs: passes over the training images, of all phases together.
        batch_size: images of a step, of all devices together.
        eval_batch_size: images of an evaluation step on one device; does not affect results.
        accelerator: where to compute; auto takes a GPU where there is one.
        devices: how many of them; at most what the machine has.
        strategy: how devices share a run: ddp copies the weights to each, fsdp shards them.
        precision: of the arithmetic; mixed: float32 weights, layers in half precision, float32 losses.
        channels_last: channels-last memory layout; changes the last bits; auto: where it is faster.
        cuda_graphs: on a GPU start recorded passes; changes no bit; auto: where it is faster, and not with own code.
        gradient_clip: largest norm of the gradient; null clips nothing.
        early_stopping: epochs without a better validation metric before stopping; null never stops.
        workers: processes that decode and augment ahead; none where a batch is only copied.
        threads: maximum number of CPU threads; null: the cores that are free.
        progress: show progress.
        checkpoint_seconds: write the state for a resume at most this often, at the end of an epoch.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset(
        {
            "accelerator",
            "devices",
            "strategy",
            "workers",
            "progress",
            "checkpoint_seconds",
            "eval_batch_size",
            "threads",
            "cuda_graphs",
        }
    )

    max_epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=32, ge=1)
    eval_batch_size: int = Field(default=64, ge=1)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = Field(default=1, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "32-true"
    channels_last: bool | Literal["auto"] = "auto"
    cuda_graphs: bool | Literal["auto"] = "auto"
    gradient_clip: float | None = Field(default=None, gt=0.0)
    early_stopping: int | None = Field(default=None, ge=1)
    workers: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    progress: bool = True
    checkpoint_seconds: float = Field(default=30.0, ge=0.0)

    @property
    def shards_weights(self) -> bool:
        """Whether each device holds a share of the weights, not all of them."""
        return self.strategy == "fsdp" and self.devices > 1


class LossSettings(Spec):
    """What tasks read of their loss; `label_smoothing` mixes a class with the uniform distribution."""

    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)


class MetricSettings(Spec):
    """`monitor` is the validation metric that chooses the epoch; null: the task's headline metric.

    Where it ties, the epoch with the smaller validation loss is chosen. `top_k` adds a top-k accuracy of classes.
    """

    monitor: str | None = None
    top_k: int = Field(default=5, ge=1)


class CacheSettings(Spec):
    """The store for decoded images and for the values at the thaw line."""

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"mode", "dir", "max_bytes"})

    mode: Literal["auto", "on", "off"] = "auto"
    dir: Path = Path("outputs/cache")
    max_bytes: int = Field(default=10 * 2**30, ge=0)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    views: int = Field(default=0, ge=0)

    def deciding(self) -> dict[str, Any]:
        """Values that are rounded where they are stored make numbers depend on whether they are stored."""
        decides = super().deciding()
        if self.mode == "off":
            return {**decides, "dtype": "float32"}
        return decides if self.dtype == "float32" else {**decides, "mode": self.mode}


class SweepSettings(Spec):
    """How a sweep is named and how it meets failures. `name` defaults to one made of the sweep's cells.

    `stage` is set by a protocol: which of its stages asks for the run. The record says it.
    """

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    fail_fast: bool = False
    retries: int = Field(default=0, ge=0)
    report: bool = True
    stage: StageRecord | None = None


class ReportSettings(Spec):
    """How the report of a sweep compares its rows.

    Attributes:
        margin: smaller differences of the metric do not matter; null: 0.01 of metrics between 0 and 1.
    """

    margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)


class DiagnosticsSettings(Spec):
    """What is measured of a run beside its metrics, on training and validation images.

    Attributes:
        drift: how far training moves each layer group's weights from the source's; needs a copy of what trains.
        cka: linear CKA between source and tuned outputs of each layer group, pooled over positions.
        feature_distance: how far each channel of the pooled features has gone.
        transferability: LEEP, NCE, H-score and LogME of the source on the training split, before training.
        samples: validation images for `cka` and `feature_distance`, at most.
    """

    TASKS_WITH_TRANSFERABILITY: ClassVar[frozenset[str]] = frozenset({"classification"})

    drift: bool = True
    cka: bool = False
    feature_distance: bool = False
    transferability: bool = False
    samples: int = Field(default=512, ge=2)


class AverageSettings(Spec):
    """A run whose weights are an average of other runs' instead of trained; ``thawline average`` makes it.

    Attributes:
        method: ``wise_ft`` - on the line from the start to one run; ``uniform``, ``greedy`` - the mean of several runs.
        ingredients: the identities of the runs.
        start: of ``wise_ft``, the run at the other end of the line; None: the weights before any tuning.
        alphas: of ``wise_ft``, the mixing coefficients that are evaluated, 0 (the start) to 1 (the run).
    """

    method: Literal["wise_ft", "uniform", "greedy"]
    ingredients: tuple[_Identity, ...] = Field(min_length=1)
    start: _Identity | None = None
    alphas: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = Field(default=(), max_length=1001)

    @model_validator(mode="after")
    def _fitting(self) -> AverageSettings:
        if self.method == "wise_ft" and (len(self.ingredients) != 1 or not self.alphas):
            raise ValueError("wise_ft takes one run and at least one alpha")
        if self.method != "wise_ft" and (self.start is not None or self.alphas):
            raise ValueError("start and alphas are of wise_ft")
        return self


class RunSettings(Spec):
    """One run. Fields hold validated specs; `source` is the whole configuration of the source run, if there is one.

    `train_on` says whether the run trains on the training split alone, or on the validation split, too; then nothing
    can be chosen, and the last epoch is kept. `open_test` says whether the run may open the test split, after
    everything is chosen on validation.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"logger", "output_dir", "sweep", "report", "source"})
    ADDED: ClassVar[frozenset[str]] = frozenset({"train_on"})

    backbone: BackboneSpec
    adapter: Adapter | None = None
    freeze_policy: FreezePolicy
    head: Head
    dataset: Dataset
    transform: Transform
    optimizer: Optimizer
    scheduler: Scheduler
    probe: LBFGSPath | None = None
    learning_rates: LearningRates
    regularizer: dict[str, Regularizer] = Field(default_factory=dict)
    trainer: TrainerSettings
    task: Task
    loss: LossSettings
    metrics: MetricSettings
    train_on: Literal["train", "train_val"] = "train"
    open_test: bool = True
    shift: dict[str, Shift] = Field(default_factory=dict)
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    average: AverageSettings | None = None
    cache: CacheSettings
    sweep: SweepSettings
    report: ReportSettings = ReportSettings()
    logger: LoggerSpec | None = None
    seed: int = Field(ge=0)
    data_seed: int = Field(ge=0)
    output_dir: Path
    source: RunSettings | None = None

    @property
    def rule(self) -> SelectionRule:
        """How the epoch, and whatever else a run chooses on validation, is chosen."""
        monitor = str(self.metrics.monitor)
        names = [monitor, *([self.task.TIE_BREAK] if self.task.TIE_BREAK else [])]
        return selection_rule(monitor, self.task.definitions(names), self.task.TIE_BREAK)

    @field_validator("regularizer")
    @classmethod
    def _names_for_logs(cls, regularizers: dict[str, Regularizer]) -> dict[str, Regularizer]:
        for name in regularizers:
            if not name.isidentifier() or name in _LOGGED:
                raise ValueError(f"{name!r} cannot name a regularizer: its term is logged as train/{name}")
        return regularizers

    @model_validator(mode="after")
    def _one_origin_of_weights(self) -> RunSettings:
        if self.source is not None and self.backbone.weights not in (None, "source"):
            raise ValueError("backbone.weights and source are both given: the source run makes the weights")
        if self.source is None and self.backbone.weights == "source":
            raise ValueError("backbone.weights is 'source', but there is no source; choose one, e.g. source=digits_low")
        return self


def parse(config: Mapping[str, Any]) -> RunSettings:
    """The settings that a plain (resolved) configuration describes.

    Raises:
        UsageError: with one problem per wrong field, all at once.
    """
    problems: list[Problem] = []
    values = dict(config)
    source = None
    values.pop("protocol", None)  # of the command: a run is the same whoever asks for it
    node = values.pop("source", None)
    if node is not None and not isinstance(node, Mapping):
        problems.append(Problem("source", f"a group of fields belongs here (got {node!r:.80})"))
    elif node is not None:
        try:
            source = parse(source_config(config))
        except UsageError as error:
            problems.extend(Problem(f"source.{p.field}", p.message) for p in error.problems)
    try:
        resolved = _with_task(resolve(values))
        problems.extend(_monitor_problems(resolved))
        settings: RunSettings = validate(RunSettings, {**resolved, "source": source})
    except UsageError as error:
        known = {str(problem) for problem in error.problems}
        raise UsageError(
            [*error.problems, *(p for p in problems if str(p).removeprefix("source.") not in known)]
        ) from None
    if problems:
        raise UsageError(problems)
    return settings


def task_of(record: Record) -> Task:
    """The task of a finished run.

    Raises:
        UsageError: it is a class that the command line has not allowed.
    """
    values = _with_task({name: resolve(record.config.get(name)) for name in ("task", "loss", "metrics")})
    if not isinstance(values["task"], Task):
        raise UsageError(Problem("task", f"{values['task']!r} is no task"))
    return values["task"]


def _with_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with a task, and with its headline metric where none is named to choose the epoch.

    Configurations of before there were tasks are of classification.
    """
    loss, metrics = values.get("loss"), values.get("metrics")
    if not isinstance(loss, Mapping) or not isinstance(metrics, Mapping):
        return dict(values)
    task = values.get("task")
    if task is None:
        task = Classification(label_smoothing=loss.get("label_smoothing", 0.0), top_k=metrics.get("top_k", 5))
    if isinstance(task, Task) and metrics.get("monitor") is None:
        metrics = {**metrics, "monitor": task.HEADLINE}
    return {**values, "task": task, "metrics": metrics}


def _monitor_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    task, metrics = values.get("task"), values.get("metrics")
    if isinstance(task, Task) and isinstance(metrics, Mapping) and metrics.get("monitor") not in task.MONITORS:
        name = str(metrics.get("monitor"))
        hint = nearest(name, task.MONITORS) or f"; it may be {', '.join(task.MONITORS)}"
        yield Problem("metrics.monitor", f"{name!r} chooses no epoch of task {task.NAME}{hint}")


def source_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the source run: the run's own, with what its ``source`` node says instead.

    The network is the same; it starts from ``source.weights`` (null: random), and has only the regularizers and the
    adapter that the node itself names: those of the target start from a source.
    """
    source = dict(config["source"])
    weights = source.pop("weights", None)
    # Further tests, diagnostics and what is trained on speak of the target; the source has what its own node names.
    config = {**config, "shift": {}, "diagnostics": {}, "train_on": "train"}
    if isinstance(config.get("sweep"), Mapping):
        config["sweep"] = {**config["sweep"], "stage": None}  # all stages share it
    regularizer, adapter = source.pop("regularizer", {}), source.pop("adapter", None)
    merged = {key: _merged(value, source.pop(key)) if key in source else value for key, value in config.items()}
    backbone = config.get("backbone")
    merged["backbone"] = {**(backbone if isinstance(backbone, Mapping) else {}), "weights": weights}
    return {**merged, **source, "regularizer": regularizer, "adapter": adapter, "average": None, "source": None}


def recorded_config(config: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """A record's configuration, to plan its run again: whatever is written then is written below `output_dir`.

    A record comes from anywhere. So it may not create folders, fetch data sets or send anything to a tracker.
    """
    planned = {**_without_places(config), "output_dir": str(output_dir), "logger": None}
    if isinstance(planned.get("cache"), Mapping):
        planned["cache"] = {**planned["cache"], "dir": str(output_dir / "cache")}
    return planned


def _without_places(node: Any) -> Any:
    if isinstance(node, Mapping):
        kept = {key: _without_places(value) for key, value in node.items() if key not in ("output_dir", "logger")}
        if isinstance(kept.get("cache"), Mapping):
            kept["cache"] = {key: value for key, value in kept["cache"].items() if key != "dir"}
        return kept | ({"download": False} if "download" in kept else {})
    return [_without_places(item) for item in node] if isinstance(node, (list, tuple)) else node


def _merged(base: Any, over: Any) -> Any:
    """`over` laid on `base`; a node that names its class replaces the whole."""
    if isinstance(base, Mapping) and isinstance(over, Mapping) and "_target_" not in over:
        return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return over
