"""A store that is smaller than the data: the same numbers whatever it keeps, and values before decoded images."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.conftest import records
from thawline.store import decoded_images
from thawline.store.store import Store

_SIZE = ("cache.mode=on", "transform.size=[32,32]")


@pytest.fixture
def run(train, monkeypatch):
    """Train with a budget; the record, the weights' bits, and the titles of what the store holds."""
    monkeypatch.setattr(decoded_images, "IN_MEMORY_BYTES", 0)

    def once(budget, *more):
        place = f"out{budget}{len(more)}"
        record = train(*_SIZE, f"cache.max_bytes={budget}", f"output_dir={place}", f"cache.dir={place}/cache", *more)
        (folder,) = records(place)
        kept = sorted(status.title for status in Store(Path(place) / "cache").entries())
        bits = {name: value.tobytes() for name, value in load_file(folder / "best.safetensors").items()}
        return record, bits, kept

    return once


def losses(record):
    return [row["train/loss"] for row in record.history]


def test_values_come_before_decoded_images_and_no_number_depends_on_the_budget(run):
    record, bits, kept = run(10**9, "freeze_policy.k=1")
    line = record.phases[0].thaw_line
    title = f"thaw line before {line.line}"
    assert (line.stored, kept) == (True, ["decoded images, 32 x 32", title])
    other, other_bits, kept = run(line.bytes, "freeze_policy.k=1")
    assert (other.phases[0].thaw_line.stored, kept) == (True, [title])
    assert (losses(other), other.metrics, other_bits) == (losses(record), record.metrics, bits)
    other, _, kept = run(1000, "freeze_policy.k=1")
    assert (other.phases[0].thaw_line.stored, kept) == (False, [])
    # The frozen side is computed in other batches, which rounds otherwise.
    assert losses(other) == pytest.approx(losses(record), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["squash", "flip_crop"])
def test_images_that_are_decoded_at_each_read_are_the_same(run, transform):
    options = ("freeze_policy.k=all", f"transform={transform}")
    record, bits, kept = run(10**9, *options)
    assert kept == ["decoded images, 32 x 32"]
    for more in ((), ("trainer.workers=2",)):
        other, other_bits, kept = run(1000, *options, *more)
        assert (losses(other), other.metrics, other_bits, kept) == (losses(record), record.metrics, bits, [])
