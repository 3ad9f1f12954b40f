"""The time, as records write it."""

from __future__ import annotations

import datetime
from typing import Literal


def now(precision: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=precision)
