"""The base of every part of a record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RecordPart(BaseModel):
    """Base of every part of a record."""

    # A newer version may know more fields: what this one does not know, it does not read.
    model_config = ConfigDict(extra="ignore")
