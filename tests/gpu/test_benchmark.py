"""The benchmark for a GPU runs from end to end, on tiny networks, and leaves a page when its time is up."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from benchmarks.gpu import Check
from benchmarks.gpu_figures import Figures
from benchmarks.jobs import Setup
from benchmarks.page import Page

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def benchmark(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    section = page.split(f"## {heading}")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in cells[2:]}


def test_every_figure_is_measured_on_tiny_networks(tmp_path):
    done = benchmark(tmp_path, "--seeds", "2", "--output", str(tmp_path / "performance_gpu.md"))
    assert done.returncode == 0, done.stderr[-3000:]
    page, figures = (
        (tmp_path / "performance_gpu.md").read_text(),
        json.loads((tmp_path / "performance_gpu.json").read_text()),
    )
    assert "Not measured" not in page
    assert "Failed" not in page
    half, single = "test_vit at 32 px, bf16-mixed", "test_resnet at 32 px, 32-true, channels last"
    assert list(figures) == [half, single, "Other ways to take a suffix's steps"]
    for title in (half, single):
        table = rows(page, title)
        for k in ("0", "1", "2", "4", "all"):
            assert "-" not in table[k][:3], (title, k)
        jobs = figures[title]["figures"]["plain"]
        assert [(job["job"], job["read"]) for job in jobs] == [
            (k, read) for read in ("memory", "files") for k in range(5)
        ]
        runs = figures[title]["figures"]["thawline"]
        assert {(run["k"], run["seed"]) for run in runs} == {
            (k, s) for k in ("0", "1", "2", "4", "all") for s in (0, 1)
        }
    assert "0, 64 rates and decays on the store" in rows(page, single)
    assert "all, augmented by processes" in rows(page, half)
    ways = {way["way"]: way for way in figures["Other ways to take a suffix's steps"]["figures"]["ways"]}
    assert ways["as it is"]["seconds"] > 0
    assert ways["five seeds by vmap"]["seconds"] > 0
    assert ways["compiled"]["seconds"] > 0
    assert ways["as a CUDA graph"]["why_not"] == "CUDA graphs need a GPU"


@pytest.mark.parametrize("minutes", ["0.001", "0.3"], ids=["before it began", "in between"])
def test_when_the_time_is_up_the_page_says_what_is_missing(tmp_path, minutes):
    done = benchmark(tmp_path, "--minutes", minutes, "--output", str(tmp_path / "performance_gpu.md"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = (tmp_path / "performance_gpu.md").read_text().replace("\n", " ")
    assert "Not measured, since time was up: " in said
    assert "the plain way of test_resnet at 32 px, 32-true, channels last" in said


def test_what_fails_is_on_the_page_and_costs_nothing_else(tmp_path):
    setups = (Setup("test_vit", "test_vit", 32, precision="bf16-mixed"), Setup("test_resnet", "test_resnet", 32))
    figures = [Figures(setup, 1, "float32", 1e9) for setup in setups]
    page = Page(tmp_path / "performance_gpu.md", [each.title for each in figures])
    text = Check(page, tmp_path, time.perf_counter() + 200, (tmp_path / "no images", "nothing"), figures).run()
    for each in figures:
        section = text.split(f"## {each.title}")[1].split("## ")[0]
        assert "Failed: the sweep: " in section
        assert "Failed: the plain way: " in section
    assert "Not measured" not in text


def test_a_cpu_does_not_write_the_page_of_a_gpu(tmp_path):
    done = benchmark(tmp_path)
    assert done.returncode == 2
    assert "say where to write: --output PATH" in done.stderr
