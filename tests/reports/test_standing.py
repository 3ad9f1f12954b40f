"""Which rows are in the running, in words and in the figure; intervals over seeds and images; also of odd sweeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from tests.make_records import predictions, record, scores, sweep
from tests.reports.depth_sweeps import DEPTHS, by_depth, study_of
from thawline import statistics
from thawline.errors import UsageError
from thawline.reports import make_report
from thawline.reports.depth_figure import depth_figure
from thawline.reports.escaping import MINUS
from thawline.reports.evidence import by_seeds_and_images
from thawline.reports.findings import compare, comparisons, top_two
from thawline.reports.standing import best_two, standing
from thawline.reports.wording import answer

# Depth 3 and 9 lie close together in every seed, 0 and 1 below them.
CLOSE = {
    "0": (0.60, 0.62, 0.64, 0.61, 0.63),
    "1": (0.70, 0.73, 0.72, 0.71, 0.74),
    "3": (0.90, 0.92, 0.91, 0.93, 0.90),
    "9": (0.91, 0.91, 0.92, 0.92, 0.91),
}


def sweep_of(folder, table, axis="freeze_policy.k", missing=(), metric="top1", **changes):
    """A sweep over the rows of `table`, whose entries are the test scores by seed; those of `missing` are not done."""
    seeds = max(map(len, table.values()))

    def make(overrides, place):
        name, seed = place[axis], int(place["seed"])
        if (name, seed) in missing:
            return None
        value = table[name][seed]
        k = int(name) if name.isdigit() else 9
        said = scores(None if value is None else value)
        if metric == "loss" and value is not None:
            said["loss"] = value
        return record(overrides, k=k, metrics={"val": said, "test": said}, diverged=value is None, **changes)

    return sweep(folder, {axis: list(table), "seed": [str(seed) for seed in range(seeds)]}, make)


def told(folder, **options):
    study = study_of(folder, **options)
    return standing(study, study.conditions[0])


def test_the_rows_in_the_running_and_the_cheapest_of_them(tmp_path):
    expected = "k = 3 and 9 of 9 layer groups cannot be told apart on test (5 seeds); 3 is the cheapest of them."
    folder = sweep_of(tmp_path, CLOSE)
    assert told(folder) == expected
    study = study_of(folder)
    table = np.array(list(CLOSE.values()))
    still = statistics.in_the_running(table)
    assert [study.is_in_the_running(row) for row in study.rows] == list(still) == [False, False, True, True]


def test_where_less_is_better_the_order_turns(tmp_path):
    study = study_of(sweep_of(tmp_path, CLOSE, metric="loss"), metric="loss")
    expected = "k = 0 is better on test than every other depth (5 seeds)."
    assert standing(study, study.conditions[0]) == expected


def test_a_row_that_stands_alone_leads_only_where_an_interval_against_it_holds_0(tmp_path):
    # Differences of 0.435 and 0.587: a paired t of 6.7, above the one-sided quantile 6.3 and below the two-sided 12.7.
    folder = sweep_of(tmp_path, {"0": (0.300, 0.300), "9": (0.735, 0.887)})
    assert told(folder) == (
        "k = 9 leads the other depth on test (2 seeds), but the 95 % t interval against k = 0 still contains 0."
    )
    (said,) = answer(study_of(folder))
    # 0.511 +- 12.706 x 0.076, cut where no difference of two shares can be.
    assert f"+0.511 [{MINUS}0.455, +1.000] against the linear probe (95 % t interval)." in said
    page = make_report(folder).markdown.read_text()
    assert "Of two rows the limit is one-sided, so the 95 % interval may still contain 0." in page


def test_what_is_chosen_and_beaten_is_led_only_where_the_interval_holds_0(tmp_path):
    found = {"0": (0.300, 0.300), "9": (0.735, 0.886)}

    def make(overrides, place):
        k = place["freeze_policy.k"]
        metrics = {"val": scores(0.9 - 0.1 * (k == "9")), "test": scores(found[k][int(place["seed"])])}
        return record(overrides, k=int(k), metrics=metrics)

    (said,) = answer(study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "9"], "seed": ["0", "1"]}, make)))
    assert "was chosen on validation, and another leads it on test; test top-1 accuracy 0.300" in said


def test_seeds_that_agree_on_few_images_leave_the_interval_over_images_open(tmp_path):
    rights = {"0": 20, "1": 34, "9": 36}  # the same of 40 images for every seed

    def make(overrides, place):
        k = place["freeze_policy.k"]
        level = scores(rights[k] / 40)
        made = record(overrides, k=int(k), metrics={"val": level, "test": level})
        folder = tmp_path / "runs" / made.identity
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", **predictions(np.arange(40) % 5, np.arange(40) < rights[k], 5))
        return made

    folder = sweep(tmp_path, {"freeze_policy.k": list(rights), "seed": ["0", "1", "2", "3"]}, make)
    # Seeds that agree have a t interval of rounding to one of 200 images, not of no width: 0.0023 to each side.
    (section,) = by_seeds_and_images(study_of(folder))
    assert [line.entries[5] for line in section.tables[0].lines][1:] == ["[0.848, 0.852]", "[0.898, 0.902]"]
    assert told(folder) == (
        "k = 9 leads every other depth on test (4 seeds), but the 95 % interval over seeds and test images against "
        "k = 1 still contains 0."
    )


def test_a_cheap_row_far_below_the_best_gives_way_to_a_near_one(tmp_path):
    noisy = {"0": (0.5, 0.9), "3": (0.903, 0.9), "9": (0.9, 0.91)}
    expected = (
        "k = 0, 3 and 9 of 9 layer groups cannot be told apart on test (2 seeds); of those within 0.010 of the best "
        "mean the cheapest is k = 3."
    )
    assert told(sweep_of(tmp_path, noisy)) == expected


def test_equal_rows_cannot_be_told_apart(tmp_path):
    equal = {"0": (0.8, 0.8), "1": (0.8, 0.8), "3": (0.8, 0.8), "9": (0.8, 0.8)}
    folder = sweep_of(tmp_path, equal)
    assert told(folder) == "with 2 seeds none of the 4 depths can be told apart on test; k = 0 is the cheapest of them."
    study = study_of(folder)
    assert (
        best_two(study, study.conditions[0])
        == "The best two, k = 0 and k = 1, are equivalent: they differ by less than 0.010."
    )


def test_strategies_are_named(tmp_path):
    table = {"lp_ft": CLOSE["3"], "full": CLOSE["9"], "linear_probe": CLOSE["0"]}
    expected = "full and lp_ft cannot be told apart on test (5 seeds); all of them train equally many parameters."
    assert told(sweep_of(tmp_path, table, axis="freeze_policy")) == expected


def test_names_that_hold_commas_are_set_apart(tmp_path):
    table = {
        ("uniform", "0"): (0.90, 0.93, 0.90),
        ("uniform", "9"): (0.91, 0.93, 0.92),
        ("layer_decay", "0"): (0.50, 0.51, 0.50),
        ("layer_decay", "9"): (0.92, 0.90, 0.92),
    }
    axes = {"learning_rates": ["uniform", "layer_decay"], "freeze_policy.k": ["0", "9"], "seed": ["0", "1", "2"]}

    def make(overrides, place):
        found = scores(table[place["learning_rates"], place["freeze_policy.k"]][int(place["seed"])])
        return record(overrides, k=int(place["freeze_policy.k"]), metrics={"val": found, "test": found})

    expected = (
        "uniform, k = 9; layer_decay, k = 9 and uniform, k = 0 cannot be told apart on test (3 seeds); of those within "
        "0.010 of the best mean the cheapest are uniform, k = 9 and layer_decay, k = 9."
    )
    assert told(sweep(tmp_path, axes, make)) == expected


@pytest.mark.parametrize("table", [{"3": (0.9, 0.8)}, {"3": (0.9,), "9": (0.8,)}], ids=["one row", "one seed"])
def test_one_row_or_one_seed_is_not_compared(tmp_path, table):
    folder = sweep_of(tmp_path, table)
    assert told(folder) == ""
    study = study_of(folder)
    assert best_two(study, study.conditions[0]) == ""
    assert {study.is_in_the_running(row) for row in study.rows} == {None}


def test_rows_that_miss_seeds_are_not_compared(tmp_path):
    diverged = {**CLOSE, "0": (0.6, None, 0.6, 0.6, 0.6)}
    expected = (
        "k = 3 and 9 of 9 layer groups cannot be told apart on test (5 seeds); 3 is the cheapest of them. Not "
        "compared: 2 depths without all 5 seeds."
    )
    assert told(sweep_of(tmp_path, diverged, missing=[("1", 2)])) == expected


def test_a_row_that_was_not_compared_is_not_said_to_be_beaten(tmp_path):
    table = {**CLOSE, "3": CLOSE["1"]}
    expected = (
        "k = 9 is better on test than every other compared depth (5 seeds). Not compared: 1 depth without all 5 seeds."
    )
    assert told(sweep_of(tmp_path, table, missing=[("1", 2)])) == expected


def test_rows_without_a_common_seed_are_compared_by_nothing(tmp_path):
    table = {"3": (0.9,) * 4, "9": (0.8,) * 4}
    folder = sweep_of(tmp_path, table, missing=[("3", 0), ("3", 1), ("9", 2), ("9", 3)])
    (said,) = answer(study_of(folder))
    assert said.endswith(
        " The chosen setting has no seed in common with another, so nothing compares them: give all the same seeds."
    )


def test_seeds_that_would_tell_the_best_two_apart(tmp_path):
    study = study_of(sweep_of(tmp_path, CLOSE), margin=0.001)
    d = np.array(CLOSE["9"]) - np.array(CLOSE["3"])
    needed = np.ceil(TTestPower().solve_power(d.mean() / d.std(ddof=1), alpha=0.05, power=0.8))
    assert (
        best_two(study, study.conditions[0])
        == f"About {needed:.0f} seeds would tell the best two, k = 9 and k = 3, apart."
    )


def test_equivalence_is_an_interval_within_the_margin_and_not_a_large_p(tmp_path):
    folder = sweep_of(tmp_path, CLOSE)
    by_margin = {}
    for margin in (0.005, 0.05):
        study = study_of(folder, margin=margin)
        by_margin[margin] = [item.verdict for item in comparisons(study, study.conditions[0])]
        assert top_two(study, study.conditions[0]).equivalent == (margin == 0.05)
    assert by_margin == {
        0.005: ["better", "better", "not told apart"],
        0.05: ["better", "better", "equivalent"],
    }


def test_the_margin_is_that_of_the_runs_unless_another_is_asked_for(tmp_path):
    folder = sweep_of(tmp_path, CLOSE, config={"report": {"margin": 0.05}})
    assert study_of(folder).margin == 0.05
    assert study_of(folder, margin=0.02).margin == 0.02
    assert study_of(folder, metric="loss").margin == 0.05
    with pytest.raises(UsageError, match="above 0"):
        study_of(folder, margin=0.0)


def test_without_a_margin_there_is_one_point_of_metrics_between_0_and_1_and_none_of_others(tmp_path):
    folder = sweep_of(tmp_path, CLOSE)
    assert (study_of(folder).margin, study_of(folder, metric="loss").margin) == (0.01, None)


def test_comparisons_are_corrected_jointly_where_every_row_has_every_seed_and_by_holm_where_not(tmp_path):
    study = study_of(sweep_of(tmp_path / "whole", CLOSE))
    found = comparisons(study, study.conditions[0])
    chosen = np.array(CLOSE[str(study.conditions[0].chosen.depth)])
    others = [np.array(CLOSE[str(item.other.depth)]) for item in found]
    expected = statistics.joint_sign_flips(np.stack([chosen - other for other in others], axis=1))
    assert [item.corrected for item in found] == pytest.approx(list(expected))
    assert all(item.jointly for item in found)
    study = study_of(sweep_of(tmp_path / "missing", CLOSE, missing=[("1", 2)]))
    found = comparisons(study, study.conditions[0])
    assert [item.corrected for item in found] == statistics.holm([item.sign_flip.p for item in found])


def test_the_figure_draws_rows_that_are_beaten_hollow(tmp_path):
    study = study_of(sweep_of(tmp_path, CLOSE))
    figure, caption = depth_figure(study)
    hollow = [
        line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white" and line.get_marker() == "o"
    ]
    assert [list(line.get_xdata()) for line in hollow] == [[0.0, 1.0]]
    assert "mean, beaten by another" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Hollow: beaten by another row" in caption


@pytest.fixture(params=[("0", "1", "2", "3")], ids=["four seeds"])
def with_images(tmp_path, request):
    """A sweep whose runs keep what they said of 40 test images, and who is right on each: by depth and seed."""
    draws, right = np.random.default_rng(0), {}

    def make(overrides, place):
        k, seed = place["freeze_policy.k"], place["seed"]
        right[k, seed] = draws.random(40) < {"0": 0.6, "1": 0.8, "9": 0.9}[k]
        level = scores(float(right[k, seed].mean()))
        made = record(overrides, k=int(k), metrics={"val": level, "test": level})
        folder = tmp_path / "runs" / made.identity
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", **predictions(np.arange(40) % 5, right[k, seed], 5))
        return made

    return sweep(tmp_path, {"freeze_policy.k": ["0", "1", "9"], "seed": request.param}, make), right


def test_intervals_are_over_seeds_and_images_where_runs_keep_what_they_said_of_each(with_images):
    folder, right = with_images
    study = study_of(folder)
    for row, k in zip(study.rows, ("0", "1", "9"), strict=True):
        both = statistics.two_way([right[k, seed] for seed in "0123"])
        assert study.interval(row) == pytest.approx(both.interval(bounds=(0, 1), proportion=True))
        assert study.interval(row) != pytest.approx(row.summary("test", "top1").interval)
    first, last = study.rows[0], study.rows[-1]
    differences = [right["9", seed].astype(float) - right["0", seed] for seed in "0123"]
    assert compare(study, last, first).interval == pytest.approx(statistics.two_way(differences).interval())
    (section,) = by_seeds_and_images(study)
    assert section.tables[0].lines[0].entries[-2:] == ("40", "4")


@pytest.mark.parametrize("with_images", ["0"], indirect=True, ids=["one seed"])
def test_of_one_seed_the_interval_is_over_images_alone_and_the_figure_draws_it(with_images):
    study = study_of(with_images[0])
    assert study.interval_label == "interval over test images"
    figure, caption = depth_figure(study)
    assert "with its 95 % interval over test images, every" in caption
    (band,) = figure.axes[0].collections[0].get_paths()
    low, high = zip(*(study.interval(row) for row in study.rows), strict=True)
    assert (band.vertices[:, 1].min(), band.vertices[:, 1].max()) == pytest.approx((min(low), max(high)))


def test_predictions_that_do_not_give_the_recorded_number_are_not_used(with_images):
    folder, _ = with_images
    study = study_of(folder, metric="macro_accuracy")  # which `scores` makes up
    assert study.evidence.of(study.rows[0]) is None
    assert study.interval(study.rows[0]) == study.rows[0].summary("test", "macro_accuracy").interval
    assert study.interval_label == "t interval"


def test_runs_tested_on_other_images_have_no_interval_over_images(with_images):
    folder, _ = with_images
    study = study_of(folder)
    run = next(iter(study.rows[0].runs.values()))
    with np.load(run.folder / "predictions.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(run.folder / "predictions.npz", **{**arrays, "index": arrays["index"] + 1})
    study = study_of(folder)
    assert study.evidence.of(study.rows[0]) is None
    assert study.evidence.of(study.rows[1]) is not None
    assert study.evidence.of_difference(study.rows[1], study.rows[0]) is None


def test_a_run_without_predictions_leaves_the_interval_over_seeds(tmp_path):
    study = study_of(sweep(tmp_path, DEPTHS, by_depth))
    assert [study.interval(row) for row in study.rows] == [row.summary("test", "top1").interval for row in study.rows]
    assert list(by_seeds_and_images(study)) == []
    assert dataclasses.replace(study, split="val").evidence.of(study.rows[0]) is None


def single(right, images):
    """An accuracy as a record holds it: computed in single precision."""
    return float(np.float32(right / images))


def test_accuracies_in_single_precision_tie_where_the_shares_do(tmp_path):
    others = (168, 166, 181, 168, 168, 174)
    # One image more for five seeds, one less for the sixth: a sum of 4 or more in 14 of the 64 sign patterns, but in
    # 6 of them where the differences are those of the stored numbers.
    chosen = [right + more for right, more in zip(others, (1, 1, 1, 1, 1, -1), strict=True)]
    table = {"9": [single(right, 200) for right in chosen], "3": [single(right, 200) for right in others]}
    study = study_of(sweep_of(tmp_path, table))
    (item,) = comparisons(study, study.conditions[0])
    assert (item.sign_flip.p, item.wilcoxon.p, item.corrected) == (14 / 64, 14 / 64, 14 / 64)


def test_means_of_accuracies_that_tie_leave_the_choice_to_the_loss(tmp_path):
    right, loss = {"0": (90, 92), "9": (91, 91)}, {"0": 0.2, "9": 0.3}
    # In single precision the second row's mean is larger in the eighth digit.
    assert sum(single(one, 100) for one in right["9"]) > sum(single(one, 100) for one in right["0"])

    def make(overrides, place):
        k = place["freeze_policy.k"]
        level = {"top1": single(right[k][int(place["seed"])], 100), "loss": loss[k]}
        return record(overrides, k=int(k), metrics={"val": level, "test": level})

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "9"], "seed": ["0", "1"]}, make))
    assert study.conditions[0].chosen.depth == 0


@pytest.mark.parametrize(("images", "verdict"), [(40, "not told apart"), (600, "equivalent")])
def test_models_without_a_mistake_on_few_images_are_not_equivalent(tmp_path, images, verdict):
    def make(overrides, place):
        made = record(overrides, k=int(place["freeze_policy.k"]), metrics={"val": scores(1.0), "test": scores(1.0)})
        folder = tmp_path / "runs" / made.identity
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", **predictions(np.arange(images) % 5, np.full(images, True), 5))
        return made

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "9"], "seed": ["0", "1", "2"]}, make))
    (item,) = comparisons(study, study.conditions[0])
    assert (item.difference, item.verdict) == (0.0, verdict)
    assert item.interval[0] < 0 < item.interval[1]
    said = best_two(study, study.conditions[0])
    assert said.endswith({
        "not told apart": "have the same mean: how many seeds would tell them apart is unknown.",
        "equivalent": "are equivalent: they differ by less than 0.010.",
    }[verdict])  # fmt: skip


def test_the_same_score_on_few_images_is_not_equivalence(tmp_path):
    equal = {"0": (0.75, 0.75), "9": (0.75, 0.75)}
    splits = {name: {"samples": 36, "sha256": name, "per_class": [36]} for name in ("train", "val", "test")}
    study = study_of(sweep_of(tmp_path, equal, splits=splits))
    (item,) = comparisons(study, study.conditions[0])
    # The spread of rounding to whole images, 1/36/sqrt(12), with the t quantile of one degree of freedom.
    half = 12.7062 / 36 / np.sqrt(12) / np.sqrt(2)
    assert item.interval == pytest.approx((-half, half), rel=1e-4)
    assert item.verdict == "not told apart"
    for row in study.rows:
        assert study.interval(row) == pytest.approx((0.75 - half, 0.75 + half), rel=1e-4)
