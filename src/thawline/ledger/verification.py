"""Whether a run's folder still is what its record says: the seal, every file's hash, and every number that follows.

What can be computed again is: the validation metrics from the history, the test metrics and the confusion matrix from
the predictions, the identity from what it was made from, and that from the configuration. The seal holds the rest.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from thawline.errors import UsageError
from thawline.files import finite, read_json, sha256_of_file
from thawline.records import RECORD_FILE, Record, identity_of, load_record, seal_of
from thawline.records.names import IMAGE_SCORE_ARRAY, MODEL_FILE, PREDICTIONS_FILE
from thawline.tensor_files import is_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

_TOLERANCE = 1e-5
"""Of metrics that are computed again: probabilities are float32, and their sums are in another order."""


def problems_of_run(folder: Path) -> list[str]:
    """What is wrong in the folder of a finished run; empty where all is well."""
    try:
        record = load_record(folder)
    except FileNotFoundError:
        return ["no record"]
    except ValidationError as error:
        first = error.errors()[0]
        return [f"{RECORD_FILE}: not a valid record: {'.'.join(map(str, first['loc']))}: {first['msg']}"]
    except (OSError, ValueError) as error:
        return [f"{RECORD_FILE}: not a valid record: {error}"]
    of_record = [*_of_seal(folder, record), *_of_counts(record), *_of_identity(record), *_of_selection(record)]
    return [*_of_files(folder, record), *(f"{RECORD_FILE}: {said}" for said in of_record), *_of_tests(folder, record)]


def is_sealed(folder: Path) -> bool:
    """Whether the run's record has a seal: those of earlier versions have none, and only what follows is checked."""
    try:
        return bool(load_record(folder).seal)
    except (OSError, ValueError):
        return True


def _of_seal(folder: Path, record: Record) -> Iterator[str]:
    if record.seal and record.seal != seal_of(read_json(folder / RECORD_FILE)):
        yield "its seal is not that of its content: it was changed after the run had written it"


def _of_files(folder: Path, record: Record) -> Iterator[str]:
    for name, digest in record.files.items():
        if not _is_inside(name):
            yield f"{name!r}: not a file of the run's folder"
        elif not (folder / name).is_file():
            yield f"{name}: missing"
        elif sha256_of_file(folder / name) != digest:
            yield f"{name}: its SHA-256 is not the record's"
    if (folder / MODEL_FILE).is_file() and is_whole(folder / MODEL_FILE) is False:
        yield f"{MODEL_FILE}: its tensors are not those that were written; it is made again where it is needed"


def _is_inside(name: str) -> bool:
    """Whether a name is a file of the run's folder, or of a folder in it."""
    return name not in ("", ".") and not name.startswith("/") and {"", ".", ".."}.isdisjoint(name.split("/"))


def _of_counts(record: Record) -> Iterator[str]:
    counts = record.parameters
    if counts.frozen + counts.trainable != counts.total:
        yield f"{counts.frozen} frozen + {counts.trainable} trainable parameters are not {counts.total}"
    tested = record.splits["test"].samples if "test" in record.splits else 0
    counted = sum(sum(row) for row in record.confusion_matrix)
    if record.confusion_matrix and counted != tested:
        yield f"the confusion matrix counts {counted} samples, the test split has {tested}"
    # In other tasks an image may have several classes, or none.
    one_each = record.task == "classification"
    for name, split in record.splits.items():
        if one_each and split.per_class and sum(split.per_class) != split.samples:
            yield f"per_class of {name} adds up to {sum(split.per_class)}, not {split.samples}"
        if max(split.per_class, default=0) > split.samples:
            yield f"per_class of {name} has {max(split.per_class)}, and the split {split.samples} samples"


def _of_identity(record: Record) -> Iterator[str]:
    """The identity is the hash of its parts, and they are what the record says elsewhere."""
    parts = record.identity_parts
    if not parts:
        return
    if identity_of(parts) != record.identity:
        yield "identity_parts: they do not give the identity"
        return
    data = parts.get("data") or {}
    if data.get("classes") != record.classes:
        yield "classes: not those of the identity"
    splits = {name: split.sha256 for name, split in record.splits.items()}
    for name, sha256 in (data.get("splits") or {}).items():
        if splits.get(name) != sha256:
            yield f"splits.{name}.sha256: not that of the identity"
    yield from _of_config(record, parts)


