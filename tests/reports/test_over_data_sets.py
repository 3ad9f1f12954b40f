"""Strategies over several data sets and networks in a report: who is ranked on what, and each number by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.make_records import record, scores, sweep
from thawline.records import Record
from thawline.reports import make_report
from thawline.reports.data_set_figures import profile_figure
from thawline.reports.data_set_sections import over_data_sets_sections
from thawline.reports.joining import load_sweeps
from thawline.reports.over_data_sets import OverDataSets, over_data_sets
from thawline.reports.study import make_study

# Means over two seeds, which lie 0.01 to both sides: by data set, for each strategy.
MEANS: Mapping[str, Mapping[str, float]] = {
    "digits": {"probe": 0.90, "norm": 0.92, "full": 0.96},
    "flowers": {"probe": 0.50, "norm": 0.40, "full": 0.70},
    "pets": {"probe": 0.30, "norm": 0.30, "full": 0.20},
}


def folder_of(
    outputs: Path, data_sets: Sequence[str] = tuple(MEANS), axis: str = "dataset", **further: list[str]
) -> Path:
    """A sweep of the strategies over data sets, or over networks that are called like them."""

    def make(overrides: list[str], place: dict[str, str]) -> Record | None:
        level = MEANS[place[axis]][place["strategy"]] + (0.01 if place["seed"] == "0" else -0.01)
        return record(overrides, metrics={"val": scores(level), "test": scores(round(level, 4))})

    grid = {axis: list(data_sets), **further, "strategy": ["probe", "norm", "full"], "seed": ["0", "1"]}
    return sweep(outputs, grid, make, "-".join([axis, *data_sets]))


def found_in(*folders: Path, metric: str | None = None) -> OverDataSets | None:
    return over_data_sets(make_study(load_sweeps(folders), metric))


def test_strategies_are_ranked_on_each_data_set_and_compared_in_pairs(tmp_path):
    found = found_in(folder_of(tmp_path))
    assert (found.what, found.blocks) == ("data sets", ("digits", "flowers", "pets"))
    by_name = {name: place for place, name in enumerate(found.strategies)}
    ranks = {name: found.mean_ranks[place] for name, place in by_name.items()}
    # Ranks on the three sets: probe 3, 2, 1.5; norm 2, 3, 1.5; full 1, 1, 3.
    assert ranks == {"probe": pytest.approx(6.5 / 3), "norm": pytest.approx(6.5 / 3), "full": pytest.approx(5 / 3)}
    columns = [[means[name] for means in MEANS.values()] for name in ("probe", "norm", "full")]
    assert found.friedman.statistic == pytest.approx(stats.friedmanchisquare(*columns).statistic)
    pair = found.pair(by_name["probe"], by_name["norm"])
    assert (pair.wins, pair.ties, pair.losses) == (1, 1, 1)
    assert pair.difference == pytest.approx((-0.02 + 0.10 + 0.0) / 3)
    assert [one.shape for one in found.scores] == [(3, 2)] * 3


def test_sweeps_over_one_data_set_each_are_compared_like_one_sweep_over_all(tmp_path):
    apart = found_in(*(folder_of(tmp_path / "apart", [name]) for name in MEANS))
    together = found_in(folder_of(tmp_path / "together"))
    assert apart.blocks == together.blocks
    by_name = [dict(zip(found.strategies, found.mean_ranks, strict=True)) for found in (apart, together)]
    assert by_name[0] == by_name[1]


def test_networks_are_blocks_too_and_pairs_of_both(tmp_path):
    found = found_in(folder_of(tmp_path, axis="backbone"))
    assert (found.what, found.blocks) == ("networks", ("digits", "flowers", "pets"))
    assert set(found.strategies) == {"probe", "norm", "full"}
    both = found_in(folder_of(tmp_path / "both", backbone=["small", "large"]))
    assert (both.what, len(both.blocks)) == ("pairs of data set and network", 6)
    assert both.blocks[:2] == ("digits, small", "digits, large")


def test_a_metric_without_bounds_is_compared_by_ratios(tmp_path):
    found = found_in(folder_of(tmp_path), metric="loss")
    assert found.relative
    by_name = {name: place for place, name in enumerate(found.strategies)}
    pair = found.pair(by_name["full"], by_name["probe"])
    # The losses are 1 - accuracy: 0.04 / 0.1, 0.3 / 0.5, 0.8 / 0.7.
    assert pair.difference == pytest.approx((0.4 * 0.6 * 0.8 / 0.7) ** (1 / 3) - 1)
    assert (pair.wins, pair.losses) == (2, 1)


def test_amounts_of_one_data_set_are_no_data_sets(tmp_path):
    grid = {"dataset.n_per_class": ["5", "10"], "strategy": ["probe", "full"], "seed": ["0"]}
    assert found_in(sweep(tmp_path, grid, lambda overrides, place: record(overrides))) is None


def test_a_strategy_that_misses_a_data_set_is_not_ranked_and_named(tmp_path):
    folder = folder_of(tmp_path)
    for run in make_study(load_sweeps([folder])).sweep.runs:
        if "dataset=pets" in run.overrides and "strategy=norm" in run.overrides:
            (run.folder / "record.json").unlink()
    found = found_in(folder)
    assert (set(found.strategies), found.left_out, found.friedman) == ({"probe", "full"}, ("norm",), None)
    # Full is best on two of the three.
    assert dict(zip(found.strategies, found.mean_ranks, strict=True)) == {
        "probe": pytest.approx(5 / 3),
        "full": pytest.approx(4 / 3),
    }
    section, _ = over_data_sets_sections(make_study(load_sweeps([folder])))
    assert "Strategies that share a letter are not told apart by Wilcoxon's test" in section.paragraphs[0]
    assert section.paragraphs[-1] == "Not ranked, for want of a result on every one of the data sets: norm."


@pytest.mark.parametrize(("blocks", "cliques"), [(6, [(2, 1, 0)]), (7, [(2,), (1,), (0,)])])
def test_strategies_are_told_apart_as_soon_as_there_are_data_sets_enough(blocks, cliques):
    # One strategy is ahead everywhere: p = 2/2^n for each of three pairs, 0.094 corrected for n = 6, and 0.047 for 7.
    means = np.array([[0.3, 0.5, 0.7]]) + np.arange(blocks)[:, None] * np.array([[0.0, 0.001, 0.003]])
    names = tuple(f"set {number}" for number in range(blocks))
    found = OverDataSets("data sets", names, ("probe", "norm", "full"), means, (), (), "max", relative=False)
    assert found.cliques == cliques


def test_each_profile_is_that_of_its_strategy(tmp_path):
    # Full is the last one on the first data set, and has the best mean rank.
    study = make_study(load_sweeps([folder_of(tmp_path, ["pets", "digits", "flowers"])]))
    figure, _ = profile_figure(study, over_data_sets(study))
    shares = {}
    for line in figure.axes[0].lines:
        thresholds, values = line.get_xdata(), line.get_ydata()
        shares[line.get_label()] = [6 * values[np.searchsorted(thresholds, at, side="right") - 1] for at in (0.25, 0.6)]
    # Normalised scores of full: 5/6, 7/6; 29/30, 31/30; 0.1, -0.1. Of probe: 1/6, -1/6; 11/30, 9/30; 1.1, 0.9.
    # Of norm: 1/2, 1/6; 1/30, -1/30; 1.1, 0.9.
    assert shares == {"full": pytest.approx([4, 4]), "probe": pytest.approx([4, 2]), "norm": pytest.approx([3, 2])}


def test_the_report_has_the_ranks_the_matrix_and_the_profiles(tmp_path):
    files = make_report(folder_of(tmp_path))
    page = files.markdown.read_text()
    assert "## Over the data sets" in page
    assert (
        "Over 3 data sets the smallest two-sided p of a pair is 0.25 (2/2^3), before the correction over 3 pairs."
        in page
    )
    # Differences 0.06, 0.2 and -0.1: of 8 sign patterns of the ranks 1, 3, 2 six have a sum of 2 or more.
    assert "| full | probe | +0.053 | 2 / 0 / 1 | 0.75 |" in page
    # Normalised: digits 5/6 and 7/6, flowers 29/30 and 31/30, pets -0.1 and 0.1; the smallest and largest are cut.
    assert "| full | 1.67 | a | 4 / 0 / 2 | 0.733 | " in page
    for name in ("matrix", "profiles"):
        assert (files.folder / f"{name}.png").stat().st_size > 5000
        assert (files.folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with files.table_csv.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 9


def test_a_data_set_on_which_all_are_equal_is_left_out_of_the_profiles_and_said_to_be(tmp_path):
    def make(overrides, place):
        level = 0.8 if place["dataset"] == "a" or place["strategy"] == "full" else 0.7
        return record(overrides, metrics={"val": scores(level), "test": scores(level)})

    grid = {"dataset": ["a", "b"], "strategy": ["probe", "full"], "seed": ["0", "1"]}
    study = make_study(load_sweeps([sweep(tmp_path, grid, make)]))
    section, _ = over_data_sets_sections(study)
    assert "1 of the data sets has no difference to normalise and is left out of it." in section.paragraphs[2]
    assert section.drawings[1].caption.startswith("Performance profiles over 1 of 2 data sets, each of which")
