"""``thawline verify``: check every record, hash and file of a sweep or of a run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.markup import escape

from thawline.commands.console import console, errors
from thawline.commands.project import outputs
from thawline.errors import counted


def run(argv: Sequence[str]) -> int:
    """Check what is there; status 0 when all is well, 1 when something is not, each named on the terminal.

    Raises:
        UsageError: there is no such sweep or run.
    """
    from thawline.ledger.verification import is_sealed, problems_of_run

    arguments = _parser().parse_args(argv)
    checked = wrong = unsealed = 0
    for folder, label in _runs(arguments.name, arguments.outputs):
        checked += 1
        problems = problems_of_run(folder)
        wrong += bool(problems)
        unsealed += not is_sealed(folder)
        for problem in problems:
            errors.print(f"[red]{escape(label)}[/]: {escape(str(folder))}: {escape(problem)}", soft_wrap=True)
    if unsealed:
        said = "no seal, as an earlier version left them: what does not follow from other numbers is not checked"
        console.print(f"{unsealed} of the records {'has' if unsealed == 1 else 'have'} {said}", highlight=False)
    console.print(f"{counted(checked, 'run')} checked: {checked - wrong} whole, {wrong} with problems", highlight=False)
    return 1 if wrong else 0


def _runs(name: str, outputs: Path) -> Iterator[tuple[Path, str]]:
    """The folders that `name` stands for, each with what to call it."""
    from thawline.commands.finding import find_run_or_sweep
    from thawline.records.names import RECORD_FILE, SWEEP_FILE
    from thawline.sweeps.manifest import read_manifest

    folder, is_run = find_run_or_sweep(name, outputs)
    if is_run:
        yield folder, folder.name
    elif not (folder / SWEEP_FILE).is_file():
        yield from ((path, path.name) for path in sorted(folder.iterdir()) if (path / RECORD_FILE).exists())
    else:
        manifest = read_manifest(folder)
        runs = folder / manifest.runs_folder
        yield from ((runs.resolve() / cell.identity, manifest.label(cell)) for cell in manifest.cells)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline verify",
        description="Check that every run of a sweep has a valid and unchanged record, that every file has the hash "
        "that the record has of it, and that every number that can be computed again comes out the same. Exit status 1 "
        "if not.",
    )
    parser.add_argument("name", metavar="SWEEP|RUN", help="a sweep (folder or name) or a run (folder or identity)")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where sweeps and runs lie")
    return parser
