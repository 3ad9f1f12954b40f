"""A record is what its folder says, and whole."""

from __future__ import annotations

import json
import math
import resource
import shutil

import numpy as np
import pytest

from tests.make_records import record
from thawline.errors import UsageError
from thawline.records import load_record, read_record, seal_of, write_record
from thawline.records.metrics import exact_share


def test_a_record_in_the_folder_of_another_run_is_none(tmp_path):
    written = record()
    folder, other = tmp_path / written.identity, tmp_path / ("0" * 20)
    write_record(folder, written)
    assert load_record(folder).identity == written.identity
    shutil.copytree(folder, other)
    assert read_record(other) is None
    with pytest.raises(ValueError, match=f"is the record of run {written.identity}"):
        load_record(other)


def test_a_record_that_cannot_be_read_now_is_not_taken_for_none(tmp_path):
    """Its run would be made again."""
    written = record()
    folder = tmp_path / written.identity
    write_record(folder, written)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(UsageError, match=r"record\.json: cannot be read now: .*Too many open files"):
            read_record(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_record(folder) == load_record(folder)


def test_a_record_is_written_with_the_seal_of_its_content(tmp_path):
    written = record(metrics={"val": {"top1": 0.5}, "test": {"top1": math.nan}})
    content = json.loads(write_record(tmp_path / written.identity, written).read_bytes())
    assert content["metrics"]["test"] == {"top1": None}
    seal = content.pop("seal")
    assert seal == seal_of(content)
    content["metrics"]["val"]["top1"] = 0.75
    assert seal != seal_of(content)


@pytest.mark.parametrize("samples", [1, 36, 269, 10_000, 1_000_000])
def test_a_share_in_single_precision_is_read_as_the_fraction(samples):
    for count in {0, 1, samples // 3, samples // 2, samples - 1, samples}:
        stored = float(np.float32(count) / np.float32(samples))
        assert exact_share(stored, samples) == count / samples


@pytest.mark.parametrize("value", [0.81234, 1 / 3, -0.5, 1.5, 1e300, math.inf, 0.5 + 2**-30])
def test_what_is_no_share_in_single_precision_stays_as_it_is(value):
    assert exact_share(value, 100) == value


def test_scores_are_those_of_the_split(tmp_path):
    made = record(metrics={"val": {"top1": float(np.float32(91 / 100)), "loss": 0.3}, "test": {"top1": None}})
    assert made.scores("val") == {"top1": 0.91, "loss": 0.3}
    assert made.scores("test") == {"top1": None}
    assert made.metrics["val"]["top1"] != 0.91
