"""Where a run's curves are shown. Records are the truth; a logger mirrors them, row by row, and never costs a run."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, final, runtime_checkable

from pydantic import Field, field_validator, model_validator

from thawline.specs import Spec

if TYPE_CHECKING:
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
    from wandb.sdk.wandb_run import Run as WandBHandle

    from thawline.records import Record

log = logging.getLogger("thawline")
_LONGEST_NAME = 128
_NOT_IN_NAMES = frozenset("/\\#?%:")


@dataclass(frozen=True)
class Mirrored:
    """What a mirror is told of a run when it opens: its files go into `folder`."""

    folder: Path
    identity: str
    name: str
    group: str | None
    config: Mapping[str, Any]


class Mirror(Protocol):
    """An open logger of one run."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show one row of the run's history."""
        ...

    def close(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """End with the run's final numbers."""
        ...


@runtime_checkable
class LoggerSpec(Protocol):
    """Opens a mirror for one run."""

    def open(self, run: Mirrored) -> Mirror:
        """The mirror of `run`."""
        ...


@final
class WandB(Spec):
    """Weights & Biases: one run per job, with the job's identity as its id, grouped by sweep; ``offline`` by default.

    A row of the history is a step of the W&B run, numbered by its epoch, so a resumed or repeated job goes on with its
    W&B run and no epoch occurs twice. Online, an unreachable server is given up after `init_timeout_seconds`, once in a
    process, and the runs go on offline. Under a W&B sweep agent the id is the agent's.

    W&B's own environment counts: ``WANDB_MODE=disabled`` mirrors nothing and ``WANDB_MODE=offline`` nothing online,
    ``WANDB_DIR`` is where the files go instead of the run's folder, and ``WANDB_SILENT=false`` lets W&B talk.

    Attributes:
        project: the W&B project; at most 128 characters, without slashes and ``# ? % :``.
        entity: the W&B user or team; None: the default of the account.
        mode: ``offline`` writes files to upload later, ``online`` uploads at once.
        tags: of each run; 1 to 64 characters each.
        init_timeout_seconds: how long an online start may take before the runs go on offline.
        finish_timeout_seconds: how long the last upload may take.
    """

    project: str = Field(default="thawline", min_length=1, max_length=_LONGEST_NAME)
    entity: str | None = Field(default=None, min_length=1, max_length=_LONGEST_NAME)
    mode: Literal["offline", "online"] = "offline"
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    init_timeout_seconds: int = Field(default=20, ge=1)
    finish_timeout_seconds: int = Field(default=120, ge=1)

    @field_validator("tags", mode="before")
    @classmethod
    def _one_is_a_list(cls, tags: object) -> object:
        return [tags] if isinstance(tags, str) else tags

    @field_validator("project", "entity")
    @classmethod
    def _a_name_of_wandb(cls, name: str | None) -> str | None:
        wrong = sorted(set(name or "") & _NOT_IN_NAMES)
        if wrong:
            raise ValueError(f"a name of W&B holds no {' '.join(wrong)}")
        return name

    _unreachable: ClassVar[set[str]] = set()

    def open(self, run: Mirrored) -> Mirror:
        """A fresh or continued W&B run; nothing where the environment has W&B disabled."""
        if is_disabled():
            return _NoMirror()
        handle = self.start(
            run.identity, run.name, run.folder, group=run.group, job_type="run", config=run.config, agent=under_agent()
        )
        return _WandBMirror(handle)

    def start(
        self,
        identity: str,
        name: str,
        folder: Path,
        *,
        group: str | None,
        job_type: str,
        config: Mapping[str, Any],
        agent: bool = False,
    ) -> WandBHandle:
        """A W&B run with the id `identity` whose files go below `folder`; offline where the server does not answer.

        `agent` leaves the id to the environment of a W&B sweep agent.
        """
        import wandb

        if wandb.run is not None:
            wandb.finish()
        folder = files_folder(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        said = {} if "WANDB_SILENT" in os.environ else {"silent": True}
        keywords: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "group": group[:_LONGEST_NAME] if group is not None else None,
            "job_type": job_type,
            "name": name[:_LONGEST_NAME],
            # W&B's service may have been started in another folder.
            "dir": str(folder),
            "config": dict(config),
            "tags": list(self.tags),
            "reinit": "finish_previous",
            "settings": wandb.Settings(
                **said,
                console="off",
                init_timeout=self.init_timeout_seconds,
                finish_timeout=self.finish_timeout_seconds,
            ),
        }
        if not agent:
            keywords |= {"id": identity, "resume": "allow"}
        server = os.environ.get("WANDB_BASE_URL", "")
        if self.mode == "online" and not _kept_offline() and server not in self._unreachable:
            try:
                return wandb.init(mode="online", **keywords)
            except (wandb.Error, OSError) as error:
                self._unreachable.add(server)
                reason = str(error).partition("\n")[0]
                log.warning("W&B cannot be reached, going on offline (upload later: thawline sync): %s", reason)
                # Its service would go on trying, and keep the id to itself.
                wandb.teardown()
        return wandb.init(mode="offline", **keywords)

    def replay(self, record: Record, run: Mirrored) -> None:
        """Make the W&B run of a finished run again from its record."""
        mirror = self.open(run)
        try:
            for row in record.history:
                mirror.epoch(row)
        finally:
            mirror.close(summary_of(record), failed=False)

    def summarise(self, sweep: str, folder: Path, report: Path) -> None:
        """One W&B run for a whole sweep: the tables and the figure of its `report`, grouped with the sweep's runs."""
        if is_disabled():
            return
        import pandas
        import wandb

        identity = summary_identity(sweep)
        remove_offline(folder, identity)
        handle = self.start(identity, f"{sweep} (summary)", folder, group=sweep, job_type="sweep", config={})
        try:
            tables = {name: pandas.read_csv(report / f"{name}.csv") for name in ("table", "runs")}
            shown: dict[str, Any] = {name: wandb.Table(dataframe=rows) for name, rows in tables.items()}
            handle.log({**shown, "figure": wandb.Image(str(report / "figure.png"))})
        finally:
            handle.finish()


def is_disabled() -> bool:
    """Whether the environment says that there is no W&B: ``WANDB_MODE=disabled`` or ``WANDB_DISABLED=true``."""
    disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes")
    return disabled or os.environ.get("WANDB_MODE", "").lower() == "disabled"


def _kept_offline() -> bool:
    return os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun")


def files_folder(folder: Path) -> Path:
    """Where W&B's files of a run in `folder` go: there, or where ``WANDB_DIR`` says."""
    return Path(os.environ.get("WANDB_DIR") or folder)


def under_agent() -> bool:
    """Whether a W&B sweep agent started this process: it knows the run by an id of its own."""
    return "WANDB_SWEEP_ID" in os.environ


def summary_identity(sweep: str) -> str:
    """The id of the W&B run that stands for a whole sweep."""
    return f"sweep-{hashlib.sha256(sweep.encode()).hexdigest()[:16]}"


def remove_offline(folder: Path, identity: str) -> None:
    """Remove earlier offline files of a W&B run that is about to be made again from records."""
    for old in files_folder(folder).glob(f"wandb/offline-run-*-{identity}"):
        shutil.rmtree(old)


def summary_of(record: Record) -> dict[str, float | int]:
    """The final numbers of a run, ``split/metric`` and counts of parameters; a number that is not finite is absent."""
    numbers = {
        f"{split}/{name}": value
        for split, values in record.metrics.items()
        for name, value in values.items()
        if value is not None
    }
    counts = {"parameters/trainable": record.parameters.trainable, "parameters/total": record.parameters.total}
    return {**numbers, **counts}


@dataclass(frozen=True)
class _WandBMirror:
    handle: WandBHandle

    def epoch(self, row: Mapping[str, Any]) -> None:
        # At once: W&B would keep the row for later, and then lay the last epoch's numbers over the summary's.
        shown = {key: value for key, value in row.items() if value is not None}
        self.handle.log(shown, step=int(row["epoch"]), commit=True)

    def close(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        try:
            for key, value in summary.items():
                self.handle.summary[key] = value
        finally:
            self.handle.finish(exit_code=1 if failed else 0)


class _NoMirror:
    """What is shown nowhere."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Nothing."""


@final
class CSV(Spec):
    """Curves as ``curves/metrics.csv`` in the run's folder."""

    def open(self, run: Mirrored) -> Mirror:
        """A CSVLogger in the run's folder."""
        from pytorch_lightning.loggers import CSVLogger

        return _LightningMirror(CSVLogger(run.folder, name="curves", version=""))


@final
class TensorBoard(Spec):
    """TensorBoard event files in the run's folder (needs the extra ``tensorboard``)."""

    @model_validator(mode="after")
    def _installed(self) -> TensorBoard:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError("tensorboard is not installed; pip install 'thawline[tensorboard]'")
        return self

    def open(self, run: Mirrored) -> Mirror:
        """A TensorBoardLogger in the run's folder."""
        from pytorch_lightning.loggers import TensorBoardLogger

        return _LightningMirror(TensorBoardLogger(run.folder, name="tensorboard", version=""))


@dataclass(frozen=True)
class _LightningMirror:
    logger: CSVLogger | TensorBoardLogger

    def epoch(self, row: Mapping[str, Any]) -> None:
        numbers: dict[str, Any] = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        self.logger.log_metrics(numbers, step=int(row["epoch"]))
        self.logger.save()

    def close(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        final: dict[str, Any] = {f"final/{key}": value for key, value in summary.items()}
        if final:
            self.logger.log_metrics(final)
        self.logger.finalize("failed" if failed else "success")


@dataclass
class Mirroring:
    """A run's mirror while the run is on. What goes wrong with it is said once, and the run goes on without."""

    mirror: Mirror | None
    on_epoch: Callable[[Mapping[str, Any]], None]
    summary: dict[str, float | int] = field(default_factory=dict)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell the run's observer and the mirror of an epoch."""
        self.on_epoch(row)
        if self.mirror is not None:
            with self.forgiving():
                self.mirror.epoch(row)

    def close(self, *, failed: bool) -> None:
        """End the mirror."""
        if self.mirror is not None:
            with self.forgiving():
                self.mirror.close(self.summary, failed=failed)

    @contextlib.contextmanager
    def forgiving(self) -> Iterator[None]:
        """Within the block an error ends the mirror, not the run."""
        try:
            yield
        except Exception:
            self.mirror = None
            log.warning("the logger failed; the run goes on, and its record stays whole", exc_info=True)


def mirror_sweep(spec: LoggerSpec | None, sweep: str, folder: Path, report: Path) -> None:
    """Mirror a sweep's `report`, where its runs are mirrored by W&B; an error costs the mirror alone."""
    if isinstance(spec, WandB):
        with Mirroring(None, lambda row: None).forgiving():
            spec.summarise(sweep, folder, report)


def replay_for_agent(spec: LoggerSpec | None, record: Record, run: Mirrored) -> None:
    """Tell a W&B sweep agent of a run that was finished before: the agent waits for a W&B run of its own."""
    if isinstance(spec, WandB) and under_agent():
        with Mirroring(None, lambda row: None).forgiving():
            spec.replay(record, run)


@contextlib.contextmanager
def mirroring(
    spec: LoggerSpec | None, run: Mirrored, on_epoch: Callable[[Mapping[str, Any]], None]
) -> Iterator[Mirroring]:
    """Mirror a run while the block runs; the mirror ends with the block, as failed where the block raises."""
    session = Mirroring(None, on_epoch)
    if spec is not None:
        with session.forgiving():
            session.mirror = spec.open(run)
    failed = True
    try:
        yield session
        failed = False
    finally:
        session.close(failed=failed)
