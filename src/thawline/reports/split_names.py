"""The splits that a report shows, by their names in records and in words."""

from __future__ import annotations

VALIDATION = "val"
TEST = "test"
SPLIT_LABELS = {VALIDATION: "validation", TEST: "test"}
