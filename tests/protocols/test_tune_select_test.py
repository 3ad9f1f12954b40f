"""Tune, select, test: equal budgets, the same trials anywhere, a test split that opens once, and no hidden state."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from tests.conftest import TINY, records
from tests.make_records import record

import thawline as tl
from thawline.errors import UsageError
from thawline.protocols import Candidate, Finished, Point, Stage, TuneSelectTest
from thawline.protocols.choosing import best_first, edge_warnings, tried
from thawline.protocols.space import Dimension

SMALL = (*TINY, "trainer.max_epochs=1")
COMMAND = (
    "train", *SMALL, "protocol=tune_select_test", "strategy=linear_probe,last_k", "protocol.trials=3",
    "protocol.finalists=2", "protocol.select_seeds=1", "protocol.seeds=2", "sweep.name=p",
)  # fmt: skip
CANDIDATES = ("strategy=linear_probe", "strategy=last_k")


@pytest.fixture(scope="module")
def place(zygote, tmp_path_factory):
    """The folder in which the protocol was run, and what it printed."""
    folder = tmp_path_factory.mktemp("protocol")
    done = zygote.run(*COMMAND, folder=folder)
    assert done.wait() == 0, done.err
    (folder / "printed").write_text(done.out)
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def on_file(path: Path) -> dict:
    return json.loads(path.read_text())


def protocol_of(place: Path) -> dict:
    return on_file(place / "outputs/sweeps/p/protocol.json")


def record_of(place: Path, identity: str) -> dict:
    return on_file(place / "outputs/runs" / identity / "record.json")


def test_each_stage_is_a_sweep_and_only_the_last_one_opens_test(place):
    protocol = protocol_of(place)
    assert protocol["complete"]
    found = [(stage["name"], stage["sweep"], len(stage["points"])) for stage in protocol["stages"]]
    assert found == [("tune", "p-tune", 6), ("select", "p-select", 4), ("test", "p", 4)]
    for stage in protocol["stages"]:
        identities = {point["identity"] for point in stage["points"]}
        manifest = on_file(place / "outputs/sweeps" / stage["sweep"] / "sweep.json")
        assert {cell["identity"] for cell in manifest["cells"]} == identities
        for identity in identities:
            made = record_of(place, identity)
            is_test = stage["name"] == "test"
            assert set(made["splits"]) == {"train", "val", *(["test"] if is_test else [])}
            assert ("test" in made["metrics"], "predictions.npz" in made["files"]) == (is_test, is_test)
    assert on_file(place / "outputs/sweeps/p/sweep.json")["axes"] == {
        "strategy": ["linear_probe", "last_k"],
        "seed": ["2", "3"],
    }


def test_a_test_split_that_stays_closed_is_neither_decoded_nor_stored(train):
    everything = ("dataset.n_per_class=null", "freeze_policy=linear_probe", "trainer.max_epochs=1", "cache.mode=on")
    made = train(*everything, "open_test=false")
    # Of the 1797 digits 539 are for test.
    assert sum(split.samples for split in made.splits.values()) == 1797 - 539
    entries = [on_file(file) for file in Path().glob("outputs/cache/*/entry.json")]
    assert [entry["samples"] for entry in entries] == [1797 - 539] * 2


def test_seeds_of_a_stage_are_used_in_no_other(place):
    seeds = [sorted({point["seed"] for point in stage["points"]}) for stage in protocol_of(place)["stages"]]
    assert seeds == [[0], [1], [2, 3]]


def test_every_candidate_has_the_same_number_of_trials_and_the_record_says_it(place):
    protocol = protocol_of(place)
    tune = protocol["stages"][0]["points"]
    assert [point["trial"] for point in tune if point["candidate"] == 0] == [0, 1, 2]
    assert [point["trial"] for point in tune if point["candidate"] == 1] == [0, 1, 2]
    for stage in protocol["stages"]:
        for point in stage["points"]:
            assert record_of(place, point["identity"])["provenance"]["stage"] == {
                "protocol": "p",
                "kind": "TuneSelectTest",
                "stage": stage["name"],
                "purpose": stage["name"],
                "candidate": CANDIDATES[point["candidate"]],
                "trials": 3,
            }


def test_a_trial_is_a_function_of_seed_strategy_and_number(place):
    """The draws again, from the documented counters and NumPy alone; the rates are those of conf/strategy."""

    def draw(strategy: str, number: int, field: str) -> float:
        key = ("str=protocol", "int=0", f"str={strategy}", f"int={number}", f"str={field}")
        digest = hashlib.blake2b("\x1f".join(key).encode(), digest_size=8).digest()
        return np.random.Generator(np.random.Philox(int.from_bytes(digest, "big") >> 1)).random()

    for point in protocol_of(place)["stages"][0]["points"]:
        strategy = CANDIDATES[point["candidate"]].partition("=")[2]
        low, high = {"linear_probe": (0.001, 1.0), "last_k": (0.0003, 0.1)}[strategy]
        changes = dict(change.split("=") for change in point["changes"])
        expected = low * (high / low) ** draw(strategy, point["trial"], "optimizer.lr")
        assert float(changes["optimizer.lr"]) == pytest.approx(expected, rel=5e-3)
        if strategy == "last_k":  # 0 to 5 layer groups, both ends among them
            number = draw(strategy, point["trial"], "freeze_policy.k")
            assert changes["freeze_policy.k"] == str(math.floor(6 * number))
        made = record_of(place, point["identity"])
        assert made["config"]["optimizer"]["lr"] == float(changes["optimizer.lr"])


def test_what_is_tested_is_the_best_on_validation(place):
    tune, select, test = protocol_of(place)["stages"]
    for index, candidate in enumerate(protocol_of(place)["candidates"]):

        def gains(stage, index=index):
            found: dict = {}
            for point in stage["points"]:
                if point["candidate"] == index:
                    val = record_of(place, point["identity"])["metrics"]["val"]
                    found.setdefault(point["trial"], []).append((val["top1"], val["loss"]))
            return {
                trial: (-fmean(top1 for top1, _ in values), fmean(loss for _, loss in values), trial)
                for trial, values in found.items()
            }

        finalists = sorted(gains(tune), key=gains(tune).get)[:2]
        assert set(gains(select)) == set(finalists)
        best = min(gains(select), key=gains(select).get)
        assert {point["trial"] for point in test["points"] if point["candidate"] == index} == {best}
        assert candidate["choice"]["trial"] == best
        assert candidate["choice"]["value"] == pytest.approx(-gains(select)[best][0])
        (changes,) = {
            tuple(point["changes"]) for point in tune["points"] if (point["candidate"], point["trial"]) == (index, best)
        }
        assert candidate["choice"]["changes"] == list(changes)


def test_a_run_of_the_test_stage_is_the_run_that_one_makes_by_hand(here, thawline):
    before = {folder: (folder / "record.json").stat().st_mtime_ns for folder in records()}
    identity = protocol_of(here)["stages"][2]["points"][0]["identity"]
    by_hand = [line for line in record_of(here, identity)["overrides"] if not line.startswith("sweep.")]
    result = thawline("train", *by_hand)
    assert result.status == 0, result.err
    assert f"record: outputs/runs/{identity}/record.json" in result.out.replace("\n", "")
    assert {folder: (folder / "record.json").stat().st_mtime_ns for folder in records()} == before


def test_the_same_command_goes_on_with_what_is_missing(here, thawline):
    before = {folder: (folder / "record.json").stat().st_ino for folder in records()}
    manifest = protocol_of(here)
    gone = Path("outputs/runs", manifest["stages"][1]["points"][0]["identity"])
    (gone / "record.json").unlink()
    result = thawline("status", "p")
    assert result.status == 1
    assert "p-select: 4 runs: 3 done, 1 pending" in result.out
    sweep = tl.train(COMMAND[1:])  # from Python it is the same protocol
    assert (sweep.name, len(sweep)) == ("p", 4)
    assert [one.choice.trial for one in sweep.protocol.candidates] == [
        one["choice"]["trial"] for one in manifest["candidates"]
    ]
    assert tl.load_sweep("outputs/sweeps/p-tune").protocol is None
    after = {folder: (folder / "record.json").stat().st_ino for folder in records()}
    assert {folder for folder in after if after[folder] != before.get(folder)} == {gone}
    assert {**protocol_of(here), "command": ""} == {**manifest, "command": ""}


def test_status_shows_the_stages_and_what_they_chose(here, thawline):
    result = thawline("status", "p", "--json")
    assert result.status == 0
    shown = json.loads(result.out)
    assert [(stage["stage"], stage["counts"]) for stage in shown["stages"]] == [
        ("tune", {"done": 6}),
        ("select", {"done": 4}),
        ("test", {"done": 4}),
    ]
    assert [one["choice"]["trial"] for one in shown["candidates"]] == [
        one["choice"]["trial"] for one in protocol_of(here)["candidates"]
    ]
    words = thawline("status", "p").out
    assert "p-tune: 6 runs: 6 done" in words
    assert "chosen on validation of 3 settings each:" in words


@pytest.mark.parametrize(
    "command", [("report",), ("export",), ("average", "--method", "greedy")], ids=["report", "export", "average"]
)
def test_before_its_test_stage_a_protocol_is_named_as_one(place, thawline, command):
    shutil.copytree(place / "outputs/sweeps", "outputs/sweeps")
    Path("outputs/sweeps/p/sweep.json").unlink()
    result = thawline(command[0], "p", *command[1:])
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert result.err.startswith("error: sweep: 'p' is a protocol that has not come to its test stage")
    assert "thawline status p shows its stages" in result.err


def test_the_command_ends_with_the_choice_and_the_report_of_the_test_stage(place):
    printed = (place / "printed").read_text()
    choice = protocol_of(place)["candidates"][0]["choice"]
    assert f"strategy=linear_probe: {' '.join(choice['changes'])}" in " ".join(printed.split())
    assert (place / "outputs/sweeps/p/report/report.html").is_file()
    assert not (place / "outputs/sweeps/p-tune/report").exists()


@pytest.mark.slow
def test_an_experiment_may_choose_the_protocol_and_its_runs_have_commands_of_their_own(thawline, own_class):
    experiment = (
        "# @package _global_\ndefaults:\n  - override /protocol: tune_select_test\n"
        "protocol: {trials: 2, select_seeds: 0, seeds: 1}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {strategy: 'linear_probe,full'}}}\n"
    )
    own_class("unused", "", "experiments/mine/sweep", experiment)
    command = ("--config-dir", "conf", "train", *SMALL, "experiments=mine/sweep", "sweep.name=p")
    result = thawline(*command, "hydra/launcher=parallel", "hydra.launcher.workers=1")
    assert result.status == 0, result.err
    before = records()
    assert len(before) == 6
    (identity, *_) = (point["identity"] for point in protocol_of(Path())["stages"][1]["points"])
    made = record_of(Path(), identity)
    assert made["provenance"]["stage"]["purpose"] == "test"
    assert "sweep.stage" not in " ".join(made["overrides"])
    again = thawline("--config-dir", "conf", "train", *made["overrides"])
    assert (again.status, records()) == (0, before), again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=0,1"], "seed: a protocol gives its runs their seeds"),
        (["open_test=true"], "open_test: a protocol opens the test split in its last stage"),
        (["protocol.trials=0"], "protocol.trials: Input should be greater than or equal to 1"),
        (["protocol.trails=3"], "protocol.trails: unknown field; nearest: protocol.trials"),
        (["protocol.trials=2,3"], "protocol.trials: is the same for all that is compared"),
        (["protocol.space.optimizer.lt=[log,1,2]"], "there is no field 'optimizer.lt'; nearest: optimizer.lr"),
        (["protocol.space.optimizer.lr=[log,2,1]"], "log needs two numbers, the lowest and the highest"),
        (["protocol.space.optimizer.lr=[lag,1,2]"], "a list is needed that begins with log, linear, int, choice"),
        (
            ["optimizer.lr=1", "protocol.space.optimizer.lr=[log,1,2]"],
            "protocol.space.optimizer.lr: the command sets this field, too",
        ),
        (["optimizer.lr=1", "optimizer.weight_decay=0"], "protocol.space: no field is left that could be tuned"),
        (["protocol.space.trainer.early_stopping=[int,0,0]"], "int needs two numbers"),
        (["protocol.space.trainer.early_stopping=[choice,0]"], "trainer.early_stopping: Input should be greater than"),
    ],
)
def test_what_cannot_be_a_protocol_is_said_before_any_training(thawline, arguments, said):
    result = thawline("train", *TINY, "protocol=tune_select_test", "strategy=linear_probe", *arguments)
    assert (result.status, list(Path().glob("outputs/*"))) == (2, [])
    assert said in " ".join(result.err.split())


def test_fields_of_a_protocol_need_one(thawline):
    result = thawline("train", *TINY, "protocol.space.optimizer.lr=[log,1,2]")
    assert result.status == 2
    choices = "protocol=race or protocol=tune_select_test or protocol=vtab"
    assert f"protocol.space.optimizer.lr: no protocol is chosen; add {choices}\n" in result.err


def candidate(index: int, strategy: str = "full", **space: Dimension) -> Candidate:
    space = space or {"optimizer.lr": Dimension("log", (1e-4, 1.0))}
    return Candidate(index, f"strategy={strategy}", strategy, (), {}, space)


def settings(stage: Stage, index: int) -> list[tuple[str, ...]]:
    return [point.changes for point in stage.points if point.candidate == index]


def test_more_trials_other_candidates_and_further_fields_keep_those_that_there_are():
    few = TuneSelectTest(trials=2).next_stage([candidate(0)], [])
    many = TuneSelectTest(trials=5).next_stage([candidate(0, "lp_ft"), candidate(1)], [])
    assert settings(many, 1)[:2] == settings(few, 0)
    assert settings(many, 0) != settings(many, 1)
    further = {"optimizer.lr": Dimension("log", (1e-4, 1.0)), "trainer.batch_size": Dimension("choice", (16, 32))}
    wider = TuneSelectTest(trials=2).next_stage([candidate(0, **further)], [])
    assert [changes[:1] for changes in settings(wider, 0)] == settings(few, 0)
    assert TuneSelectTest(trials=2, seed=1).next_stage([candidate(0)], []).points[0].seed == 1000


def test_draws_cover_the_whole_space_evenly():
    log, whole = Dimension("log", (1e-4, 1.0)), Dimension("int", (2, 4))
    assert [log.at(u) for u in (0.0, 0.25, 0.5, 0.999999)] == ["0.0001", "0.001", "0.01", "1"]
    assert [whole.at(u) for u in (0.0, 0.32, 0.34, 0.66, 0.67, 0.99)] == ["2", "2", "3", "3", "4", "4"]
    assert [Dimension("linear", (0.0, 0.5)).at(u) for u in (0.0, 0.5)] == ["0", "0.25"]
    assert [Dimension("choice", ("sgd", True)).at(u) for u in (0.49, 0.5)] == ["sgd", "true"]


def test_a_diverged_trial_is_the_last_one_and_ties_go_to_the_loss_then_to_the_first():
    def made(top1: float, loss: float, **changes: object) -> object:
        return record(metrics={"train": {}, "val": {"top1": top1, "loss": loss}}, **changes)

    values = [made(0.9, 0.1, diverged=True), made(0.5, 0.4), made(0.5, 0.3), made(0.5, 0.3), made(0.4, 0.1)]
    points = tuple(Point(0, 0, (f"optimizer.lr={number}",), number) for number in range(5))
    found = tried(Finished(Stage("tune", "tune", points), tuple(values)), 0)
    assert [trial.number for trial in best_first(found)] == [2, 3, 1, 4, 0]


def test_means_over_seeds_tie_where_as_many_images_are_right():
    right, losses = {0: (91, 91), 1: (90, 92)}, (0.3, 0.2)
    points = tuple(Point(0, seed, (f"optimizer.lr={number}",), number) for number in right for seed in (0, 1))
    values = [
        # As a record holds it: in single precision, where the first mean is larger in the eighth digit.
        record(metrics={"train": {}, "val": {"top1": float(np.float32(count / 100)), "loss": losses[number]}})
        for number, counts in right.items()
        for count in counts
    ]
    found = best_first(tried(Finished(Stage("select", "select", points), tuple(values)), 0))
    assert [trial.number for trial in found] == [1, 0]


def test_a_rate_at_the_edge_of_what_was_tried_is_said():
    rates = (0.1, 0.001, 0.01, 0.03, 0.003)
    trials = [(f"optimizer.lr={rate}", f"optimizer.weight_decay={rate}") for rate in rates]
    (said,) = edge_warnings(trials[1], trials)
    assert said.startswith("optimizer.lr=0.001 is the smallest of 5 that were tried (0.001 to 0.1)")
    # The best of four lies at an end in every second case, whatever the rates are.
    assert edge_warnings(trials[1], trials[:4]) == []
    assert edge_warnings(trials[2], trials) == []


def peaked(stage: Stage, best: float = 0.01) -> Finished:
    """The stage done: the nearer its rate to `best`, the better a run."""

    def made(point: Point) -> object:
        rate = float(dict(change.split("=") for change in point.changes)["optimizer.lr"])
        value = 1.0 / (1.0 + abs(math.log10(rate / best)))
        return record(metrics={"train": {}, "val": {"top1": value, "loss": 1 - value}}, diverged=rate > 0.9)

    return Finished(stage, tuple(made(point) for point in stage.points))


def test_optuna_goes_on_from_the_records_alone_in_rounds_of_the_same_total_budget():
    pytest.importorskip("optuna")
    space = {"optimizer.lr": Dimension("log", (1e-4, 1.0)), "optimizer": Dimension("choice", ("sgd", "adamw"))}
    candidates = [candidate(0, "full", **space), candidate(1, "lp_ft", **space)]
    protocol = TuneSelectTest(trials=9, engine="optuna", rounds=3, select_seeds=0, seeds=1)
    done: list[Finished] = []
    while (stage := protocol.next_stage(candidates, done)) is not None:
        assert stage == protocol.next_stage(candidates, list(done))
        done.append(peaked(stage))
    found = [(finished.stage.name, len(finished.stage.points)) for finished in done]
    assert found == [("tune-1", 6), ("tune-2", 6), ("tune-3", 6), ("test", 2)]
    assert [point.trial for finished in done[:3] for point, _ in finished.of(1)] == list(range(9))
    first = TuneSelectTest(trials=3).next_stage(candidates, [])
    assert done[0].stage.points == first.points
    # The study has seen the records: others lead elsewhere.
    others = protocol.next_stage(candidates, [peaked(done[0].stage, best=0.5)])
    assert settings(others, 0) != settings(done[1].stage, 0)
    rates = {float(changes[0].partition("=")[2]) for finished in done for changes in settings(finished.stage, 0)}
    assert min(rates) >= 1e-4 and max(rates) <= 1.0


def test_deep_candidates_are_tuned_shallow_and_the_best_settings_promoted_to_their_own_depth():
    candidates = [dataclasses.replace(candidate(k, "last_k"), depth=k) for k in range(3)]
    protocol = TuneSelectTest(trials=2, shallow=1, finalists=1, select_seeds=1, seeds=1)
    tune = protocol.next_stage(candidates, [])
    shallow = ("freeze_policy.k=1", "freeze_policy.depth=null")
    assert [point.stand_in for point in tune.points] == [(), (), (), (), shallow, shallow]
    assert settings(tune, 0) == settings(tune, 1) == settings(tune, 2)
    done = [peaked(tune)]
    done.append(peaked(protocol.next_stage(candidates, done)))
    test = protocol.next_stage(candidates, done)
    for stage in (done[1].stage, test):
        assert [point.stand_in for point in stage.points] == [(), (), ()]
    with pytest.raises(UsageError, match=r"protocol\.shallow: no candidate is a last_k of more than 2 layer groups"):
        TuneSelectTest(shallow=2).next_stage(candidates, [])
    with pytest.raises(UsageError, match=r"freeze_policy\.k is tuned itself"):
        TuneSelectTest(shallow=0).next_stage([candidate(0, **{"freeze_policy.k": Dimension("int", (0, 2))})], [])
