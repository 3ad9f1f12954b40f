"""The Python interface: train, and work with what runs and sweeps have left. ``import thawline`` offers all of it."""

from thawline.api.loading import load_run, load_sweep
from thawline.api.run import Run
from thawline.api.sweep import Sweep
from thawline.api.training import train
from thawline.commands.outcome import SweepIncomplete
from thawline.errors import UsageError
from thawline.ledger.runs import RunFailed

__all__ = ["Run", "RunFailed", "Sweep", "SweepIncomplete", "UsageError", "load_run", "load_sweep", "train"]
