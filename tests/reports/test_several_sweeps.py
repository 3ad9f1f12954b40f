"""Reports of several sweeps: which of their settings become axes, and that a run of two sweeps counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.make_records import PROVENANCE, record, scores, sweep
from tests.reports.depth_sweeps import rows_of
from thawline.records import Record
from thawline.reports.joining import load_sweeps
from thawline.reports.study import Study, make_study

SEEDS = ["0", "1", "2"]


def made(overrides: list[str], place: dict[str, str], **changes: Any) -> Record:
    """A run whose accuracy is 0.5, a tenth more for each group that trains, a hundredth more for each seed."""
    k = int(place.get("freeze_policy.k", 0))
    level = 0.5 + 0.1 * k + 0.01 * int(place["seed"])
    return record(overrides, k=k, metrics={"val": scores(level), "test": scores(level - 0.01)}, **changes)


def depths(name: str, k: list[str], seeds: list[str] = SEEDS, *constant: str, **settings: Any) -> Path:
    """A sweep over `k` and `seeds` whose cells also have the `constant` overrides; `settings` decide its numbers.

    `data` is the fingerprint of its images.
    """
    provenance = {**PROVENANCE, "data_fingerprint": settings.pop("data", "0" * 64)}

    def make(overrides: list[str], place: dict[str, str]) -> Record:
        overrides.extend([*constant, "logger=none", f"sweep.name={name}"])
        parts = {"settings": {"seed": int(place["seed"]), "freeze_policy": {"k": int(place["freeze_policy.k"])}}}
        parts["settings"] |= settings
        made_run = made(overrides[:-1], place, identity_parts=parts, provenance=provenance)
        return made_run.model_copy(update={"overrides": list(overrides)})

    return sweep(Path("outputs"), {"freeze_policy.k": k, "seed": seeds}, make, name)


def study_of(*folders: Path) -> Study:
    return make_study(load_sweeps(folders))


def test_a_run_of_two_sweeps_counts_once_and_what_both_vary_stays_the_axis():
    study = study_of(depths("low", ["0", "1"]), depths("high", ["1", "4"]))
    assert study.sweep.names == ("low", "high")
    assert (study.axes.depth, study.axes.replicates) == ("freeze_policy.k", ("seed",))
    assert (study.axes.conditions, study.axes.choices) == ((), ())
    assert [(row.depth, len(row.runs), row.repeated) for row in study.rows] == [(0, 3, 0), (1, 3, 0), (4, 3, 0)]
    assert len(study.sweep.runs) == 9


def test_seeds_of_two_sweeps_are_replicates_of_one_row():
    study = study_of(depths("first", ["0", "1"], ["0", "1"]), depths("later", ["0", "1"], ["2", "10"]))
    assert study.sweep.axes["seed"] == ("0", "1", "2", "10")
    assert [[key for (key,) in row.runs] for row in study.rows] == [["0", "1", "2", "10"]] * 2


def test_a_setting_in_which_sweeps_differ_is_an_axis():
    fast = depths("fast", ["0", "1"], SEEDS, "optimizer.lr=1e-2", optimizer={"lr": 0.01})
    slow = depths("slow", ["0", "1"], SEEDS, optimizer={"lr": 0.001})
    study = study_of(fast, slow)
    assert study.axes.choices == ("optimizer.lr",)
    assert {row.choice for row in study.rows} == {("0.01",), ("0.001",)}
    assert [group.chosen.label for group in study.conditions] == ["lr=0.01, k = 1"]


def test_a_value_that_one_sweep_gives_and_the_other_has_by_default_is_the_same():
    said = depths("said", ["0"], ["0", "1"], "optimizer.lr=1e-3", "head=linear", optimizer={"lr": 0.001}, head={"d": 0})
    default = depths("default", ["0"], ["2", "3"], optimizer={"lr": 0.001}, head={"d": 0})
    (row,) = study_of(said, default).rows
    assert len(row.runs) == 4


def folder_of_images(name: str, root: str, data: str, seeds: list[str] = SEEDS) -> Path:
    said = ["dataset=image_folder", f"dataset.root={root}"]
    return depths(name, ["0", "1"], seeds, *said, dataset={"_target_": "ImageFolder"}, data=data)


def test_data_sets_are_conditions_and_a_folder_is_called_by_its_name():
    digits = depths("digits", ["0", "1"], SEEDS, "dataset=digits", dataset={"_target_": "Digits"})
    study = study_of(digits, folder_of_images("flowers", "/data/sets/flowers", "f"))
    assert study.axes.conditions == ("dataset",)
    assert study.axes.data_sets
    assert [group.label for group in study.conditions] == ["digits", "flowers"]
    assert [len(group.rows) for group in study.conditions] == [2, 2]


@pytest.mark.parametrize("said", ["dataset=image_folder", "experiments.file=flowers"])
def test_a_folder_is_called_alike_by_reports_of_one_sweep_and_of_several(said):
    def over_roots(name: str, *roots: str) -> Path:
        def make(overrides: list[str], place: dict[str, str]) -> Record:
            overrides.extend([said, f"sweep.name={name}"])
            parts = {"settings": {"seed": int(place["seed"]), "dataset": {"_target_": "thawline.datasets.ImageFolder"}}}
            provenance = {**PROVENANCE, "data_fingerprint": place["dataset.root"]}
            made_run = made(overrides[:-1], place, identity_parts=parts, provenance=provenance)
            return made_run.model_copy(update={"overrides": list(overrides)})

        return sweep(Path("outputs"), {"dataset.root": list(roots), "seed": SEEDS}, make, name)

    two = over_roots("two", "/data/flowers5", "pets3")
    assert [group.label for group in study_of(two).conditions] == ["flowers5", "pets3"]
    one = over_roots("one", "/data/birds")
    assert [group.label for group in study_of(two, one).conditions] == ["flowers5", "pets3", "birds"]
    alike = over_roots("alike", "/a/birds", "/b/birds")
    assert [group.label for group in study_of(alike).conditions] == ["a/birds", "b/birds"]


def test_folders_of_one_name_have_as_much_of_their_paths_as_tells_them_apart():
    roots = ["/data/a/flowers", "/data/b/flowers", "birds", "/data/digits"]
    folders = [folder_of_images(f"set-{number}", root, root) for number, root in enumerate(roots)]
    digits = depths("digits", ["0", "1"], SEEDS, "dataset=digits", dataset={"_target_": "Digits"})
    study = study_of(*folders, digits)
    labels = ["a/flowers", "b/flowers", "birds", "data/digits", "digits"]
    assert [group.label for group in study.conditions] == labels
    # Sets that lie in one folder of many are told apart by their own names.
    sets = [
        depths(name, ["0"], SEEDS, f"dataset={name}", "dataset.root=/data", dataset={"name": name})
        for name in ("dtd", "svhn")
    ]
    assert [group.label for group in study_of(*sets).conditions] == ["dtd", "svhn"]


def test_two_ways_to_one_folder_are_one_data_set():
    near = folder_of_images("near", "flowers", "f", ["0"])
    far = folder_of_images("far", "/data/flowers", "f", ["1"])
    study = study_of(near, far)
    assert (study.axes.conditions, [len(row.runs) for row in study.rows]) == ((), [2, 2])


def test_where_sweeps_differ_in_what_no_command_says_each_is_a_condition():
    old = depths("old", ["0", "1"], ["0", "1"], loss={"label_smoothing": 0.0})
    new = depths("new", ["0", "1"], ["2", "3"], loss={"label_smoothing": 0.1})
    study = study_of(old, new)
    assert study.axes.conditions == ("sweep",)
    assert [group.label for group in study.conditions] == ["old", "new"]
    assert [len(row.runs) for row in study.rows] == [2, 2, 2, 2]


def test_the_verb_makes_one_report_of_several_sweeps(thawline):
    depths("low", ["0", "1"])
    grid = {"freeze_policy.k": ["4", "9"], "seed": SEEDS}

    def all_but_one(overrides: list[str], place: dict[str, str]) -> Record | None:
        return None if place == {"freeze_policy.k": "9", "seed": "2"} else made(overrides, place)

    high = sweep(Path("outputs"), grid, all_but_one, "high")
    result = thawline("report", "low", "high")
    assert result.status == 0, result.err
    folder = Path("outputs/reports/low+high")
    assert str(folder / "report.html") in result.out
    assert "1 of 12 cells has no valid record" in " ".join(result.out.split())
    page = (folder / "report.md").read_text()
    assert page.startswith("# Sweeps low, high\n")
    assert "thawline train -m freeze_policy.k=0,1 seed=0,1,2\nthawline train -m freeze_policy.k=4,9" in page
    assert [row["k"] for row in rows_of(folder / "table.csv")] == ["0", "1", "4", "9"]
    assert not (high / "report").exists()
    # The same sweep twice is that sweep.
    assert thawline("report", "low", "low", "--csv").status == 0
    assert Path("outputs/sweeps/low/report/table.csv").is_file()


def test_an_unknown_one_among_several_is_named(thawline):
    depths("low", ["0"])
    result = thawline("report", "low", "lwo")
    assert (result.status, result.err[:47]) == (2, "error: sweep: no sweep 'lwo'; nearest: low (1 s")


@pytest.mark.parametrize("count", [2, 30])
def test_the_folder_of_a_report_is_named_after_its_sweeps(count, thawline):
    names = [f"sweep-{number}" for number in range(count)]
    for name in names:
        depths(name, ["0"], ["0"])
    assert thawline("report", *names, "--csv").status == 0
    (folder,) = Path("outputs/reports").iterdir()
    assert len(folder.name) <= 100
    assert folder.name == "sweep-0+sweep-1" if count == 2 else folder.name.startswith("sweep-0+sweep-1+sweep-2+")
