"""Tuning curves in a report: from the records of the stage that tuned, and what another budget would have given."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from tests.make_records import record, scores, sweep
from tests.reports.depth_sweeps import study_of
from thawline.records import write_record
from thawline.reports import make_report
from thawline.reports.sections import make_document
from thawline.reports.tuning import TITLE
from thawline.reports.tuning_curves import budgets_shown, tuned_groups
from thawline.reports.tuning_figure import tuning_figure

# With one trial the probe is ahead, with all four it is full fine-tuning.
TRIALS = {"linear_probe": (0.80, 0.82, 0.81, 0.81), "full": (0.30, 0.90, 0.84, 0.60)}


def tuned(
    outputs: Path,
    trials: dict[str, tuple[float | None, ...]],
    data_sets: tuple[str, ...] = ("a",),
    **manifest: object,
) -> Path:
    """A test stage of three seeds, and the manifest and records of the stage that tuned it."""
    axes = {"dataset": list(data_sets), "strategy": list(trials), "seed": ["5", "6", "7"]}
    folder = sweep(outputs, axes, lambda overrides, _: record(overrides), "tuned")
    candidates, points = [], []
    for index, (data_set, strategy) in enumerate(itertools.product(data_sets, trials)):
        place = {"dataset": data_set, "strategy": strategy}
        candidates.append({"label": f"strategy={strategy}", "values": place, "overrides": [], "trials": 4})
        for number, top1 in enumerate(trials[strategy]):
            overrides = [*(f"{key}={value}" for key, value in place.items()), f"optimizer.lr={number}", "seed=0"]
            made = record(overrides, metrics={"val": scores(top1)}, diverged=top1 is None)
            write_record(outputs / "runs" / made.identity, made)
            points.append({"identity": made.identity, "candidate": index, "trial": number, "seed": 0})
    stage = {"name": "tune", "purpose": "tune", "sweep": "tuned-tune", "points": points}
    described = {"name": "tuned", "kind": "TuneSelectTest", "candidates": candidates, "stages": [stage], **manifest}
    (folder / "protocol.json").write_text(json.dumps(described))
    return folder


def section_of(folder: Path):
    return next((one for one in make_document(study_of(folder), "").sections if one.title == TITLE), None)


def test_the_table_has_the_expected_best_of_every_choice_of_trials(tmp_path):
    (table,) = section_of(tuned(tmp_path, TRIALS)).tables
    assert [column.heading for column in table.columns] == [
        "setting", "best of 1", "best of 2", "best of 4", "band at 4", "gain, 2 to 4", "trials", "seconds a trial",
    ]  # fmt: skip
    by_setting = {line.entries[0]: line.entries for line in table.lines}
    assert list(by_setting) == ["full", "linear_probe"]
    for strategy, values in TRIALS.items():
        expected = {n: np.mean([max(some) for some in itertools.combinations(values, n)]) for n in (1, 2, 4)}
        assert by_setting[strategy][1:4] == tuple(f"{expected[n]:.3f}" for n in (1, 2, 4))
        assert by_setting[strategy][5] == f"+{expected[4] - expected[2]:.3f}"
        assert by_setting[strategy][6:] == ("4", "12.0")


def test_the_words_say_who_is_ahead_at_which_budget(tmp_path):
    order, gains = section_of(tuned(tmp_path, TRIALS)).paragraphs
    # Of two trials: (.82 + .82 + .82 + .81 + ...) / 6 = .815 and (.9 * 3 + .84 * 2 + .6) / 6 = .83.
    assert order == (
        "Ahead is, by the number of trials: linear_probe with 1, full with 2 to 4. At no budget do the bands tell it "
        "from all others."
    )
    assert gains.startswith("From 2 to 4 trials the expected best gains +0.070 for full, +0.005 for linear_probe.")


def test_whoever_would_catch_up_at_this_pace_is_named(tmp_path):
    trials = {"linear_probe": (0.90, 0.90, 0.90, 0.90), "full": (0.50, 0.60, 0.70, 0.89)}
    order, gains = section_of(tuned(tmp_path, trials)).paragraphs
    assert order.startswith("linear_probe is ahead at every budget up to 4 trials.")
    assert "At this pace 8 trials would bring full level with linear_probe or past it" in gains


def test_half_of_an_odd_number_of_trials_is_said_and_gains_are_from_there(tmp_path):
    section = section_of(
        tuned(tmp_path, {"linear_probe": (0.7, 0.7, 0.7, 0.7, 0.7), "full": (0.2, 0.3, 0.4, 0.5, 0.6)})
    )
    headings = [column.heading for column in section.tables[0].columns]
    assert headings[4:6] == ["band at 5", "gain, 3 to 5"]
    # The best of three of five: 0.4 once, 0.5 three times and 0.6 six times of ten.
    gain = 0.6 - (0.4 + 3 * 0.5 + 6 * 0.6) / 10
    assert {line.entries[0]: line.entries[5] for line in section.tables[0].lines}["full"] == f"+{gain:.3f}"
    assert section.paragraphs[1] == (
        f"From 3 to 5 trials the expected best gains 0.000 for linear_probe, +{gain:.3f} for full."
    )


def test_settings_that_end_level_are_in_the_order_of_smaller_budgets(tmp_path):
    trials = {"last_k": (0.5, 0.6, 0.7, 0.9), "full": (0.8, 0.9, 0.9, 0.9), "linear_probe": (0.7, 0.7, 0.7, 0.7)}
    section = section_of(tuned(tmp_path, trials))
    # Of two trials last_k reaches (.6 + .7 * 2 + .9 * 3) / 6 = .783, of one .675.
    assert section.paragraphs[0] == (
        "full is ahead at every budget up to 4 trials. Level with it: last_k with 4. At no budget do the bands tell it "
        "from all others. From 2 trials on the order of all 3 is the one at 4."
    )
    assert [line.entries[0] for line in section.tables[0].lines] == ["full", "last_k", "linear_probe"]


def test_equal_curves_have_no_leader(tmp_path):
    trials = dict.fromkeys(("last_k", "full", "linear_probe"), (1.0, 1.0, 1.0, 1.0))
    told, gains = section_of(tuned(tmp_path, trials)).paragraphs
    assert told == "None is ahead at any budget: all curves are the same."
    assert "At this pace" not in gains


def test_curves_that_end_level_have_no_order_there(tmp_path):
    trials = {"last_k": (0.5, 0.6, 0.7, 0.9), "full": (0.8, 0.9, 0.9, 0.9), "linear_probe": (0.7, 0.8, 0.8, 0.9)}
    told = section_of(tuned(tmp_path, trials)).paragraphs[0]
    assert "Level with it: linear_probe with 4, last_k with 4." in told
    assert told.endswith("With 4 all 3 are level.")


def test_a_diverged_trial_counts_as_the_worst_and_a_missing_one_is_said(tmp_path):
    folder = tuned(tmp_path, {"linear_probe": (0.8, 0.8, 0.8, 0.8), "full": (0.9, None, 0.9, 0.9)})
    entries = {line.entries[0]: line.entries for line in section_of(folder).tables[0].lines}
    assert entries["full"][1:4] == (f"{0.9 * 3 / 4:.3f}", "0.900", "0.900")
    lost = json.loads((folder / "protocol.json").read_text())["stages"][0]["points"][0]["identity"]
    (tmp_path / "runs" / lost / "record.json").unlink()
    entries = {line.entries[0]: line.entries for line in section_of(folder).tables[0].lines}
    assert entries["linear_probe"][6] == "3 of 4"
    # Both are compared at the three trials that both have.
    assert entries["full"][3] == "0.900"


def test_diverged_trials_are_infinitely_bad_where_the_metric_has_no_bound(tmp_path):
    trials = {"full": (None, None, None, None), "linear_probe": (None, None, 0.5, 0.6), "lp_ft": (0.7, 0.7, 0.7, 0.7)}
    files = make_report(tuned(tmp_path, trials), metric="loss")
    section = next(one for one in make_document(files.study, "").sections if one.title == TITLE)
    # Of one trial of linear_probe the median is that of a diverged one.
    assert {line.entries[0]: line.entries[1:4] for line in section.tables[0].lines} == {
        "lp_ft": ("0.300", "0.300", "0.300"),
        "linear_probe": ("inf", "0.500", "0.400"),
        "full": ("inf", "inf", "inf"),
    }
    assert "inf: most of so many trials diverged" in section.tables[0].note
    order, gains = section.paragraphs
    assert order.startswith("lp_ft is ahead at every budget up to 4 trials.")
    assert gains.startswith("From 2 to 4 trials the median best gains 0.000 for lp_ft, +0.100 for linear_probe.")
    alone = make_report(tuned(tmp_path / "alone", {"full": (None,) * 4, "linear_probe": (None,) * 4}), metric="loss")
    assert (alone.folder / "tuning.png").read_bytes().startswith(b"\x89PNG")


def test_each_data_set_has_its_own_curves(tmp_path):
    section = section_of(tuned(tmp_path, TRIALS, data_sets=("a", "b")))
    assert [table.caption for table in section.tables] == ["a", "b"]
    assert [drawing.name for drawing in section.drawings] == ["tuning-1", "tuning-2"]
    assert section.paragraphs[0].startswith("On a: Ahead is")


def test_trials_of_a_model_based_sampler_give_no_curve(tmp_path):
    section = section_of(tuned(tmp_path, TRIALS, independent_trials=False))
    assert section.tables == section.drawings == ()
    assert "needs independent trials" in section.paragraphs[0]


def test_a_sweep_without_a_protocol_has_no_such_section(tmp_path):
    folder = tuned(tmp_path, TRIALS)
    (folder / "protocol.json").write_text("{")
    assert section_of(folder) is None
    (folder / "protocol.json").unlink()
    assert section_of(folder) is None


def test_the_figure_is_written_beside_the_page(tmp_path):
    files = make_report(tuned(tmp_path, TRIALS))
    assert (files.folder / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert "![Mean of the best validation top-1 accuracy" in files.markdown.read_text()


@pytest.mark.parametrize(
    ("trials", "shown"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 5]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16]), (20, [1, 2, 4, 8, 20])],
)
def test_budgets_are_doublings_up_to_all_trials(trials, shown):
    assert budgets_shown(trials) == shown
    assert all(later / earlier >= 1.4 for earlier, later in itertools.pairwise(shown))


@pytest.mark.parametrize(("inches", "strategies", "where"), [(3.25, 4, "Above"), (3.25, 1, ""), (7.0, 4, "Left")])
def test_the_figure_has_the_width_that_was_asked_for_and_its_text_has_room(tmp_path, inches, strategies, where):
    names = ["linear_probe", "full_fine_tuning", "gradual_unfreezing", "last_k"][:strategies]
    trials = {name: (0.5, 0.6 + 0.01 * place, 0.7, 0.9) for place, name in enumerate(names)}
    study = dataclasses.replace(study_of(tuned(tmp_path, trials)), figure_inches=inches)
    (group,) = tuned_groups(study)
    figure, caption = tuning_figure(study, group)
    assert (f"{where}: all settings." in caption) == bool(where)
    assert figure.get_figwidth() == inches
    figure.set_dpi(200)
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    assert [text for text, box in boxes if box.x0 < -1 or box.x1 > figure.bbox.width + 1] == []
    panels = [axes for axes in figure.findobj(Axes) if axes.get_visible()]
    assert len(panels) == (1 if strategies == 1 else 1 + strategies)
    assert min(axes.get_window_extent().width for axes in panels) > 0.9 * figure.dpi
