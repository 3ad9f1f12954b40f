"""``thawline predict``: what a finished run's model says of images, as a table, as files, and drawn onto them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from thawline.commands.console import console, errors
from thawline.commands.project import outputs
from thawline.errors import usage_error

if TYPE_CHECKING:
    from thawline.commands.image_paths import ImagePath
    from thawline.commands.prediction_files import PredictionFile
    from thawline.records import Record

# More rows than these are for a file, not for a terminal.
_MOST_ROWS = 60
_SCORE = 0.5


def run(argv: Sequence[str]) -> int:
    """Predict the images, and show and write what is asked for; 1 where an image could not be read.

    Raises:
        UsageError: there is no such run or image, an option does not fit the task, or an image would be written over.
    """
    from thawline.commands.finding import find_run_or_best
    from thawline.commands.image_paths import image_paths
    from thawline.records import require_record

    arguments = _parser().parse_args(argv)
    images = image_paths(arguments.images)
    found = find_run_or_best(arguments.run, arguments.outputs)
    folder, record = found.folder, require_record(found.folder)
    _check_options(arguments, record, images)
    with contextlib.ExitStack() as files:
        rows, unreadable = _predict(folder, images, _files(files, arguments, record), arguments.score)
    _show(record, rows, len(images) - unreadable)
    return 1 if unreadable else 0


def _predict(
    folder: Path, images: Sequence[ImagePath], files: Sequence[PredictionFile], score: float | None
) -> tuple[list[Mapping[str, str]], int]:
    """The first rows of the table, and how many images could not be read."""
    from thawline.runtime.steps import Bars, step

    rows: list[Mapping[str, str]] = []
    unreadable = 0
    with Bars(console):
        with step("loading libraries"):
            import numpy as np

            from thawline.datasets.images import FileImages
            from thawline.execution.predict import predictions
            from thawline.execution.weights import tuned_model
            from thawline.planning.context import RunContext
            from thawline.planning.plan import plan_of_run
            from thawline.planning.session import Session
        with step("loading the model"):
            session = Session()
            context = RunContext(plan_of_run(folder, session), session)
            model = tuned_model(context)
        given = FileImages(Path(), [str(image.path) for image in images], np.empty((len(images), 0)))
        for found in predictions(context.plan, model, given, _SCORE if score is None else score):
            image = images[found.index]
            if found.image is None or found.shown is None:
                unreadable += 1
                errors.print(Text(f"error: {found.problem}"), soft_wrap=True)
                for file in files:
                    file.add_problem(image, found.problem)
                continue
            for file in files:
                file.add(image, found.image, found.shown)
            if len(rows) < _MOST_ROWS:
                rows.append({"image": str(image.path), **found.shown.summary()})
    return rows, unreadable


def _check_options(arguments: argparse.Namespace, record: Record, images: Sequence[ImagePath]) -> None:
    from thawline.commands.image_paths import keep_images
    from thawline.commands.prediction_files import Drawings, Masks, output_path
    from thawline.planning.settings import task_of

    task = task_of(record)
    if arguments.score is not None and not task.SHOWN.HAS_SCORES:
        raise usage_error("--score", f"task {task.NAME} finds no objects that have a score")
    if arguments.score is not None and not 0 <= arguments.score <= 1:
        raise usage_error("--score", f"a score is from 0 to 1 (got {arguments.score:g})")
    if arguments.masks and not task.SHOWN.HAS_MASK:
        raise usage_error("--masks", f"task {task.NAME} gives no masks")
    targets = [("--json", arguments.json), ("--csv", arguments.csv)]
    for option, target, ending in (
        ("--draw", arguments.draw, Drawings.ENDING),
        ("--masks", arguments.masks, Masks.ENDING),
    ):
        targets += [(option, output_path(target, image, ending)) for image in images if target]
    keep_images(images, [(option, target) for option, target in targets if target])


def _files(stack: contextlib.ExitStack, arguments: argparse.Namespace, record: Record) -> list[PredictionFile]:
    from thawline.commands.prediction_files import Drawings, Masks, csv_file, json_file

    found: list[PredictionFile] = []
    if arguments.json:
        about = {"run": record.identity, "task": record.task, "classes": record.classes}
        found.append(stack.enter_context(json_file(arguments.json, about)))
    if arguments.csv:
        found.append(stack.enter_context(csv_file(arguments.csv)))
    if arguments.draw:
        found.append(Drawings(arguments.draw))
    if arguments.masks:
        found.append(Masks(arguments.masks))
    return found


def _show(record: Record, rows: Sequence[Mapping[str, str]], images: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in dict.fromkeys(name for row in rows for name in row):
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(value) for value in row.values()))
    if rows:
        console.print(table)
    more = f", the first {len(rows)} are shown" if images > len(rows) else ""
    console.print(Text(f"{images} {'image' if images == 1 else 'images'} by run {record.identity}{more}", style="dim"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline predict",
        description="Predict images with the model of a finished run, in the pixels of each image itself.",
        epilog="thawline predict camvid street.jpg photos --draw drawn --masks masks",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run's folder or identity under outputs/runs, or a sweep: its best run by validation",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, and folders with images at any depth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was predicted as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each image, or for each found object")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw predictions onto the images, as JPEG files")
    parser.add_argument("--masks", type=Path, metavar="FOLDER", help="write each image's mask as a PNG file")
    parser.add_argument("--score", type=float, metavar="S", help=f"the least score of a found object ({_SCORE})")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs and sweeps lie")
    return parser
