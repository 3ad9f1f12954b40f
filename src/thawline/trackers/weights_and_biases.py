"""Weights & Biases: a run of its own for each run, and one for a whole sweep."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

from pydantic import Field, field_validator

from thawline.errors import UsageError
from thawline.records.names import RECORD_FILE
from thawline.specs import Spec
from thawline.trackers.mirror import LoggerSpec, Mirror, Mirrored, Mirroring, summary_of

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run as WandBHandle

    from thawline.records import Record

log = logging.getLogger("thawline")
_LONGEST_NAME = 128
_NOT_IN_NAMES = frozenset("/\\#?%:")
_LARGEST_MATRIX = 100
"""Rows of a confusion matrix: one of more would be too large to be read, or drawn by a browser."""


@final
class WandB(Spec):
    """Weights & Biases: one run per job, with the job's identity as its id, grouped by sweep; ``offline`` by default.

    A row of the history is a step of the W&B run, numbered by its epoch, so a resumed or repeated job goes on with its
    W&B run and no epoch occurs twice. Online, an unreachable server is given up after `init_timeout_seconds`, once in a
    process, and the runs go on offline. Under a W&B sweep agent the id is the agent's.

    The summary has the final numbers: metrics by split, cost, depth, the chosen epoch, and whether the run diverged; of
    classification there is the confusion matrix, in a step after the last epoch. W&B knows of each metric whether less
    or more is better.

    W&B's own environment counts: ``WANDB_MODE=disabled`` mirrors nothing and ``WANDB_MODE=offline`` nothing online,
    ``WANDB_DIR`` is where the files go instead of the run's folder, and ``WANDB_SILENT=false`` lets W&B talk.

    Attributes:
        project: the W&B project; at most 128 characters, without slashes and ``# ? % :``.
        entity: the W&B user or team; None: the default of the account.
        mode: ``offline`` writes files to upload later, ``online`` uploads at once.
        tags: of each run; 1 to 64 characters each.
        artifact: keep the model of each run as a W&B artifact: the whole network as safetensors, and the record.
        init_timeout_seconds: how long an online start may take before the runs continue offline.
        finish_timeout_seconds: how long the last upload may take.
    """

    project: str = Field(default="thawline", min_length=1, max_length=_LONGEST_NAME)
    entity: str | None = Field(default=None, min_length=1, max_length=_LONGEST_NAME)
    mode: Literal["offline", "online"] = "offline"
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    artifact: bool = False
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
        for name, direction in run.directions.items():
            handle.define_metric(name, summary=direction)
        return _WandBMirror(handle, run, artifact=self.artifact)

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
            mirror.close(record)

    def summarise(self, sweep: str, folder: Path, report: Path) -> None:
        """One W&B run for a whole sweep: page, tables and figure of its `report`, grouped with the sweep's runs."""
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
            page = wandb.Html(str(report / "report.html"), inject=False)
            handle.log({**shown, "figure": wandb.Image(str(report / "figure.png")), "report": page})
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


@dataclass(frozen=True)
class _WandBMirror:
    handle: WandBHandle
    run: Mirrored
    artifact: bool = False

    def epoch(self, row: Mapping[str, Any]) -> None:
        # At once: W&B would keep the row for later, and then lay the last epoch's numbers over the summary's.
        shown = {key: value for key, value in row.items() if value is not None}
        self.handle.log(shown, step=int(row["epoch"]), commit=True)

    def close(self, record: Record | None) -> None:
        try:
            if record is not None:
                self._conclude(record)
        finally:
            self.handle.finish(exit_code=1 if record is None else 0)

    def _conclude(self, record: Record) -> None:
        for split, values in record.metrics.items():
            for name in values:
                self.handle.define_metric(f"{split}/{name}", summary=record.metric_definitions[name].direction)
        if 0 < len(record.confusion_matrix) <= _LARGEST_MATRIX:
            after = int(record.history[-1]["epoch"]) + 1 if record.history else 0
            self.handle.log({"confusion_matrix": _matrix(record)}, step=after, commit=True)
        for key, value in summary_of(record).items():
            self.handle.summary[key] = value
        if self.artifact and self.run.model is not None:
            self._keep(record, self.run.model)

    def _keep(self, record: Record, model: Callable[[], Path]) -> None:
        import wandb

        try:
            file = model().absolute()
        except UsageError as error:
            log.warning("no model artifact of run %s: %s", record.identity, error)
            return
        about = {"task": record.task, "run": record.identity, **summary_of(record)}
        kept = wandb.Artifact(f"model-{record.identity}", type="model", metadata=about)
        # In its place: a copy in W&B's own folder would take the space again.
        kept.add_file(str(file), policy="immutable")
        kept.add_file(str(file.with_name(RECORD_FILE)))
        self.handle.log_artifact(kept)


def _matrix(record: Record) -> Any:
    """W&B's own chart of the confusion matrix, which takes the truth and the prediction of each image."""
    import wandb

    pairs = [
        (true, said)
        for true, row in enumerate(record.confusion_matrix)
        for said, count in enumerate(row)
        for _ in range(count)
    ]
    return wandb.plot.confusion_matrix(
        y_true=[true for true, _ in pairs],
        preds=[said for _, said in pairs],
        class_names=record.classes,
        title="confusion matrix of the test images",
    )


class _NoMirror:
    """What is shown nowhere."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self, record: Record | None) -> None:
        """Nothing."""


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
