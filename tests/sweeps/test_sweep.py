"""A grid through the command line: what runs, what is skipped, what is left behind, what is refused."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from tests.conftest import TINY, records
from thawline.records import load_record
from thawline.sweeps.progress import SweepProgress
from thawline.training.module import FitModule

GRID = ("freeze_policy.k=0,2", "seed=range(0,2)")


def test_a_sweep_runs_every_cell_and_reports(thawline):
    result = thawline("train", "-m", *TINY, *GRID, "sweep.name=tiny")
    assert result.status == 0, result.err
    manifest = json.loads(Path("outputs/sweeps/tiny/sweep.json").read_text())
    assert manifest["axes"] == {"freeze_policy.k": ["0", "2"], "seed": ["0", "1"]}
    assert len(manifest["cells"]) == len(records()) == 4
    assert {cell["identity"] for cell in manifest["cells"]} == {folder.name for folder in records()}
    report = Path("outputs/sweeps/tiny/report")
    for name in ("figure.png", "figure.pdf", "report.html", "report.md", "table.csv", "table.tex", "runs.csv"):
        assert (report / name).stat().st_size > 0
    assert "k" in result.out


def test_the_same_sweep_again_runs_only_what_is_missing(thawline):
    assert thawline("train", "-m", *TINY, *GRID).status == 0
    before = {folder: (folder / "record.json").stat().st_ino for folder in records()}
    gone = records()[0]
    (gone / "record.json").unlink()
    again = thawline("train", "-m", *TINY, *GRID)
    assert again.status == 0
    after = {folder: (folder / "record.json").stat().st_ino for folder in records()}
    assert after.keys() == before.keys()
    assert {folder for folder in after if after[folder] != before[folder]} == {gone}


@pytest.mark.slow
def test_a_wider_grid_shares_the_runs_of_the_narrower(thawline):
    assert thawline("train", "-m", *TINY, "freeze_policy.k=0", "seed=0,1", "sweep.report=false").status == 0
    before = {folder: (folder / "record.json").stat().st_mtime_ns for folder in records()}
    assert thawline("train", "-m", *TINY, *GRID, "sweep.report=false").status == 0
    after = {folder: (folder / "record.json").stat().st_mtime_ns for folder in records()}
    assert len(after) == 4
    assert {folder: after[folder] for folder in before} == before


def test_a_sweep_and_its_runs_alone_give_the_same_numbers(thawline, tmp_path):
    # Runs of one seed follow each other: they share a model, and the first one has moved more of it.
    grid = ("seed=range(0,2)", "freeze_policy.k=2,1")
    assert thawline("train", "-m", *TINY, *grid, "sweep.report=false").status == 0
    for folder in records():
        swept = load_record(folder)
        overrides = [item for item in swept.overrides if not item.startswith(("output_dir", "sweep"))]
        assert thawline("train", *overrides, "output_dir=alone").status == 0
        alone = load_record(tmp_path / "alone" / "runs" / folder.name)
        assert alone.metrics == swept.metrics
        assert alone.files == swept.files


def test_k_beyond_the_layer_groups_stops_the_sweep_before_the_first_run(thawline):
    result = thawline("train", "-m", *TINY, "freeze_policy.k=0,1,17")
    assert result.status == 2
    assert "k = 17 is more than the backbone's 5 layer groups" in result.err
    assert not Path("outputs/runs").exists()


def test_a_failing_cell_leaves_the_others_and_is_named(thawline, monkeypatch):
    from thawline.execution import run as experiment

    execute = experiment.execute

    def failing(run, **keywords):
        if run.settings.seed == 1:
            raise RuntimeError("the disk is on fire")
        return execute(run, **keywords)

    monkeypatch.setattr(experiment, "execute", failing)
    result = thawline("train", "-m", *TINY, "freeze_policy.k=1,2", "seed=0,1")
    assert result.status == 1
    assert len(records()) == 2
    assert result.err.count("the disk is on fire") == 2
    assert "freeze_policy.k=1 seed=1" in result.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("mode", "channels_last"), [("on", "false"), pytest.param("on", "true", marks=pytest.mark.slow), ("auto", "auto")]
)
def test_stored_values_change_no_number(train, thawline, mode, channels_last, tmp_path):
    plain = train("freeze_policy.k=2", "cache.mode=off", "head.dropout=0.3", "trainer.max_epochs=3",
                  f"trainer.channels_last={channels_last}")  # fmt: skip
    overrides = [item for item in plain.overrides if not item.startswith("cache.mode")]
    assert thawline("train", *overrides, f"cache.mode={mode}", "output_dir=stored").status == 0
    stored = load_record(tmp_path / "stored" / "runs" / plain.identity)
    if mode == "on":
        assert stored.phases[0].thaw_line.stored
    for row, other in zip(plain.history, stored.history, strict=True):
        for key in row.keys() - {"seconds", "phase"}:
            assert row[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6), key
    assert stored.metrics["test"] == pytest.approx(plain.metrics["test"], rel=1e-5, abs=1e-6)


def test_stored_values_are_as_narrow_as_asked(train):
    settings = ("freeze_policy.k=0", "cache.mode=on", "trainer.max_epochs=1")
    exact, narrow = train(*settings), train(*settings, "cache.dtype=bfloat16", "output_dir=narrow")
    held = [json.loads(file.read_bytes()) for file in Path().glob("*/cache/*/entry.json")]
    found = {
        a["stored_as"]: (a["dtype"], a["shape"]) for entry in held for a in entry["arrays"] if a["dtype"] != "uint8"
    }
    assert found["float32"] == found["bfloat16"] == ("float32", found["float32"][1])
    assert (exact.phases[0].thaw_line.dtype, narrow.phases[0].thaw_line.dtype) == ("float32", "bfloat16")
    losses = [run.history[0]["train/loss"] for run in (exact, narrow)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize(
    ("backbone", "choice", "expected"),
    [("test_resnet", "auto", False), ("test_efficientnet", "auto", True), ("test_resnet", "true", True),
     ("test_efficientnet", "false", False)],
)  # fmt: skip
def test_auto_lays_the_channels_last_where_convolutions_are_depthwise(train, monkeypatch, backbone, choice, expected):
    seen = []
    fit = Trainer.fit

    def watched(self, module, **keywords):
        weights = [value for value in module.model.parameters() if value.dim() == 4 and min(value.shape[1:]) > 1]
        seen.append(all(not w.is_contiguous() and w.is_contiguous(memory_format=torch.channels_last) for w in weights))
        fit(self, module, **keywords)

    monkeypatch.setattr(Trainer, "fit", watched)
    train(f"backbone={backbone}", f"trainer.channels_last={choice}", "freeze_policy=full", "trainer.max_epochs=1")
    assert seen == [expected]


def test_runs_of_a_sweep_have_their_own_layouts(thawline, monkeypatch):
    seen = []
    fit = Trainer.fit

    def watched(self, module, **keywords):
        seen.append(module.model.get_parameter("backbone.conv1.0.weight").stride())
        fit(self, module, **keywords)

    monkeypatch.setattr(Trainer, "fit", watched)
    layouts = ("trainer.channels_last=false,true", "freeze_policy=full", "trainer.max_epochs=1", "sweep.report=false")
    assert thawline("train", "-m", *TINY, *layouts).status == 0
    first, last = seen
    # Of (output, input, row, column), which moves one place in memory.
    assert (first.index(1), last.index(1)) == (3, 1)


def test_stored_views_are_the_augmented_run_itself(train, thawline, tmp_path):
    augmented = (
        "transform=flip_crop",
        "transform.size=32",
        "freeze_policy.k=1",
        "trainer.max_epochs=2",
        "cache.views=2",
    )
    plain = train(*augmented, "cache.mode=off")
    overrides = [item for item in plain.overrides if not item.startswith("cache.mode")]
    assert thawline("train", *overrides, "cache.mode=on", "output_dir=stored").status == 0
    stored = load_record(tmp_path / "stored" / "runs" / plain.identity)
    assert stored.phases[0].thaw_line.stored
    losses = [[row["train/loss"] for row in record.history] for record in (plain, stored)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][1]


@pytest.mark.slow
def test_what_a_run_leaves_is_freed_before_the_next_one_starts(thawline, monkeypatch):
    fits, alive = [], []
    init, start = FitModule.__init__, SweepProgress.start

    def remember(module, *arguments):
        init(module, *arguments)
        fits.append(weakref.ref(module))

    def look(progress, plan):
        alive.append([fit() is not None for fit in fits])
        start(progress, plan)

    monkeypatch.setattr(FitModule, "__init__", remember)
    monkeypatch.setattr(SweepProgress, "start", look)
    gc.disable()
    try:
        assert thawline("train", "-m", *TINY, "freeze_policy.k=1", "seed=0,1,2").status == 0
    finally:
        gc.enable()
    assert alive == [[], [False], [False, False]]
