"""Curves as files of Lightning's loggers: CSV and TensorBoard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pydantic import model_validator

from thawline.specs import Spec
from thawline.trackers.mirror import Mirror, Mirrored, summary_of

if TYPE_CHECKING:
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

    from thawline.records import Record


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

    def close(self, record: Record | None) -> None:
        if record is not None:
            final: dict[str, Any] = {f"final/{key}": value for key, value in summary_of(record).items()}
            self.logger.log_metrics(final)
        self.logger.finalize("failed" if record is None else "success")
