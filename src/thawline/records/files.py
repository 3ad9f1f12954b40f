"""Records on disk: the folder, identity and seal of a run; writing and reading its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from thawline.errors import usage_error
from thawline.files import finite, is_temporary, read_json, write_json
from thawline.records.names import RECORD_FILE
from thawline.records.record import Record

IDENTITY_LENGTH = 20


def run_folder(output_dir: Path, identity: str) -> Path:
    """The folder of the run with this identity."""
    return output_dir / "runs" / identity


def identity_of(decides: Mapping[str, Any]) -> str:
    """The identity of a run: a hash of everything that decides its numbers, as hexadecimal digits."""
    return _digest(decides)[:IDENTITY_LENGTH]


def seal_of(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a record's content, as read from its file, without the seal itself: any edit changes it."""
    return _digest({key: value for key, value in content.items() if key != "seal"})


def _digest(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_record(folder: Path, record: Record) -> Path:
    """Write the record of the run in `folder`, atomically and sealed; a run is done when this file exists."""
    path = folder / RECORD_FILE
    content = finite(record.model_dump(mode="json"))
    write_json(path, {**content, "seal": seal_of(content)})
    return path


def read_record(folder: Path) -> Record | None:
    """The valid record of the run in `folder`, or None where the run has none or a damaged one.

    Raises:
        UsageError: the machine cannot read it now; a run is not made again for that.
    """
    try:
        return load_record(folder)
    except (OSError, ValueError, ValidationError) as error:
        if is_temporary(error):
            raise usage_error("", f"{folder / RECORD_FILE}: cannot be read now: {error}") from error
        return None


def load_record(folder: Path) -> Record:
    """The record of the run in `folder`.

    Raises:
        OSError: there is none.
        ValueError: it is damaged, or it is not the record of this folder's run.
    """
    record = Record.model_validate(read_json(folder / RECORD_FILE))
    if record.identity != folder.name:
        raise ValueError(f"{folder / RECORD_FILE} is the record of run {record.identity}")
    return record


def require_record(folder: Path) -> Record:
    """The record of the run in `folder`, or a `UsageError` that says what is wrong with it."""
    try:
        return load_record(folder)
    except FileNotFoundError:
        raise usage_error("", f"{folder / RECORD_FILE}: no such record") from None
    except (OSError, ValueError) as error:
        raise usage_error("", f"{folder / RECORD_FILE}: not a valid record: {error}") from None
