"""``thawline reproduce``: run a record again and say whether it comes out the same."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from thawline.commands.console import console
from thawline.commands.project import outputs

if TYPE_CHECKING:
    from thawline.ledger.comparison import Difference, RecordComparison
    from thawline.records import Record

_MOST_LINES = 12
_STYLES = {"identical": "green", "equal within tolerance": "green", "different": "red"}


def run(argv: Sequence[str]) -> int:
    """Run a finished run again, apart from everything that is there, and compare; status 0 unless it differs.

    Raises:
        UsageError: there is no such run, or its configuration cannot be used any more.
        RunFailed: it failed this time.
    """
    from thawline.commands.finding import find_run
    from thawline.records import load_record, require_record

    arguments = _parser().parse_args(argv)
    folder = find_run(arguments.run, arguments.outputs)
    recorded = require_record(folder)
    from thawline.ledger.comparison import compare
    from thawline.ledger.runs import RunFailed
    from thawline.planning.devices import require_devices
    from thawline.planning.plan import plan_run
    from thawline.planning.session import Session
    from thawline.sweeps.local import run_all

    with _place(arguments.keep) as place:
        session = Session()
        plan = plan_run(_config(recorded, folder, place), recorded.overrides, session, f"{recorded.identity} again")
        require_devices(plan.settings)
        failures = run_all([plan], session, group=None, console=console)
        if failures:
            error: RunFailed = failures[0].error
            raise error
        again = load_record(plan.folder)
    comparison = compare(recorded, again, arguments.tolerance)
    _show(comparison, arguments.tolerance)
    return 1 if comparison.verdict == "different" else 0


@contextlib.contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="thawline-reproduce-") as name:
        yield Path(name)


def _config(recorded: Record, folder: Path, place: Path) -> dict[str, Any]:
    """The record's configuration with outputs and stores in `place`: nothing of the first time is read but weights."""
    from thawline.planning.settings import recorded_config

    config = recorded_config(recorded.config, place)
    trainer, backbone = config.get("trainer"), config.get("backbone")
    # The number of threads decides how sums are split, and so their last bits.
    if isinstance(trainer, dict) and trainer.get("threads") is None:
        config["trainer"] = {**trainer, "threads": recorded.provenance.threads}
    weights = str(backbone.get("weights") or "") if isinstance(backbone, dict) else ""
    if weights.startswith("run:"):
        runs = place / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        name = Path(weights.removeprefix("run:")).name
        (runs / name).symlink_to((folder.parent / name).resolve(), target_is_directory=True)
    return config


def _show(comparison: RecordComparison, tolerance: float) -> None:
    verdict = comparison.verdict
    style = _STYLES[verdict]
    details = {
        "identical": "every number and every file",
        "equal within tolerance": f"largest difference of a number {comparison.largest:.3g}, tolerance {tolerance:g}",
        "different": f"largest difference of a number {comparison.largest:.3g}, tolerance {tolerance:g}",
    }
    console.print(f"[bold {style}]{verdict}[/]: {details[verdict]}", highlight=False)
    _list("numbers that differ", comparison.numbers)
    _list("files that differ", comparison.files)
    _list("what differs around them", comparison.environment)


def _list(title: str, differences: Sequence[Difference]) -> None:
    if not differences:
        return
    console.print(f"{title}:", highlight=False)
    for difference in differences[:_MOST_LINES]:
        line = f"  {difference.name}: {difference.recorded} -> {difference.again}"
        console.print(escape(line), highlight=False, soft_wrap=True)
    if len(differences) > _MOST_LINES:
        console.print(f"  and {len(differences) - _MOST_LINES} more", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline reproduce",
        description="Run a finished run again in a folder of its own and compare: identical, equal within the "
        "tolerance, or different, with what differs in software, hardware and data. Exit status 1 if different.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its identity under outputs/runs")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="by how much a number may differ (default 0.001)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the new run here (default: a temporary folder)")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs lie")
    return parser
