"""The command line. Heavy imports wait until a verb needs them, so that help and errors come at once."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from thawline import __version__
from thawline.errors import UsageError, WriteError, nearest, usage_error
from thawline.runtime.cores import sleep_between_operations
from thawline.runtime.memory import collecting_in_runs_only
from thawline.runtime.signals import Interrupted, listening
from thawline.runtime.streams import show_everything

_VERBS = {
    "train": ("train", "train one configuration, or with -m a whole grid (Hydra: --help lists the groups)"),
    "status": ("status", "show which runs of a sweep are done, running, failed or left; --watch keeps showing it"),
    "runs": ("runs", "list runs over all sweeps: where, which, how good; as a table, CSV, JSON or Parquet"),
    "report": ("report", "make table, figure and report of a sweep from its records"),
    "predict": ("predict", "predict images with a finished run: a table, files, drawings, and metrics of known ones"),
    "average": ("average", "average the weights of finished runs: WiSE-FT, uniform and greedy soups"),
    "rank-sources": ("rank_sources", "rank source models for a target by transferability scores, before training"),
    "reproduce": ("reproduce", "run a record again and compare: identical, within tolerance, or different"),
    "verify": ("verify", "check every record, hash and file of a run or a sweep"),
    "export": ("export", "write the model of a run, or the best of a sweep, for other programs: onnx, timm, ..."),
    "explain": ("explain", "show what a field takes: type, bounds, default, meaning"),
    "layers": ("layers", "show the layer groups of a backbone: what k means for it"),
    "list": ("listing", "list backbones, datasets, freeze_policies, ..., with a filter"),
    "cache": ("cache", "list, verify or prune the store"),
    "sync": ("sync", "make a sweep's W&B runs again from its records, offline or --online"),
}
_FIRST_STEPS = {
    "train": "reading the configuration",
    "runs": "reading the records",
    "report": "reading the records",
    "predict": "loading the run",
    "average": "loading the runs",
    "rank-sources": "reading the configuration",
    "reproduce": "loading the run",
    "verify": "reading the records",
    "export": "loading the run",
    "explain": "reading the fields",
    "layers": "building the backbone",
    "cache": "looking at the store",
    "sync": "reading the records",
}
"""What a verb does first, of those that do not answer at once: whoever waits sees that it has begun, and with what."""
_COMPOSING = frozenset({"train", "layers", "list", "rank-sources"})
_ALIASES = {"sweep": "train -m"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status: 0 done, 1 something failed, 2 the input cannot be used."""
    sleep_between_operations()
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback_wanted = "--traceback" in arguments
    show_everything()
    try:
        return _main([argument for argument in arguments if argument != "--traceback"])
    except (UsageError, WriteError) as error:
        if traceback_wanted:
            raise
        return _print_error(error)
    except Interrupted as error:
        # A closed terminal takes no message.
        with contextlib.suppress(OSError):
            saved = f": {error.saved}" if error.saved else ""
            print(f"interrupted by {error}{saved}; the same command goes on from here", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(arguments: list[str]) -> int:
    if arguments and arguments[0].startswith("-sc"):
        return _complete(arguments)
    _print_first_step(arguments)
    arguments = _common(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"thawline {__version__}")
        return 0
    return _run(arguments[0], arguments[1:])


def _print_first_step(arguments: Sequence[str]) -> None:
    """Say on a terminal what begins, before anything is imported that takes time."""
    verb = next((argument for argument in arguments if argument in _VERBS), "")
    if verb in _FIRST_STEPS and sys.stderr.isatty():
        print(f"thawline {verb}: {_FIRST_STEPS[verb]}", file=sys.stderr, flush=True)


def _run(verb: str, rest: Sequence[str]) -> int:
    if verb not in _VERBS:
        hint = f"; you may want: thawline {_ALIASES[verb]}" if verb in _ALIASES else nearest(verb, _VERBS)
        raise usage_error("", f"there is no verb {verb!r}{hint}")
    sys.argv = [f"thawline {verb}", *rest]
    if verb in _COMPOSING:
        from thawline.commands.options import print_replaced

        print_replaced()
    with listening(), collecting_in_runs_only():
        status: int = importlib.import_module(f"thawline.cli.{_VERBS[verb][0]}").run(rest)
    return status


def _print_error(error: UsageError | WriteError) -> int:
    """Print what is wrong, a line for each problem, and return the exit status."""
    if isinstance(error, WriteError):
        print(f"error: {error}; what is finished is safe, and the same command goes on from here", file=sys.stderr)
        return 1
    for problem in error.problems:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
    return 2


def _common(arguments: Sequence[str], *, quiet: bool = False) -> list[str]:
    """Take out the options of every verb, lay them on the project file's, and return the rest.

    Raises:
        UsageError: an option has no value, there is no such folder, or the project file is wrong.
    """
    from thawline.commands.options import take_options, use_options

    allow, folders, rest = take_options(arguments)
    use_options(allow, Path(folders[-1]) if folders else None, quiet=quiet)
    return rest


def _help() -> str:
    width = max(map(len, _VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in _VERBS.items())
    return f"""thawline {__version__}: how many layers to unfreeze, and which transfer strategy is best,
answered with evidence.

usage: thawline VERB ...

{verbs}

  thawline train backbone=resnet18 freeze_policy=last_k freeze_policy.k=2 dataset=digits
  thawline train -m 'freeze_policy.k=range(0,5)' seed=0,1,2
  thawline train experiments=digits_depth/sweep

options of every verb:
  --allow PACKAGE   let _target_ name classes of your own package
  --config-dir DIR  options of your own, one folder a group; they come before thawline's
  --traceback       show the traceback of an error in the input
  --version         print the version

What you would repeat can stand in thawline.toml (or [tool.thawline] of pyproject.toml) in the folder where you work:
  allow = ["mine"]    config_dir = "conf"    output_dir = "outputs"
"""


def _complete(arguments: list[str]) -> int:
    """Shell completion: Hydra completes what follows ``thawline train``, so the verb is taken out of the line."""
    from thawline.cli import train

    line = os.environ.get("COMP_LINE")
    if line is not None:
        for flag in re.findall(r"\s(?:--config-dir|-cd|--allow)[= ]\S+(?=\s)", line):
            line = line.replace(flag, "", 1)
            _common(re.split(r"[= ]", flag.strip(), maxsplit=1), quiet=True)
        os.environ["COMP_LINE"] = line.replace(" train ", " ", 1)
    return train.run(arguments)
