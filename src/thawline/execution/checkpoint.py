"""``last.ckpt``: the state of a run between two epochs, from which it goes on after it was stopped.

Only whole epochs count: the one that was broken is repeated from its start. The file is a plain torch file that loads
with ``weights_only=True``; it holds what training has updated so far, not the source weights.
"""

from __future__ import annotations

import logging
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback

from thawline.errors import WriteError, first_line
from thawline.execution.out_of_memory import is_of_memory
from thawline.files import atomic_write, is_temporary, remove_or_set_aside
from thawline.ledger import provenance
from thawline.records.names import LAST_FILE
from thawline.runtime import signals
from thawline.training.fit_state import fit_state, put_back

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from thawline.planning.plan import Plan

FORMAT = 5
_DECIDING_PACKAGES = ("thawline", "torch", "pytorch-lightning")

log = logging.getLogger("thawline")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        phase: the phase that was on.
        run: what the phases left so far, as `RunResults.to_text` has it.
        tensors: what earlier phases updated, by its name in the model, as this phase found it.
        fit: the state of the phase's fit.
    """

    phase: int
    run: str
    tensors: dict[str, torch.Tensor]
    fit: dict[str, Any]


class UnusableCheckpoint(Exception):
    """A checkpoint loads, and its state does not fit the run: something in it is missing or of another shape."""


class Checkpoint:
    """The last checkpoint of a run, written at most every ``trainer.checkpoint_seconds``."""

    def __init__(self, plan: Plan) -> None:
        self._path = plan.folder / LAST_FILE
        self._identity, self._seconds = plan.identity, plan.settings.trainer.checkpoint_seconds
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, saved: Saved) -> None:
        """Write `saved` in one step: a process that dies here leaves the previous file.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
        """
        values = {"format": FORMAT, "identity": self._identity, "software": _software(), **vars(saved)}
        with atomic_write(self._path) as stream:
            try:
                torch.save(values, stream)
            except RuntimeError as error:
                # torch hides what the file said behind an error of its own.
                if isinstance(error.__context__, OSError):
                    cause = error.__context__
                    raise WriteError(cause.errno, cause.strerror, str(self._path)) from error
                raise
        self._written = time.monotonic()

    def read(self) -> Saved | None:
        """What is there to go on from; None where there is nothing, or nothing that can be used (which is said)."""
        try:
            values = self._load()
            if values.pop("identity") != self._identity:
                self.refuse("belongs to another run")
                return None
            if values.pop("software") != _software():
                self.refuse("was written by other versions of thawline, torch or Lightning")
                return None
            return Saved(**values)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, pickle.UnpicklingError) as error:
            if is_of_memory(error) or is_temporary(error):
                raise
            self.refuse(f"is damaged ({reason(error)})")
            return None

    def remove(self) -> None:
        """The run is done."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any]:
        try:
            # torch does not look at the checksums that it writes.
            with zipfile.ZipFile(self._path) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} differs")
        values = torch.load(self._path, map_location="cpu", weights_only=True)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"it is not a checkpoint of format {FORMAT}")
        return values

    def refuse(self, why: str) -> None:
        """Say why the file cannot be used, and remove it: the next attempt must not fail by it again."""
        log.warning("%s %s; the run starts over", self._path, why)
        remove_or_set_aside(self._path)


class AtEpochs(Callback):
    """At the start of an epoch: writes the checkpoint when it is due, and leaves when a signal asked for it.

    Must be the first callback: what others do at the start of an epoch, they do again after a resume.

    Args:
        checkpoint: the run's.
        phase: the phase's index in the run.
        fit: the state to go on from, if the phase was on when the run was stopped.
        collect: puts a state of the fit beside what the run has so far.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        phase: int,
        fit: dict[str, Any] | None,
        collect: Callable[[dict[str, Any]], Saved],
    ) -> None:
        self._checkpoint, self._phase, self._fit, self._collect = checkpoint, phase, fit, collect

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the state, once optimizer, schedule and processes are there."""
        # Lightning has put its own handlers over ours.
        signals.install()
        if self._fit is not None:
            try:
                put_back(self._fit, trainer, pl_module)
            except Exception as error:
                if is_of_memory(error):
                    raise  # it is whole, and a later attempt may have the room
                raise UnusableCheckpoint(reason(error)) from error
            self._fit = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All processes of the run decide alike: the first one's clock and signals count."""
        due, stopped = trainer.strategy.broadcast((self._checkpoint.due(), signals.requested()))
        if (due or stopped is not None) and (self._phase or trainer.current_epoch):
            state = fit_state(trainer, pl_module)
            if trainer.is_global_zero:
                self._checkpoint.write(self._collect(state))
            trainer.strategy.barrier()
        if stopped is not None:
            raise signals.Interrupted(stopped)


def _software() -> dict[str, str]:
    packages = provenance.software().packages
    return {name: packages[name] for name in _DECIDING_PACKAGES}


def reason(error: Exception) -> str:
    """Why a checkpoint cannot be used, in one line."""
    return f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
