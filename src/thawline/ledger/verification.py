"""Whether a run's folder still is what its record says: the record itself, every file's hash, and what follows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from thawline.files import sha256_of_file
from thawline.records import RECORD_FILE, Record, load_record

PREDICTIONS_FILE = "predictions.npz"
_TOP1_TOLERANCE = 1e-6


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
    return [*_of_files(folder, record), *_of_counts(record), *_of_predictions(folder, record)]


def _of_files(folder: Path, record: Record) -> Iterator[str]:
    for name, digest in record.files.items():
        if Path(name).name != name:
            yield f"{name!r}: not a file of the run's folder"
        elif not (folder / name).is_file():
            yield f"{name}: missing"
        elif sha256_of_file(folder / name) != digest:
            yield f"{name}: its SHA-256 is not the record's"


def _of_counts(record: Record) -> Iterator[str]:
    counts = record.parameters
    if counts.frozen + counts.trainable != counts.total:
        yield f"{RECORD_FILE}: {counts.frozen} frozen + {counts.trainable} trainable parameters are not {counts.total}"
    tested = record.splits["test"].samples if "test" in record.splits else 0
    judged = sum(sum(row) for row in record.confusion_matrix)
    if record.confusion_matrix and judged != tested:
        yield f"{RECORD_FILE}: the confusion matrix counts {judged} samples, the test split has {tested}"
    for name, split in record.splits.items():
        if sum(split.per_class) != split.samples:
            yield f"{RECORD_FILE}: the classes of {name} add up to {sum(split.per_class)}, not {split.samples}"


def _of_predictions(folder: Path, record: Record) -> Iterator[str]:
    """The test accuracy follows from the predictions on file."""
    top1 = record.metrics.get("test", {}).get("top1")
    if PREDICTIONS_FILE not in record.files or top1 is None or not (folder / PREDICTIONS_FILE).is_file():
        return
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as stored:
            right = stored["probabilities"].argmax(axis=1) == stored["label"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        yield f"{PREDICTIONS_FILE}: cannot be read: {error}"
        return
    if abs(float(right.mean()) - top1) > _TOP1_TOLERANCE:
        yield f"{PREDICTIONS_FILE}: gives a test top1 of {right.mean():.6f}, the record says {top1:.6f}"
