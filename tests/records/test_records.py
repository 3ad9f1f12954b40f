"""A record is what its folder says, and whole."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from tests.make_records import record
from thawline.records import load_record, read_record, seal_of, write_record


def test_a_record_in_the_folder_of_another_run_is_none(tmp_path):
    written = record()
    folder, other = tmp_path / written.identity, tmp_path / ("0" * 20)
    write_record(folder, written)
    assert load_record(folder).identity == written.identity
    shutil.copytree(folder, other)
    assert read_record(other) is None
    with pytest.raises(ValueError, match=f"is the record of run {written.identity}"):
        load_record(other)


def test_a_record_is_written_with_the_seal_of_its_content(tmp_path):
    written = record(metrics={"val": {"top1": 0.5}, "test": {"top1": math.nan}})
    content = json.loads(write_record(tmp_path / written.identity, written).read_bytes())
    assert content["metrics"]["test"] == {"top1": None}
    seal = content.pop("seal")
    assert seal == seal_of(content)
    content["metrics"]["val"]["top1"] = 0.75
    assert seal != seal_of(content)
