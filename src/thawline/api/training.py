"""``thawline.train``: what ``thawline train`` does, with its results as objects and its errors as exceptions."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thawline.api.overrides import overrides_of, sweeps
from thawline.api.process import as_a_command, options
from thawline.api.run import Run
from thawline.api.sweep import Sweep
from thawline.errors import Problem, UsageError, usage_error

_MULTIRUN = ("-m", "--multirun")
_WITH_VALUE = ("--config-name", "-cn", "--config-path", "-cp")
_SWEPT_RANGE = re.compile(r'-m ("\S+=range\((\d+),(\d+)\)")$')


def train(
    overrides: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    multirun: bool = False,
    allow: str | Sequence[str] = (),
    config_dir: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> Run | Sweep:
    """Train one configuration, or a grid of them, as ``thawline train`` does.

    Records and identities are those of the command line, so what is there already is not run again. Whatever a command
    does to its process (signal handlers, arguments, Hydra) is undone at the end.

    Args:
        overrides: what a command line would have after ``thawline train``: a list of arguments or one line of text;
            or a mapping of fields, nested or with dotted names. In a mapping a list, a range or an array holds the
            values of a sweep, and a tuple is one value that is a list.
        multirun: make a sweep (``-m``); a list in a mapping says so by itself.
        allow: packages of your own that ``_target_`` may name (``--allow``).
        config_dir: a folder of your own options, one folder a group (``--config-dir``).
        **fields: further fields, as in a mapping: ``train(backbone="resnet18", seed=[0, 1, 2])``.

    Returns:
        The run; the sweep, where there are several values or `multirun` is set.

    Raises:
        UsageError: the input cannot be used; every problem is named and nothing has been run.
        RunFailed: the run failed; the error and its traceback file are named.
        SweepIncomplete: runs of the sweep are not done; the others are.
        OSError: a file cannot be written; what is finished is safe.
        KeyboardInterrupt: it was stopped; the same call goes on from there.
    """
    from thawline.commands.options import print_replaced, take_options
    from thawline.commands.outcome import FinishedRun
    from thawline.commands.training import train as train_by_command

    given = overrides if isinstance(overrides, Mapping) else {}
    arguments = _arguments(overrides)
    arguments += [*overrides_of(given), *overrides_of(fields)]
    named, folders, rest = take_options(arguments)
    packages = (*([allow] if isinstance(allow, str) else allow), *named)
    folder = _folder(config_dir if config_dir is not None else (folders[-1] if folders else None))
    if (multirun or sweeps(given) or sweeps(fields)) and not set(_MULTIRUN) & set(rest):
        rest = ["-m", *rest]
    _refuse_other_flags(rest)
    with options(packages, folder, quiet=False), as_a_command():
        print_replaced()
        try:
            made = train_by_command(rest)
        except UsageError as error:
            raise _in_python(error) from error
    if made is None:
        raise usage_error("", "the arguments ask for no training")
    if isinstance(made, FinishedRun):
        return Run(made.plan.folder.absolute(), allow=packages)
    return Sweep(made.sweep.folder.absolute(), allow=packages)


def _arguments(overrides: str | Sequence[str] | Mapping[str, Any]) -> list[str]:
    if isinstance(overrides, Mapping):
        return []
    arguments = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    for argument in arguments:
        if not isinstance(argument, str):
            raise usage_error("overrides", f"each is a text such as 'seed=0' (got {argument!r:.80})")
    return arguments


def _folder(name: str | os.PathLike[str] | None) -> Path | None:
    if name is None:
        return None
    folder = Path(name)
    if not folder.is_dir():
        raise usage_error("config_dir", f"there is no folder {str(name)!r}")
    return folder


def _refuse_other_flags(arguments: Sequence[str]) -> None:
    """A flag such as ``--cfg`` shows something and ends the process."""
    for argument in arguments:
        known = (*_MULTIRUN, *_WITH_VALUE)
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            raise usage_error(argument, f"not for Python; the command line has it: thawline train {argument}")


def _in_python(error: UsageError) -> UsageError:
    """The problems with what to do about them said in Python."""
    return UsageError([Problem(p.field, _said_in_python(p.message), p.wants_text) for p in error.problems])


def _said_in_python(message: str) -> str:
    said = message.replace("add -m", "pass multirun=True")
    return _SWEPT_RANGE.sub(r"range(\2, \3) in a mapping, or multirun=True with \1", said)
