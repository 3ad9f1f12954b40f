"""The figures of a report: bounds, labels, and what is drawn for each run."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.make_records import (
    depth_sweep,
    record,
    scores,
    strategy_sweep,
    sweep,
)
from tests.reports.depth_sweeps import DEPTHS, by_depth, rows_of, study_of
from thawline.reports import make_report
from thawline.reports.depth_figure import depth_figure
from thawline.reports.strategy_figure import strategy_figure
from thawline.reports.tables import fitted, result_table

# Bounds and labels of the figures


def test_data_sets_whose_best_lines_differ_are_drawn_with_a_look_for_each_line(tmp_path):
    # Twelve strategies, of which each panel draws its seven best: the first on one data set, the last on the other.
    def make(overrides, place):
        rank = int(place["+what"].removeprefix("s"))
        value = 0.5 + 0.02 * (rank if place["dataset"] == "a" else 11 - rank)
        return record(overrides, k=int(place["freeze_policy.k"]), metrics={"val": scores(value), "test": scores(value)})

    what = [f"s{rank}" for rank in range(12)]
    axes = {"dataset": ["a", "b"], "+what": what, "freeze_policy.k": ["0", "1"], "seed": ["0"]}
    figure, _ = depth_figure(study_of(sweep(tmp_path, axes, make)))
    (legend,) = figure.legends
    handles = zip(legend.legend_handles, legend.get_texts(), strict=True)
    looks = {text.get_text(): (handle.get_color(), handle.get_marker()) for handle, text in handles
             if text.get_text().startswith("what=s") or text.get_text() in what}  # fmt: skip
    assert len(looks) == 12
    assert len(set(looks.values())) == 12


def near_one(overrides, place):
    level = (0.995, 1.0, 0.94)[int(place["seed"])]
    groups = tuple((f"blocks.{index}", 1_000) for index in range(60))
    metrics = {"val": scores(level), "test": scores(level)}
    return record(overrides, k=int(place.get("freeze_policy.k", 3)), groups=groups, metrics=metrics)


def test_intervals_and_axes_stay_inside_the_metrics_bounds(tmp_path):
    seeds = ["0", "1", "2"]
    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["1", "2"], "seed": seeds}, near_one))
    # The t interval of 0.995, 1 and 0.94 is 0.9783 +- 4.3027 * 0.03329 / sqrt(3).
    assert study.rows[0].summary("test", "top1").interval == (pytest.approx(0.8956, abs=1e-4), 1.0)
    (axes,) = depth_figure(study)[0].axes[:1]
    low, high = axes.get_ylim()
    assert 0.0 <= low < 0.8956
    assert high == 1.0
    study = study_of(sweep(tmp_path, {"head": ["a", "b"], "seed": seeds}, near_one, name="heads"))
    assert strategy_figure(study)[0].axes[0].get_xlim()[1] == 1.0


def test_the_labels_of_a_sparse_axis_have_room(tmp_path):
    depths = ["0", "1", "2", "3", "30", "59", "60"]
    study = study_of(sweep(tmp_path, {"freeze_policy.k": depths, "seed": ["0", "1", "2"]}, near_one))
    axes = depth_figure(study)[0].axes[0]
    assert list(axes.get_xticks()) == [0, 30, 60]
    (above,) = axes.child_axes
    assert [text.get_text() for text in above.get_xticklabels()] == ["head only", "blocks.30", "blocks.0"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_the_terminal_and_folds_no_name(tmp_path, width):
    sets = ["digits_low_resolution_and_noise", "digits_low"]
    axes = {"dataset": sets, "freeze_policy.k": ["0", "9"], "seed": ["0", "1", "2"]}
    study = study_of(sweep(tmp_path, axes, by_depth))
    table = fitted(result_table(study), width)
    headings = [column.heading for column in table.columns]
    widths = [max(len(heading), *(len(line.entries[i]) for line in table.lines)) for i, heading in enumerate(headings)]
    assert sum(widths) + 2 * (len(widths) - 1) <= width
    names = {line.entries[1] for line in table.lines}
    assert "digits_low" in names
    assert len(names) == 2
    if width == 200:
        assert table == result_table(study)
    else:
        assert "95 % interval" not in headings
        assert "interval" not in table.note
        assert "runs" not in headings
        assert "In every row: runs 3" in table.note


# The figure


def drawn(axes) -> dict[str, int]:
    points = [len(dots.get_offsets()) for dots in axes.collections if "Path" in type(dots).__name__]
    return {"groups": len(points), "points": sum(points)}


def test_every_seed_is_a_dot_and_the_choice_a_ring(depths):
    figure, caption = depth_figure(study_of(depths))
    axes = figure.axes[0]
    # Three depths, each with its test and its validation scores.
    assert drawn(axes) == {"groups": 6, "points": 18}
    ring = next(line for line in axes.lines if line.get_markerfacecolor() == "none" and line.get_marker() == "o")
    assert [float(ring.get_xdata()[0]), float(ring.get_ydata()[0])] == pytest.approx([1, 0.81])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0\nlinear\nprobe", "1", "9\nfull fine-\ntuning"]
    assert axes.get_ylabel() == "top-1 accuracy"
    assert "Ring: chosen on validation" in caption


def test_a_row_whose_runs_differ_in_depth_is_still_drawn(tmp_path):
    def make(overrides, place):
        return record(overrides, k=int(place["freeze_policy.k"]) + int(place["seed"] == "1"))

    study = study_of(sweep(tmp_path, {"freeze_policy.k": ["0", "4"], "seed": ["0", "1"]}, make))
    assert drawn(depth_figure(study)[0].axes[0])["points"] == 2 * 2 * 2
    assert [row["k"] for row in rows_of(make_report(study.sweep.folder).table_csv)] == ["0.5", "4.5"]


def test_a_second_axis_gets_a_colour_each_and_their_names(tmp_path):
    study = study_of(depth_sweep(tmp_path, depths=[0, 4, 9], seeds=2, axes={"backbone": ["resnet18", "vit", "vgg"]}))
    figure, _ = depth_figure(study)
    assert drawn(figure.axes[0])["points"] == 3 * 3 * 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:3] == ["resnet18", "vit", "vgg"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == 3


def test_diverged_runs_are_crosses(tmp_path):
    def make(overrides, place):
        if place["seed"] == "1":
            return record(
                overrides,
                k=int(place["freeze_policy.k"]),
                metrics={"val": scores(None), "test": scores(None)},
                diverged=True,
            )
        return by_depth(overrides, place)

    figure, _ = depth_figure(study_of(sweep(tmp_path, DEPTHS, make)))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 3
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_strategies_stand_in_the_order_of_validation(tmp_path):
    levels = {"linear_probe": (0, 0.7), "lp_ft": (9, 0.9), "last_k": (3, 0.8)}
    figure, _ = strategy_figure(study_of(strategy_sweep(tmp_path, levels)))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lp_ft", "last_k", "linear_probe"]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["bold", "normal", "normal"]
    assert drawn(axes)["points"] == 9


def test_the_figure_fits_a_column_and_embeds_its_fonts(depths):
    files = make_report(depths)
    with Image.open(files.figure_png) as image:
        assert image.size[0] == round(3.4 * 300)
        assert image.info["dpi"][0] == pytest.approx(300, abs=1)
    pdf = files.figure_pdf.read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_any_axis_can_be_the_one_of_the_figure(tmp_path):
    axes = {"optimizer.lr": ["0.001", "0.01", "0.1"], "seed": ["0", "1"]}
    folder = sweep(tmp_path, axes, lambda overrides, place: record(overrides, k=9))
    assert study_of(folder).axes.depth is None
    figure, _ = depth_figure(study_of(folder, axis="optimizer.lr"))
    assert figure.axes[0].get_xscale() == "log"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0.001", "0.01", "0.1"]
