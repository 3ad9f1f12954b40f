"""Race: what a paired test tells apart is dropped at a look, what is left runs on fresh seeds, drops are audited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import TINY
from tests.make_records import record, scores

from thawline.errors import UsageError
from thawline.protocols import Candidate, Finished, Race
from thawline.specs import resolve

SMALL = (*TINY, "trainer.batch_size=10", "dataset.n_per_class=10", "trainer.max_epochs=3", "freeze_policy=full")
COMMAND = (
    "train", *SMALL, "protocol=race", "protocol.looks=[4,6]", "protocol.seeds=2", "protocol.audit=0", "sweep.name=r",
    "optimizer.lr=0.05,1e-9",
)  # fmt: skip
# Top-1 by seed: 1 loses to 0 at every seed, 2 wins at some.
TOP1 = {0: [0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.90, 0.91], 1: [0.5, 0.4, 0.5, 0.6, 0.5, 0.5, 0.5, 0.4]}
TOP1[2] = [0.93, 0.90, 0.922, 0.905, 0.947, 0.951, 0.91, 0.90]


def candidates(count: int = 3, **values: str) -> list[Candidate]:
    return [
        Candidate(index, f"k={index}", "last_k", (f"k={index}",), {"k": str(index), **values}, {})
        for index in range(count)
    ]


def stages_of(protocol: Race, compared: list[Candidate], top1: dict[int, list[float | None]]) -> list[Finished]:
    """All stages of a protocol, with the validation scores `top1` by candidate and seed."""
    done: list[Finished] = []
    while (stage := protocol.next_stage(compared, done)) is not None:
        made = []
        for point in stage.points:
            score = top1[point.candidate][point.seed % 1000 % len(top1[point.candidate])]
            made.append(record(metrics={"val": scores(score)}, diverged=score is None))
        done.append(Finished(stage, tuple(made)))
    return done


def runs(finished: Finished) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for point in finished.stage.points:
        found.setdefault(point.candidate, []).append(point.seed)
    return found


def test_a_dropped_candidate_runs_no_more_and_what_is_left_runs_on_fresh_seeds():
    protocol = Race(looks=(6, 8), alpha=0.1, audit=0, seeds=2)
    first, second, test = stages_of(protocol, candidates(), TOP1)
    assert [(each.stage.name, each.stage.purpose) for each in (first, second, test)] == [
        ("look-6", "select"),
        ("look-8", "select"),
        ("test", "test"),
    ]
    assert runs(first) == {index: [0, 1, 2, 3, 4, 5] for index in range(3)}
    assert runs(second) == {0: [6, 7], 2: [6, 7]}
    assert runs(test) == {0: [8, 9], 2: [8, 9]}
    ((index, drop),) = protocol.drops(candidates(), [first, second, test]).items()
    # At level 1/32 six seeds of one sign are p = 2/2^6; the mean of 2 is a hair above that of 0.
    assert (index, drop.stage, drop.seeds, drop.p, drop.level, drop.audited) == (1, "look-6", 6, 1 / 32, 1 / 32, False)
    assert drop.winner == 2


def test_a_race_that_is_decided_ends_at_once():
    protocol = Race(looks=(6, 8), alpha=0.1, audit=0, seeds=1, seed=3)
    first, test = stages_of(protocol, candidates(2), TOP1)
    assert runs(first)[0] == [3000, 3001, 3002, 3003, 3004, 3005]
    assert runs(test) == {0: [3008]}


def test_an_audited_drop_is_tested_but_races_no_more():
    protocol = Race(looks=(6, 8), alpha=0.1, audit=1, seeds=1)
    first, second, test = stages_of(protocol, candidates(), TOP1)
    assert set(runs(second)) == {0, 2}
    assert set(runs(test)) == {0, 1, 2}
    assert protocol.drops(candidates(), [first])[1].audited


def test_which_drops_are_audited_follows_from_the_identity_of_their_first_run():
    protocol = Race(looks=(6,), audit=0.5, seeds=1)
    first, _ = stages_of(protocol, candidates(2), TOP1)
    audited = set()
    for number in range(40):
        made = tuple(one.model_copy(update={"identity": f"{number:08x}"}) for one in first.records)
        again = protocol.drops(candidates(2), [Finished(first.stage, made)])
        assert again == protocol.drops(candidates(2), [Finished(first.stage, made)])
        audited.add(again[1].audited)
    assert audited == {True, False}


def test_data_sets_race_apart_and_less_can_be_better():
    first_data, second_data = candidates(2, dataset="a"), candidates(4, dataset="b")[2:]
    top1 = {0: TOP1[0], 1: TOP1[0], 2: TOP1[0], 3: TOP1[1]}
    protocol = Race(looks=(6,), audit=0, seeds=1)
    first, test = stages_of(protocol, [*first_data, *second_data], top1)
    assert set(runs(test)) == {0, 1, 2}
    by_loss = tuple(
        made.model_copy(update={"selection": made.selection.model_copy(update={"monitor": "val/loss"})})
        for made in first.records
    )
    assert list(protocol.drops([*first_data, *second_data], [Finished(first.stage, by_loss)])) == [3]


def test_a_diverged_run_is_the_worst_that_the_metric_can_be():
    top1 = {0: [0.4, 0.5, 0.4, 0.5, 0.4, 0.5], 1: [None] * 6}
    protocol = Race(looks=(6,), audit=0, seeds=1)
    first, _ = stages_of(protocol, candidates(2), top1)
    assert protocol.drops(candidates(2), [first])[1].p == 1 / 32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"looks": [3, 5]},
            "sign flips of 5 seeds give no p below 0.0625, and alpha is 0.05; .* after 6 seeds or more",
        ),
        ({"looks": [7, 7]}, "the numbers of seeds must ascend"),
        ({"looks": [0, 7]}, "the numbers of seeds must ascend"),
        ({"looks": []}, "at least 1 item"),
        ({"alpha": 1}, "less than 1"),
        ({"audit": 2}, "less than or equal to 1"),
    ],
)
def test_settings_with_which_nothing_could_be_dropped_are_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        resolve({"_target_": "thawline.protocols.Race", **settings}, "protocol")


@pytest.mark.slow
def test_the_command_drops_what_does_not_learn(zygote, tmp_path):
    done = zygote.run(*COMMAND, folder=tmp_path)
    assert done.wait() == 0, done.err
    protocol = json.loads((tmp_path / "outputs/sweeps/r/protocol.json").read_text())
    assert [(stage["name"], len(stage["points"])) for stage in protocol["stages"]] == [
        ("look-4", 8),
        ("look-6", 4),
        ("test", 2),
    ]
    kept, dropped = protocol["candidates"]
    assert kept["drop"] is None
    assert dropped["drop"] == {
        "stage": "look-6", "seeds": 6, "winner": 0, "p": 1 / 32, "level": 1 / 32, "audited": False,
    }  # fmt: skip
    said = [kept["label"], dropped["label"]]
    assert f"dropped on validation:\n  {said[1]}: at 6 seeds, beaten by {said[0]} (p = 0.0312)\n" in done.out
    for point in (point for stage in protocol["stages"] for point in stage["points"]):
        made = json.loads(Path(tmp_path, "outputs/runs", point["identity"], "record.json").read_text())
        assert ("test" in made["splits"]) == (point in protocol["stages"][2]["points"])
