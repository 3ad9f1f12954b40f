"""A race in a report: what was dropped and why, what it saved, what audits say, and dropped rows that are censored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tests.make_records import record, scores, write_sweep
from tests.reports.depth_sweeps import study_of
from thawline.protocols import Candidate, Finished, Race
from thawline.records import write_record
from thawline.records.protocol import CandidateEntry, PointEntry, ProtocolManifest, StageEntry
from thawline.reports import make_report
from thawline.reports.document import DASH
from thawline.reports.escaping import MINUS
from thawline.reports.race import TITLE
from thawline.reports.sections import make_document
from thawline.reports.standing import beaten_caption, standing
from thawline.reports.tables import result_table

# The head alone and one group are far behind, the others are a hair apart.
LEVELS = {"0": 0.60, "1": 0.70, "2": 0.90, "4": 0.91, "9": 0.905}


def noise(k: str, seed: int) -> float:
    return float(np.random.default_rng([int(k), seed]).normal(0, 0.02))


def raced(outputs: Path, levels: dict[str, float] | None = None, **settings: object) -> Path:
    """A whole race over depths, run by the protocol itself on records that are made up."""
    levels = levels or LEVELS
    protocol = Race.model_validate({"looks": (7, 9), "seeds": 3, "audit": 0.0, **settings})
    compared = [
        Candidate(index, f"k={k}", "last_k", (f"freeze_policy.k={k}",), {"freeze_policy.k": k}, {})
        for index, k in enumerate(levels)
    ]
    done: list[Finished] = []
    entries = []
    while (stage := protocol.next_stage(compared, done)) is not None:
        made, points = [], []
        for point in stage.points:
            k = list(levels)[point.candidate]
            value = levels[k] + noise(k, point.seed)
            metrics = {"val": scores(value), **({"test": scores(value)} if stage.purpose == "test" else {})}
            one = record([f"freeze_policy.k={k}", f"seed={point.seed}"], k=int(k), metrics=metrics)
            write_record(outputs / "runs" / one.identity, one)
            made.append(one)
            points.append(PointEntry(identity=one.identity, candidate=point.candidate, seed=point.seed))
        done.append(Finished(stage, tuple(made)))
        entries.append(StageEntry(name=stage.name, purpose=stage.purpose, sweep="r", points=points))
    drops = protocol.drops(compared, done)
    manifest = ProtocolManifest(
        name="r",
        kind="Race",
        settings=protocol.model_dump(mode="json"),
        candidates=[
            CandidateEntry(
                label=one.label, values=dict(one.values), overrides=list(one.overrides), drop=drops.get(one.index)
            )
            for one in compared
        ],
        stages=entries,
        complete=True,
    )
    cells = [{"identity": one.identity, "overrides": list(one.overrides)} for one in done[-1].records]
    kept = dict.fromkeys(list(levels)[point.candidate] for point in done[-1].stage.points)
    seeds = dict.fromkeys(str(point.seed) for point in done[-1].stage.points)
    folder = write_sweep(outputs, {"freeze_policy.k": list(kept), "seed": list(seeds)}, cells, "r")
    (folder / "protocol.json").write_text(manifest.model_dump_json())
    return folder


def section_of(folder: Path):
    return next((one for one in make_document(study_of(folder), "").sections if one.title == TITLE), None)


def test_the_table_has_every_candidate_and_why_it_was_dropped(tmp_path):
    folder = raced(tmp_path)
    (table,) = section_of(folder).tables
    lines = {line.entries[0]: line.entries for line in table.lines}
    assert list(lines) == ["k=0", "k=1", "k=2", "k=4", "k=9"]
    assert [lines[f"k={k}"][6] for k in LEVELS] == ["dropped at 7", "dropped at 7", *["in the running"] * 3]
    assert [lines[f"k={k}"][1] for k in LEVELS] == ["7", "7", "9", "9", "9"]
    values = {
        k: [LEVELS[k] + np.random.default_rng([int(k), seed]).normal(0, 0.02) for seed in range(9)] for k in LEVELS
    }
    assert lines["k=0"][2] == f"{np.mean(values['0'][:7]):.3f} ± {np.std(values['0'][:7], ddof=1):.3f}"
    winner = max(("2", "4", "9"), key=lambda k: np.mean(values[k][:7]))
    difference = np.mean(values["0"][:7]) - np.mean(values[winner][:7])
    assert lines["k=0"][3:6] == (f"k={winner}", f"{MINUS}{abs(difference):.3f}", f"{2 / 2**7:.3g}")


def test_the_cost_is_that_of_the_runs_against_the_whole_grid(tmp_path):
    _, cost, audit = section_of(raced(tmp_path)).paragraphs
    # 2 x 7 + 3 x 9 runs of 5 x 9; a run of k takes 12 + 2.5 k seconds.
    took = sum((7 if k in "01" else 9) * (12 + 2.5 * int(k)) for k in LEVELS)
    whole = sum(9 * (12 + 2.5 * int(k)) for k in LEVELS)
    assert cost.startswith(
        f"Cost: 41 runs and {took:,.0f} s, where every setting on all 9 seeds makes 45 runs and about {whole:,.0f} s "
        f"({100 * (1 - took / whole):.0f} % less). The fresh seeds took 9 runs in place of 15."
    )
    assert audit.startswith("No drop was audited")


def test_audits_tell_how_often_drops_are_wrong(tmp_path):
    folder = raced(tmp_path, audit=1)
    *_, audit = section_of(folder).paragraphs
    high = scipy.stats.beta.ppf(0.975, 1, 2)  # Clopper and Pearson's bound for none of two
    assert "Of 2 audited, 0 had a better mean there than the best of those left" in audit
    assert f"between 0 % and {100 * high:.0f} %" in audit


def test_an_audited_drop_is_never_chosen(tmp_path):
    folder = raced(tmp_path, audit=1)
    manifest = json.loads((folder / "protocol.json").read_text())
    for point in manifest["stages"][-1]["points"]:
        if point["candidate"] == 0:  # on fresh seeds it is the best of all
            path = tmp_path / "runs" / point["identity"]
            better = record(
                ["freeze_policy.k=0", f"seed={point['seed']}"], metrics={"val": scores(0.99), "test": scores(0.99)}
            )
            write_record(path, better.model_copy(update={"identity": point["identity"]}))
    study = study_of(folder)
    assert study.conditions[0].chosen.depth_value != "0"
    # Nor does it stand among the rows in the running, with which nothing tells it apart.
    group = study.conditions[0]
    assert standing(study, group).startswith("k = 2 and 4 of 9 layer groups cannot be told apart on test (3 seeds)")
    assert {row.depth_value for row in study.rows if study.is_in_the_running(row) is False} == {"0", "1", "9"}
    assert beaten_caption(study).endswith(" corrected for all rivals, or dropped by the race.")
    assert "1 (k=0) had a better mean there" in section_of(folder).paragraphs[-1]
    (line,) = [line for line in result_table(study).lines if line.entries[1] == "0"]
    assert line.entries[0] == "†"


def test_what_beats_all_others_beats_those_that_the_race_left(tmp_path):
    folder = raced(tmp_path)
    manifest = json.loads((folder / "protocol.json").read_text())
    for point in manifest["stages"][-1]["points"]:
        k = list(LEVELS)[point["candidate"]]
        level = scores(0.99 if k == "9" else 0.5)
        fresh = record(
            [f"freeze_policy.k={k}", f"seed={point['seed']}"], k=int(k), metrics={"val": level, "test": level}
        )
        path = tmp_path / "runs" / point["identity"]
        write_record(path, fresh.model_copy(update={"identity": point["identity"]}))
    study = study_of(folder)
    assert standing(study, study.conditions[0]) == (
        "k = 9 is better on test than every other depth that the race left (3 seeds)."
    )


def test_dropped_rows_are_censored_in_the_table_of_results(tmp_path):
    table = result_table(study_of(raced(tmp_path)))
    headings = [column.heading for column in table.columns]
    lines = {line.entries[headings.index("k")]: line.entries for line in table.lines}
    assert list(lines) == ["2", "4", "9", "0", "1"]
    for k in "01":
        assert lines[k][headings.index("test top1")] == lines[k][headings.index("95 % interval")] == DASH
        assert lines[k][headings.index("runs")] == "dropped at 7 seeds"
    assert "† dropped by the race" in table.note


def test_where_one_is_left_the_dropped_ones_are_still_named(tmp_path):
    study = study_of(raced(tmp_path, {"0": 0.6, "4": 0.9, "9": 0.5}))
    assert [row.dropped for row in study.rows] == [False]
    table = result_table(study)
    place = [column.heading for column in table.columns].index("k")
    assert [line.entries[place] for line in table.lines] == ["4", "k=0", "k=9"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Looks after 7 seeds (p of at most 0.0156) and 9 seeds (p of at most 0.0312) could drop some. The chance"),
        (
            {"looks": (4, 7)},
            "The look after 7 seeds (p of at most 0.0469) could drop some; with 4 seeds no p is small enough",
        ),
    ],
)
def test_looks_that_can_decide_nothing_are_said(tmp_path, settings, said):
    assert said in section_of(raced(tmp_path, **settings)).paragraphs[0]


def test_a_race_that_is_decided_early_has_saved_the_looks_that_it_did_not_need(tmp_path):
    said, cost, _ = section_of(raced(tmp_path, {"0": 0.6, "4": 0.9}, looks=(7, 9, 11))).paragraphs
    assert said.startswith(
        "By validation alone 1 of 2 settings was dropped. The look after 7 seeds (p of at most 0.0156) could drop "
        "some; then one was left, and 9 and 11 seeds were not run. The chance"
    )
    # Both ran 7 of the 11 seeds: 4 elevenths less, whatever a run takes.
    assert cost.startswith("Cost: 14 runs and ")
    assert "on all 11 seeds makes 22 runs" in cost
    assert "(36 % less)" in cost


def test_the_metric_of_scores_and_that_of_drops_are_named(tmp_path):
    folder = raced(tmp_path)
    section = section_of(folder)
    assert section.tables[0].note.startswith("Scores are of validation top-1 accuracy. A dropped setting")
    assert not section.drawings[0].caption.endswith("is better.")
    by_loss = next(one for one in make_document(study_of(folder, metric="loss"), "").sections if one.title == TITLE)
    assert by_loss.paragraphs[0].endswith(
        "Drops and their p are by top1; scores, differences and audit below are of loss."
    )
    assert ", lower is better. A dropped setting" in by_loss.tables[0].note
    assert by_loss.drawings[0].caption.endswith("Lower is better.")


def test_one_setting_alone_is_in_no_race(tmp_path):
    assert section_of(raced(tmp_path, {"4": 0.9})) is None


def test_where_nothing_is_dropped_that_is_said(tmp_path):
    section = section_of(raced(tmp_path, {"2": 0.9, "4": 0.9}))
    assert section.paragraphs[0].startswith("By validation alone none of 2 settings was dropped. Looks ")
    assert section.paragraphs[2] == "Nothing was dropped, so nothing was audited."


def test_the_figure_is_written_beside_the_page(tmp_path):
    files = make_report(raced(tmp_path, audit=1))
    assert (files.folder / "race.png").read_bytes().startswith(b"\x89PNG")
