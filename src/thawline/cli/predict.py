"""``thawline predict``: what a finished run's model says of images, as a table, as files, and drawn onto them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from thawline.commands.console import console, errors
from thawline.commands.project import outputs
from thawline.errors import counted, usage_error

if TYPE_CHECKING:
    from thawline.commands.image_paths import ImagePath
    from thawline.commands.prediction_files import PredictionFile
    from thawline.execution.known_truth import PartMetrics
    from thawline.execution.predict import Prediction
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
    record = require_record(found.folder)
    _check_options(arguments, record, images)
    if found.why:
        console.print(Text(found.why), soft_wrap=True)
    with contextlib.ExitStack() as files:
        done = _predict(arguments, found.folder, images, _files(files, arguments, record))
    _show(record, done)
    return 1 if done.unreadable else 0


@dataclass
class _Done:
    """What was predicted: the first rows of the table, counts of images, and what folders with truth say."""

    rows: list[Mapping[str, str]] = field(default_factory=list)
    images: int = 0
    unreadable: int = 0
    metrics: Mapping[str, PartMetrics] = field(default_factory=dict)
    seen_before: Mapping[str, int] = field(default_factory=dict)
    without_truth: Mapping[Path, str] = field(default_factory=dict)


def _predict(
    arguments: argparse.Namespace, folder: Path, images: Sequence[ImagePath], files: Sequence[PredictionFile]
) -> _Done:
    from thawline.runtime.steps import Bars, step

    done = _Done()
    with Bars(console):
        with step("loading libraries"):
            import numpy as np

            from thawline.datasets.images import FileImages
            from thawline.execution.known_truth import known_truth
            from thawline.execution.predict import predictions
            from thawline.execution.weights import tuned_model
            from thawline.planning.context import RunContext
            from thawline.planning.plan import plan_of_run
            from thawline.planning.session import Session
        with step("loading the model"):
            session = Session()
            context = RunContext(plan_of_run(folder, session), session)
            model = tuned_model(context)
        folders = [Path(name) for name in arguments.images if Path(name).is_dir()]
        truth, done.without_truth = known_truth(context.plan, folders)
        images = truth.among(images)
        given = FileImages(Path(), [str(image.path) for image in images], np.empty((len(images), 0)))
        for found in predictions(
            context.plan,
            model,
            given,
            _SCORE if arguments.score is None else arguments.score,
            batch_size=arguments.batch_size,
            on_outputs=lambda outputs, indices: truth.add(outputs, [images[index].path for index in indices]),
        ):
            _take(done, images[found.index], found, files)
        done.metrics, done.seen_before = truth.metrics(), truth.seen_before()
    for file in files:
        if done.metrics:
            file.add_metrics({part: {"images": of.images, **of.metrics} for part, of in done.metrics.items()})
    return done


def _take(done: _Done, image: ImagePath, found: Prediction, files: Sequence[PredictionFile]) -> None:
    """Write what was predicted of an image, and count it."""
    if found.image is None or found.shown is None:
        done.unreadable += 1
        errors.print(Text(f"error: {found.problem}"), soft_wrap=True)
        for file in files:
            file.add_problem(image, found.problem)
        return
    done.images += 1
    for file in files:
        file.add(image, found.image, found.shown)
    if len(done.rows) < _MOST_ROWS:
        done.rows.append({"image": str(image.path), **found.shown.summary()})


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


def _show(record: Record, done: _Done) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in dict.fromkeys(name for row in done.rows for name in row):
        table.add_column(Text(name), overflow="fold")
    for row in done.rows:
        table.add_row(*(Text(value) for value in row.values()))
    if done.rows:
        console.print(table)
    more = f", the first {len(done.rows)} are shown" if done.images > len(done.rows) else ""
    images = counted(done.images, "image")
    console.print(Text(f"{images} by run {record.identity}{more}", style="dim"))
    for reason in done.without_truth.values():
        console.print(Text(f"no metrics: {reason}", style="dim"), soft_wrap=True)
    _show_metrics(done)


def _show_metrics(done: _Done) -> None:
    if not done.metrics:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    for part, of in done.metrics.items():
        table.add_column(
            Text(f"{part}, n = {of.images}" if part != "images" else counted(of.images, "image")), justify="right"
        )
    for name in sorted(next(iter(done.metrics.values())).metrics):
        values = (of.metrics[name] for of in done.metrics.values())
        table.add_row(Text(name), *("-" if value is None or value != value else f"{value:.4f}" for value in values))
    console.print(table)
    for split, count in done.seen_before.items():
        if count:
            what = "trained on" if split == "train" else "chosen on"
            said = f"warning: {count} of these images were {what} ({split}): their metrics are too optimistic"
            errors.print(Text(said), soft_wrap=True)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline predict",
        description="Predict images with the model of a finished run, in the pixels of each image itself. A folder "
        "that is laid out like the run's data set, with the truth (folders by name, a table, masks, ...), gets the "
        "metrics of a record too.",
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
    parser.add_argument(
        "--batch-size", type=_count, metavar="N", help="images at once (default: the run's, at most 16)"
    )
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs and sweeps lie")
    return parser
