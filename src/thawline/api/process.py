"""What a call takes of its process, and gives back as it was: a library leaves its caller's process alone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from thawline.commands.options import use_options
from thawline.commands.project import project_outputs, use_outputs
from thawline.config_paths import own_folder, use_own_folder
from thawline.runtime.signals import Interrupted, listening
from thawline.specs import allowed_extra_targets, only_allowing


@contextlib.contextmanager
def options(allow: Sequence[str], config_dir: Path | None, *, quiet: bool = True) -> Iterator[None]:
    """Within the block these options hold, laid on those of the project file, as on a command line.

    Raises:
        UsageError: the project file is wrong.
    """
    before = (allowed_extra_targets(), own_folder(), list(sys.path), project_outputs())
    try:
        use_options(allow, config_dir, quiet=quiet)
        yield
    finally:
        only_allowing(before[0])
        use_own_folder(before[1])
        sys.path[:] = before[2]
        use_outputs(before[3])


@contextlib.contextmanager
def as_a_command() -> Iterator[None]:
    """Within the block this process may do what a command does with signals, its arguments, and Hydra.

    A signal that stops the block is raised again once the caller's own handler is back: Ctrl-C, or the stop button of a
    notebook, is a `KeyboardInterrupt` there.
    """
    arguments, folder = list(sys.argv), Path.cwd()
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    stopped: Interrupted | None = None
    with warnings.catch_warnings(), _own_hydra():
        try:
            with listening():
                yield
        except Interrupted as error:
            stopped = error
        finally:
            sys.argv = arguments
            os.chdir(folder)
            if full_error is None:
                os.environ.pop("HYDRA_FULL_ERROR", None)
    if stopped is not None:
        signal.raise_signal(stopped.number)
        raise stopped


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Within the block Hydra is as in a new process; afterwards it is the caller's again."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    kinds: tuple[type, ...] = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    instances = Singleton._instances
    before = {kind: instances.pop(kind) for kind in kinds if kind in instances}
    try:
        yield
    finally:
        for kind in kinds:
            instances.pop(kind, None)
        instances.update(before)
