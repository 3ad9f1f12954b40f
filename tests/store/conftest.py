"""An empty store and both ways of reading it, for its tests."""

from __future__ import annotations

import pytest

from thawline.store import stored_arrays
from thawline.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", 10**9)


@pytest.fixture(params=["mapped", "by position"])
def way(request, monkeypatch):
    """Both ways of reading."""
    if request.param == "by position":
        monkeypatch.setattr(stored_arrays, "MAPPED_BYTES", 0)
    return request.param