def _of_config(record: Record, parts: Mapping[str, Any]) -> Iterator[str]:
    """The configuration decides what the identity was made from; the transform was fitted to the backbone since."""
    from thawline.planning.plan import IDENTITY_FORMAT
    from thawline.planning.settings import parse

    if parts.get("format") != IDENTITY_FORMAT:
        return
    try:
        decides = finite(parse(record.config).deciding())
    except UsageError as error:
        yield f"config: {error.problems[0]}"
        return
    settings = parts.get("settings") or {}
    for name in dict.fromkeys([*settings, *decides]):
        if name != "transform" and decides.get(name) != settings.get(name):
            yield f"config.{name}: not what the identity was made from"


def _of_selection(record: Record) -> Iterator[str]:
    """The selected epoch is the best of its phase, and the validation metrics are its row of the history.

    Without a validation split it is the last one, and there are no such metrics.
    """
    history, selection, val = record.history, record.selection, record.metrics.get("val")
    if selection.kept == "last":
        if selection.epoch != len(history) - 1:
            yield f"selection.epoch: {selection.epoch} is not the last of {len(history)} epochs"
        if val is not None or "val" in record.splits:
            yield "selection.kept: the last epoch, and there is a validation split"
        return
    if val is None or not any(name.startswith("val/") for row in history for name in row):
        return
    if not 0 <= selection.epoch < len(history):
        yield f"selection.epoch: {selection.epoch}, and the history has {len(history)} epochs"
        return
    row = history[selection.epoch]
    of_epoch = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    for name in dict.fromkeys([*val, *of_epoch]):
        if val.get(name) != of_epoch.get(name):
            yield f"metrics.val.{name}: {val.get(name)}, and the selected epoch had {of_epoch.get(name)}"
    if selection.value is not None and row.get(selection.monitor) != selection.value:
        yield f"selection.value: {selection.value}, and the selected epoch had {row.get(selection.monitor)}"
    first = sum(phase.epochs for phase in record.phases[: selection.phase])
    sign = -1.0 if selection.mode == "min" else 1.0
    values = [sign * _number(epoch.get(selection.monitor)) for epoch in history[first:]]
    if any(value > sign * _number(row.get(selection.monitor)) for value in values):
        yield f"selection.epoch: {selection.epoch} is not the best epoch by {selection.monitor}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _of_tests(folder: Path, record: Record) -> Iterator[str]:
    """The test metrics, and what the record has of its task alone, follow from the predictions on file."""
    metrics = record.metrics.get("test")
    if PREDICTIONS_FILE not in record.files or not metrics or not (folder / PREDICTIONS_FILE).is_file():
        return
    from thawline.planning.settings import task_of

    try:
        task = task_of(record)
    except UsageError as error:
        yield f"{RECORD_FILE}: config.task: {error.problems[0].message}"
        return
    outputs = task.outputs(record.classes)
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        _ = arrays["index"]
        again, fields = task.recomputed(arrays, outputs), task.record_fields(arrays, outputs)
        per_output = task.per_output_on_file(arrays, outputs)
        scores = task.image_scores(arrays, outputs) if IMAGE_SCORE_ARRAY in arrays else None
    except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        yield f"{PREDICTIONS_FILE}: cannot be read: {error}"
        return
    test = record.splits.get("test")
    if test is not None and per_output != test.per_class:
        yield f"{PREDICTIONS_FILE}: its targets are not those of the test split"
    if scores is not None and not np.allclose(arrays[IMAGE_SCORE_ARRAY], scores, atol=_TOLERANCE, equal_nan=True):
        yield f"{PREDICTIONS_FILE}: its scores of the images are not those of its predictions"
    for name, value in fields.items():
        if getattr(record, name) != value:
            yield f"{RECORD_FILE}: {name}: not that of {PREDICTIONS_FILE}"
    for name, said in metrics.items():
        low, high = again.get(name, (-math.inf, math.inf))
        slack = _TOLERANCE * max(1.0, abs(high))
        if said is not None and math.isfinite(said) and not low - slack <= said <= high + slack:
            yield f"{RECORD_FILE}: metrics.test.{name}: {said:.6f}, and {PREDICTIONS_FILE} gives {(low + high) / 2:.6f}"
