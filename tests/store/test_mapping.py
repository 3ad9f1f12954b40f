"""Memory does not grow with an entry, nor the files that are mapped."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.store.small_entries import small
from thawline.store import stored_arrays

LINUX = Path("/proc/self/maps").exists()


@pytest.mark.skipif(not LINUX, reason="reads /proc/self/maps")
def test_files_are_mapped_up_to_a_bound(store, monkeypatch):
    monkeypatch.setattr(stored_arrays, "MAPPED_BYTES", stored_arrays._mapped_bytes._taken + 2500)

    def mapped():
        return sum(str(store.folder) in line for line in Path("/proc/self/maps").read_text().splitlines())

    opened = []
    for name, expected in (("a", 1), ("b", 2), ("c", 2)):
        spec, produce = small(name)
        opened.append(store.build(spec, produce, 10))
        assert mapped() == expected
        assert torch.equal(opened[-1].read([4, 2])[0], torch.from_numpy(produce(np.array([4, 2]))[0]))
    opened[0].close()
    assert mapped() == 1
    spec, produce = small("d")
    opened.append(store.build(spec, produce, 10))
    assert mapped() == 2


MEMORY = """
    import sys
    from pathlib import Path
    import numpy as np, torch
    from thawline.store.store import ArraySpec, EntrySpec, Store

    def status(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))

    store = Store(Path(sys.argv[1]))
    def entry(samples):
        spec = EntrySpec({}, (ArraySpec("x", (12_800,), "float32"),), samples)
        return store.build(spec, lambda rows: (torch.ones(len(rows), 12_800) * torch.from_numpy(rows)[:, None],), 64)
    entry(64).read(np.arange(64))
    files, peak = status("RssFile"), status("VmHWM")
    large = entry(3_200)
    assert large.spec.array_bytes == 163_840_000
    order = np.random.default_rng(0).permutation(3_200)
    for start in range(0, 3_200, 64):
        rows = order[start : start + 64]
        assert (large.read(rows)[0][:, -1].numpy() == rows).all()
    print(status("RssFile") - files, status("VmHWM") - peak)
"""


@pytest.mark.skipif(not LINUX, reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_entry(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    file_megabytes, peak_megabytes = map(int, done.stdout.split())
    assert file_megabytes < 20
    assert peak_megabytes < 60
