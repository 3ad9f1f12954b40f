"""The benchmark on a CPU: its scripts read the runs of today."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize("k", ["1", "all"])
def test_the_training_of_a_run_is_measured_against_loops_with_less_in_them(train, k):
    run = Path("outputs/runs", train(f"freeze_policy.k={k}", "cache.mode=on").identity)
    script = REPOSITORY / "benchmarks" / "suffix_loop.py"
    done = subprocess.run([sys.executable, str(script), str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)
    assert set(seconds) == {"training", "lightning", "bare"}
    assert min(seconds.values()) > 0
