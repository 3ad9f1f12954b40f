"""The report's heat maps of drift and CKA, and its tables of corrupted test sets, from records alone."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from tests.conftest import TINY
from tests.make_records import RESNET18, record, scores, sweep
from tests.reports.pages import scripts_of
from thawline.reports import make_report
from thawline.reports.changes import mean_change, networks

HOSTILE = "</script><img src=x onerror=alert(1)>|$x^2$"


def diagnostics(k: int, factor: float = 1.0, *, groups=RESNET18, cka: bool = False) -> dict:
    """Drift (and CKA) that grows towards the output over the `k` groups that trained."""
    places = range(len(groups))
    moved = [max(0, place - len(groups) + k + 1) * 0.01 * factor for place in places]
    about = [{"index": place, "name": groups[place][0]} for place in places]
    found = {
        "drift": {
            "groups": [item | {"distance": 10 * m, "relative": m} for item, m in zip(about, moved, strict=True)],
            "backbone": {"distance": 1.0, "relative": 0.1},
            "head": {"distance": 1.0, "relative": None},
        }
    }
    if cka:
        found["cka"] = {
            "split": "val",
            "samples": 9,
            "groups": [item | {"cka": 1 - 3 * m} for item, m in zip(about, moved, strict=True)],
        }
    return found


def depths(outputs, ks=(0, 2, 9), *, cka=False, groups=RESNET18):
    def make(overrides, place):
        k, factor = int(place["freeze_policy.k"]), 1.0 + int(place["seed"])
        return record(overrides, k=k, groups=groups, diagnostics=diagnostics(k, factor, groups=groups, cka=cka))

    return sweep(outputs, {"freeze_policy.k": [str(k) for k in ks], "seed": ["0", "1"]}, make)


def rows_of(path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def test_what_training_changed_is_drawn_and_written(tmp_path):
    files = make_report(depths(tmp_path, cka=True))
    rows = rows_of(files.folder / "layers.csv")
    assert len(rows) == 3 * len(RESNET18)
    last = [row for row in rows if row["name"] == "layer4.1"]
    # Means over the seeds, whose factors are 1 and 2.
    assert [(row["freeze_policy.k"], float(row["relative_drift"])) for row in last] == [
        ("0", 0.0),
        ("2", pytest.approx(0.03)),
        ("9", pytest.approx(0.135)),
    ]
    assert [float(row["drift"]) for row in last] == pytest.approx([0.0, 0.3, 1.35])
    assert [float(row["cka"]) for row in last] == pytest.approx([1.0, 0.91, 0.595])
    assert {row["runs"] for row in rows} == {"2"}
    with Image.open(files.folder / "layers.png") as figure:
        assert figure.width == 2100
    assert (files.folder / "layers.pdf").read_bytes().startswith(b"%PDF")
    page = files.markdown.read_text()
    assert "## What training changed" in page
    assert "](layers.png)" in page
    assert "Linear CKA" in page
    # The figure, the learning curves, and the map.
    assert files.html.read_text().count("data:image/svg+xml;base64,") == 3


def test_the_map_has_the_means_and_a_dash_where_there_is_none(tmp_path):
    study = make_report(depths(tmp_path)).study
    ((groups, rows),) = networks(study).items()
    assert groups == tuple(name for name, _ in RESNET18)
    assert [row.depth_value for row in rows] == ["0", "2", "9"]
    assert mean_change(rows[1], 8, lambda change: change.relative) == pytest.approx(0.03)
    assert mean_change(rows[1], 6, lambda change: change.relative) == 0.0
    assert mean_change(rows[1], 6, lambda change: change.cka) != mean_change(rows[1], 6, lambda change: change.cka)


def test_without_cka_the_caption_speaks_of_drift_alone(tmp_path):
    page = make_report(depths(tmp_path)).markdown.read_text()
    assert "Relative drift" in page
    assert "CKA" not in page


@pytest.mark.parametrize("which", ["none", "probes"])
def test_there_is_no_map_where_there_is_nothing_to_see(tmp_path, which):
    if which == "probes":
        folder = depths(tmp_path, (0,))
    else:
        folder = sweep(tmp_path, {"seed": ["0", "1"]}, lambda overrides, place: record(overrides, k=2))
    files = make_report(folder)
    assert "What training changed" not in files.markdown.read_text()
    assert not (files.folder / "layers.png").exists()


def test_each_kind_of_network_has_a_map_of_its_own(tmp_path):
    deep = [(f"blocks.{place}", 1000 * (place + 1)) for place in range(40)]
    networks_of = {"resnet18": RESNET18, "deep": deep}

    def make(overrides, place):
        groups = networks_of[place["backbone"]]
        return record(overrides, k=3, groups=groups, diagnostics=diagnostics(3, groups=groups))

    files = make_report(sweep(tmp_path, {"backbone": ["resnet18", "deep"], "seed": ["0", "1"]}, make))
    assert (files.folder / "layers-1.png").exists()
    assert (files.folder / "layers-2.pdf").exists()
    assert "](layers-2.png)" in files.markdown.read_text()
    assert len(rows_of(files.folder / "layers.csv")) == len(RESNET18) + 40


def test_the_same_records_give_the_same_bytes(tmp_path):
    folder = depths(tmp_path, cka=True)
    first = make_report(folder, tmp_path / "one")
    again = make_report(folder, tmp_path / "two")
    for name in ("layers.png", "layers.pdf", "layers.csv", "report.html"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()


def test_hostile_names_of_groups_and_settings_stay_text(tmp_path):
    groups = [(f"{HOSTILE}{place}", 1000) for place in range(4)]

    def make(overrides, place):
        return record(overrides, k=2, groups=groups, diagnostics=diagnostics(2, groups=groups, cka=True))

    files = make_report(sweep(tmp_path, {"freeze_policy": [HOSTILE, "full"], "seed": ["0"]}, make))
    page = files.html.read_text()
    assert "<img src=x" not in page
    # Its data and its three scripts are the page's only ones.
    assert page.count("<script") == 1 + len(scripts_of(files.html)) == 4
    assert rows_of(files.folder / "layers.csv")[0]["name"] == f"{HOSTILE}0"


@pytest.mark.parametrize(
    "damage",
    [
        {"drift": {"groups": [{"distance": 1.0, "relative": 0.1}]}},
        {"drift": {"groups": "many"}},
        {"cka": {"groups": [{"value": 1.0}]}},
    ],
)
def test_diagnostics_that_do_not_fit_the_record_make_it_a_damaged_one(tmp_path, damage):
    folder = depths(tmp_path, (2,))
    file = sorted((tmp_path / "runs").glob("*/record.json"))[0]
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "diagnostics": damage}))
    study = make_report(folder).study
    assert study.missing == 1
    assert "damaged record" in next(cell.problem for cell in study.sweep.cells if cell.run is None)


# Corrupted test sets ----------


def corrupted(outputs, names=("contrast", "jpeg"), strengths=(1, 5)):
    def make(overrides, place):
        base = 0.9 if place["freeze_policy"] == "full" else 0.8
        sets = {
            f"test/{name}-{s}": scores(base - 0.1 * s * (1 + (name == "jpeg"))) for name in names for s in strengths
        }
        mean = sum(values["top1"] for values in sets.values()) / len(sets)
        metrics = {"val": scores(base), "test": scores(base), **sets, "test/corruptions": scores(mean)}
        return record(overrides, metrics={**metrics, "test/sketches": scores(0.3)})

    return sweep(outputs, {"freeze_policy": ["full", "linear_probe"], "seed": ["0", "1"]}, make)


def test_corrupted_sets_are_told_by_corruption_and_by_strength(tmp_path):
    files = make_report(corrupted(tmp_path))
    page = files.markdown.read_text().replace("**", "")
    # 0.9 less 0.1 and 0.5 for contrast, twice that for JPEG.
    assert "| setting | test | corruptions | sketches |" in page
    assert "| full | 0.900 ± 0.000 | 0.450 ± 0.000 | 0.300 ± 0.000 |" in page
    assert "| setting | test | contrast | jpeg |" in page
    assert "| full | 0.900 ± 0.000 | 0.600 ± 0.000 | 0.300 ± 0.000 |" in page
    assert "| setting | test | 1 | 5 |" in page
    assert "| linear_probe | 0.800 ± 0.000 | 0.650 ± 0.000 | 0.050 ± 0.000 |" in page


def test_the_main_table_has_in_and_out_of_distribution_side_by_side(tmp_path):
    files = make_report(corrupted(tmp_path))
    heading = files.table_md.read_text().splitlines()[0]
    assert "| test top1 |" in heading
    assert "| test/corruptions top1 | test/sketches top1 |" in heading
    assert "jpeg" not in heading
    row = rows_of(files.table_csv)[0]
    assert float(row["test/jpeg-5_top1_mean"]) == pytest.approx(-0.1)


def test_one_corruption_at_one_strength_needs_no_further_table(tmp_path):
    page = make_report(corrupted(tmp_path, ("jpeg",), (2,))).markdown.read_text()
    assert "By corruption" not in page
    assert "By strength" not in page
    assert "| setting | test | corruptions | sketches |" in page


@pytest.mark.slow
def test_a_real_sweep_tells_its_drift_and_its_corruptions(thawline, tmp_path):
    grid = ("freeze_policy.k=0,2", "seed=0,1", "sweep.name=real", "diagnostics.cka=true")
    shift = ("shift=corruptions", "shift.corruptions.names=[contrast,jpeg]", "shift.corruptions.strengths=[1,5]")
    result = thawline("train", "-m", *TINY, *grid, *shift)
    assert result.status == 0, result.err
    folder = tmp_path / "outputs" / "sweeps" / "real" / "report"
    rows = rows_of(folder / "layers.csv")
    trained = {(row["freeze_policy.k"], int(row["layer_group"])) for row in rows if float(row["drift"]) > 0}
    assert trained == {("2", 3), ("2", 4)}
    assert (folder / "layers.png").exists()
    page = (folder / "report.md").read_text()
    assert "| setting | test | contrast | jpeg |" in page
    assert "test/corruptions top1" in (folder / "table.md").read_text()
