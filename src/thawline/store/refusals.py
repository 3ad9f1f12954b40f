"""Why the store does not take an entry, and what is said of a damaged one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class StoreRefusedError(Exception):
    """The store cannot take an entry (`reason` says why); the caller computes on the fly."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class DamagedEntryError(Exception):
    """The files of an entry are not what was written."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn an error of the file system into a refusal. Never put around the caller's own code."""
    try:
        yield
    except OSError as error:
        raise StoreRefusedError(f"{what}: {error.strerror or error} ({error.filename or 'while writing'})") from error
