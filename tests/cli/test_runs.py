"""`thawline runs`: every run over all sweeps once, the conditions on them, and the files for other programs."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from pathlib import Path

import pytest

from tests.make_records import record, scores, sweep
from thawline.records import Record

OUTPUTS = Path("outputs")
LEVELS = {"resnet18": 0.80, "mobilenet": 0.70}
RATES = {"0.001": 0.00, "0.01": 0.05}


def made(overrides: list[str], place: dict[str, str]) -> Record:
    """A run of 0.70, 0.75 or 0.80, 0.85 on test, two points more on validation."""
    name, rate = place["backbone"], place["optimizer.lr"]
    level = LEVELS[name] + RATES[rate]
    return record(
        [*overrides, "trainer.max_epochs=3", "logger=none"],
        metrics={"val": scores(level + 0.02), "test": scores(level)},
        config={
            "backbone": {"_target_": "thawline.backbones.TimmBackbone", "name": name, "weights": None},
            "optimizer": {"lr": float(rate), "betas": [0.9, 0.999], "nesterov": True},
            "trainer": {"max_epochs": 3},
        },
        provenance={**record().provenance.model_dump(), "finished_at": f"2026-11-0{len(name) % 7 + 1}T10:00:00+00:00"},
    )


@pytest.fixture
def outputs() -> Path:
    """Two sweeps that share the runs of resnet18 at 0.01; one run failed, and one has not begun."""
    rates = {"backbone": ["resnet18"], "optimizer.lr": list(RATES)}
    sweep(OUTPUTS, rates, made, "rates")
    networks = {"backbone": ["resnet18", "mobilenet"], "optimizer.lr": ["0.01"]}
    sweep(OUTPUTS, networks, made, "networks")
    both = {"backbone": ["vgg11", "vgg16"], "optimizer.lr": ["0.01"]}
    folder = sweep(OUTPUTS, both, lambda overrides, place: None, "waiting")
    failed = json.loads((folder / "sweep.json").read_text())["cells"][0]["identity"]
    state = {"state": "failed", "attempt": 1, "since": "2026-11-09T00:00:00+00:00", "error": "ValueError: no weights"}
    (OUTPUTS / "runs" / failed).mkdir()
    (OUTPUTS / "runs" / failed / "state.json").write_text(json.dumps(state))
    (OUTPUTS / "runs" / failed / "config.json").write_text(json.dumps({"backbone": {"name": "vgg11"}}))
    return OUTPUTS


def listed(thawline, *arguments: str) -> list[dict]:
    result = thawline("runs", "--json", *arguments)
    assert result.status == 0, result.err
    return json.loads(result.out)


def named(rows: list[dict]) -> list[tuple[str, str]]:
    return [(row["backbone"], str(row["optimizer.lr"])) for row in rows]


def test_each_run_is_there_once_with_all_its_sweeps(thawline, outputs):
    rows = {(row["backbone"], str(row["optimizer.lr"])): row for row in listed(thawline)}
    assert {key: (row["sweep"], row["state"]) for key, row in rows.items()} == {
        ("resnet18", "0.001"): (["rates"], "done"),
        ("resnet18", "0.01"): (["networks", "rates"], "done"),
        ("mobilenet", "0.01"): (["networks"], "done"),
        ("vgg11", "0.01"): (["waiting"], "failed"),
        ("vgg16", "0.01"): (["waiting"], "pending"),
    }
    best = rows["resnet18", "0.01"]
    assert (best["metric"], best["val"], best["test"]) == ("top1", pytest.approx(0.87), pytest.approx(0.85))
    assert (best["test_macro_f1"], best["seconds"], best["trainable"]) == (pytest.approx(0.83), 12.0, 2565)
    assert rows["vgg11", "0.01"]["error"] == "ValueError: no weights"
    assert rows["vgg16", "0.01"]["test"] is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["backbone.name=resnet18"], {"resnet18 0.001", "resnet18 0.01"}),
        (["backbone=resnet18", "optimizer.lr=1e-2"], {"resnet18 0.01"}),
        (["backbone.name=*net*"], {"resnet18 0.001", "resnet18 0.01", "mobilenet 0.01"}),
        (["backbone.name!=resnet18"], {"mobilenet 0.01", "vgg11 0.01", "vgg16 0.01"}),
        (["optimizer.lr<0.01"], {"resnet18 0.001"}),
        (["optimizer.lr<=0.01", "test>0.75"], {"resnet18 0.001", "resnet18 0.01"}),
        (["val>=0.8700000001"], set()),
        (["optimizer.betas=[0.9,0.999]"], {"resnet18 0.001", "resnet18 0.01", "mobilenet 0.01"}),
        (["optimizer.nesterov=true", "backbone.weights=null", "trainer.max_epochs=3", "sweep=rates"],
         {"resnet18 0.001", "resnet18 0.01"}),
        (["sweep!=rates", "state=done"], {"mobilenet 0.01"}),
        (["state=pending"], {"vgg16 0.01"}),
        (["date>2026-11-04"], {"vgg11 0.01"}),
    ],
)  # fmt: skip
def test_conditions_hold_for_the_resolved_config_and_for_what_is_known_of_a_run(
    thawline, outputs, conditions, expected
):
    rows = listed(thawline, "--where", *conditions)
    assert {" ".join(name) for name in named(rows)} == expected


def test_the_order_is_that_of_a_key_and_the_best_metric_stands_first(thawline, outputs):
    by_test = [row["test"] for row in listed(thawline, "--sort", "test")]
    assert by_test == [pytest.approx(0.85), pytest.approx(0.80), pytest.approx(0.75), None, None]
    by_loss = [row["test"] for row in listed(thawline, "--sort", "test", "--metric", "loss")]
    assert by_loss == [pytest.approx(0.15), pytest.approx(0.20), pytest.approx(0.25), None, None]
    assert [name for _, name in named(listed(thawline, "--sort", "optimizer.lr"))] == ["0.001", *["0.01"] * 4]
    # By default what was done last stands first; vgg16 has not begun.
    dates = [row["date"][:10] for row in listed(thawline)]
    assert dates == ["2026-11-09", "2026-11-03", "2026-11-02", "2026-11-02", ""]


def test_the_table_fits_eighty_columns_and_says_what_varies(thawline, outputs):
    lines = thawline("runs", "--where", "state=done", "--sort", "test").out.splitlines()
    assert max(map(len, lines)) <= 80
    identities = [row["identity"][:8] for row in listed(thawline, "--where", "state=done", "--sort", "test")]
    assert [line.split() for line in lines] == [
        ["run", "sweep", "settings", "val", "top1", "test", "top1", "date"],
        [identities[0], "networks,", "rates", "resnet18", "lr=0.01", "0.870", "0.850", "2026-11-02"],
        [identities[1], "rates", "resnet18", "lr=0.001", "0.820", "0.800", "2026-11-02"],
        [identities[2], "networks", "mobilenet", "lr=0.01", "0.770", "0.750", "2026-11-03"],
        ["In", "every", "row:", "state", "done,", "seconds", "12.0."],
        ["3", "of", "5", "runs", "in", "2", "sweeps:", "3", "done"],
    ]


def test_settings_without_room_give_way_to_those_that_runs_are_compared_by(thawline):
    axes = {
        "optimizer": ["adamw", "sgd"],
        "optimizer.weight_decay": ["0.00123", "0.00456"],
        "trainer.max_epochs": ["10", "200"],
        "freeze_policy.k": ["0", "3"],
        "seed": ["0", "1"],
    }

    def made(overrides: list[str], place: dict[str, str]) -> Record:
        level = 0.8 + 0.01 * int(place["seed"])
        return record(
            overrides, k=int(place["freeze_policy.k"]), metrics={"val": scores(level), "test": scores(level - 0.02)}
        )

    sweep(OUTPUTS, axes, made, "wide")
    lines = thawline("runs").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {" ".join(line.split()[1:5]) for line in lines[1:33]} == {
        f"{optimizer} weight_decay={decay} k={k} seed={seed}"
        for optimizer, decay, k, seed in itertools.product(
            axes["optimizer"], axes["optimizer.weight_decay"], axes["freeze_policy.k"], axes["seed"]
        )
    }
    assert "no room for trainer.max_epochs; --csv has every setting" in lines


def test_no_run_is_an_answer_that_says_what_there_is(thawline, outputs):
    result = thawline("runs", "--where", "backbone.name=resnet19")
    assert result.status == 0
    assert result.out.splitlines() == [
        "0 of 5 runs",
        "backbone.name is resnet18 (2), mobilenet (1), vgg11 (1), null (1)",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "backbone.nme=x"], "--where: no run has a key 'backbone.nme'; nearest: backbone.name"),
        (["--where", "optimizer=x"], "--where: 'optimizer' is a group of fields: optimizer.betas, optimizer.lr"),
        (["--where", "optimizer.lr"], "--where: 'optimizer.lr' is no condition: KEY=VALUE"),
        (["--where", "optimizer.lr>high"], "--where: 'optimizer.lr>high': > needs a number, not 'high'"),
        (["--sort", "tset"], "--sort: no run has a key 'tset'; nearest: test"),
        (["--metric", "top2"], "--metric: no run has a metric 'top2'; nearest: top5, top1"),
        (["--outputs", "elsewhere"], "--outputs: no run under elsewhere"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_names(thawline, outputs, arguments, message):
    result = thawline("runs", *arguments)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert len(result.err.splitlines()) == 1


def test_csv_and_parquet_hold_the_same_runs(thawline, outputs):
    pytest.importorskip("pyarrow")
    import pandas as pd

    printed = thawline("runs", "--csv", "--sort", "test").out
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert thawline("runs", "--csv", "runs.csv", "--sort", "test").out == "5 of 5 runs: runs.csv\n"
    assert Path("runs.csv").read_text() == printed
    assert [row["test"] for row in rows] == ["0.8500000000000001", "0.8", "0.75", "", ""]
    assert rows[0]["sweep"] == "networks, rates"
    result = thawline("runs", "--parquet", "runs.parquet", "--sort", "test")
    assert result.out == "5 of 5 runs: runs.parquet\n"
    frame = pd.read_parquet("runs.parquet")
    assert list(frame.columns) == list(rows[0])
    assert frame["test"].dropna().tolist() == [0.8500000000000001, 0.8, 0.75]
    assert frame["identity"].tolist() == [row["identity"] for row in rows]


def test_parquet_without_its_library_says_how_to_get_it(thawline, outputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = thawline("runs", "--parquet", "runs.parquet")
    assert (result.status, result.err) == (
        2,
        "error: --parquet: needs the library pyarrow: pip install 'thawline[parquet]'\n",
    )
    assert not Path("runs.parquet").exists()


def test_hostile_names_and_damaged_files_stop_nothing(thawline, outputs):
    (OUTPUTS / "sweeps" / "networks" / "sweep.json").write_text("{")
    (OUTPUTS / "runs" / "notes").mkdir()
    state = next(OUTPUTS.glob("runs/*/state.json"))
    state.with_name("config.json").write_text(json.dumps({"backbone": {"name": "[red]\x1b[2Jvgg\n=1+1"}}))
    result = thawline("runs", "--where", "state=failed")
    assert result.status == 0
    assert "networks: not a valid sweep" in result.err
    assert "\x1b" not in result.out
    assert result.out.splitlines()[-1] == "1 of 5 runs in 1 sweep: 1 failed"
