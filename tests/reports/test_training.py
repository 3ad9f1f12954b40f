"""What a report says of how its runs were trained, and by which versions."""

from __future__ import annotations

from tests.make_records import (
    PROVENANCE,
    RECIPE,
    RESNET18,
    record,
    scores,
    sweep,
)
from tests.reports.depth_sweeps import study_of
from thawline.cli import main
from thawline.reports import make_report
from thawline.reports.curve_figure import curve_figure
from thawline.reports.wording import warnings


def curve(*losses, best):
    """A history whose validation accuracy is best in the epoch `best`, and the selection of that epoch."""
    rows = [
        {"phase": "main", "epoch": epoch, "train/loss": loss, "val/top1": 0.8 - 0.01 * abs(best - epoch)}
        for epoch, loss in enumerate(losses)
    ]
    return {
        "history": rows,
        "selection": {"monitor": "val/top1", "mode": "max", "value": 0.8, "phase": 0, "epoch": best},
    }


def test_runs_that_were_not_trained_to_the_end_are_no_finding(tmp_path):
    def make(overrides, place):
        k = int(place["freeze_policy.k"])
        return record(overrides, k=k, **curve(2.0, 1.0, 0.5, best=2 if k == 9 else 1))

    files = make_report(sweep(tmp_path, {"freeze_policy.k": ["0", "9"], "seed": ["0", "1"]}, make))
    expected = (
        "The last epoch was the best one by validation (k = 9: 2 of 2): these runs may not have been trained to the "
        "end. Full fine-tuning is among them, and every run was trained at the same learning rate (0.01): how it "
        "compares with the others here is no finding about the strategies. Train longer, and tune each one's rate."
    )
    assert warnings(files.study) == (expected,)
    assert f"> **Note.** {expected}" in files.markdown.read_text()


def test_a_training_loss_that_rose_is_told(tmp_path):
    def make(overrides, place):
        losses = (0.5, 0.4, 0.9) if place["seed"] == "1" else (2.0, 3.0, 0.5)
        return record(overrides, k=1, **curve(*losses, best=1))

    study = study_of(sweep(tmp_path, {"seed": ["0", "1"]}, make))
    assert warnings(study) == (
        "The training loss rose from the first epoch to the last (all runs: 1 of 2): the rate may be too high.",
    )


def test_the_report_has_the_recipe_and_the_curves_of_every_run(tmp_path):
    def make(overrides, place):
        recipe = {**RECIPE, "lr": float(place["optimizer.lr"])}
        return record(overrides, k=1, recipe=recipe, **curve(2.0, 1.0, 0.5, best=1))

    files = make_report(sweep(tmp_path, {"optimizer.lr": ["0.1", "0.01"], "seed": ["0", "1"]}, make))
    page = files.markdown.read_text()
    assert "| lr | 0.1 (2), 0.01 (2) |" in page
    for line in ("batch size | 64", "schedule | Cosine(warmup=0.1)", "input size | 224 x 224", "head | Linear",
                 "augmentation | RandomHorizontalFlip(p=0.5)", "regularizers | none"):  # fmt: skip
        assert f"| {line} |" in page
    assert "](curves.png)" in page
    figure, _ = curve_figure(files.study)
    loss, validation = figure.axes
    lines = [line.tolist() for of_row in loss.collections for line in of_row.get_segments()]
    assert lines == [[[0.0, 2.0], [1.0, 1.0], [2.0, 0.5]]] * 4
    assert [list(dots.get_xdata()) for dots in validation.lines] == [[1, 1]] * 2


def test_versions_that_share_a_sweep_are_told_in_the_terminal_and_at_the_head(tmp_path, capsys):
    def make(overrides, place):
        packages = {**PROVENANCE["packages"], "thawline": "0.2.0" if place["seed"] == "1" else "0.1.0"}
        return record(overrides, provenance={**PROVENANCE, "packages": packages})

    folder = sweep(tmp_path, {"seed": ["0", "1", "2"]}, make)
    expected = (
        "The runs were made by 2 versions of thawline, which may give other numbers: 0.1.0 at commit 0000000000 "
        "(2 runs), 0.2.0 at commit 0000000000 (1 run)."
    )
    assert main(["report", str(folder)]) == 0
    assert f"note: {expected}" in " ".join(capsys.readouterr().out.split())
    head, _, _ = (folder / "report" / "report.md").read_text().partition("## ")
    assert expected in head
    assert main(["status", str(folder)]) == 0
    assert f"note: {expected}" in " ".join(capsys.readouterr().out.split())


def test_groups_that_train_in_part_are_no_whole_groups(tmp_path):
    groups = [{"index": i, "name": name, "parameters": size, "trained": 2} for i, (name, size) in enumerate(RESNET18)]
    folder = sweep(tmp_path, {"seed": ["0"]}, lambda overrides, place: record(overrides, layer_groups=groups))
    assert "| **9 in part** | **all** |" in make_report(folder).table_md.read_text()


def test_a_best_rate_at_the_edge_of_those_tried_is_told_for_each_strategy(tmp_path):
    validation = {
        "full": {"0.0001": 0.6, "0.001": 0.9, "0.01": 0.7},
        "linear_probe": {"0.0001": 0.5, "0.001": 0.6, "0.01": 0.7},
        "lp_ft": {"0.0001": 0.8, "0.001": 0.7, "0.01": 0.6},
    }

    def make(overrides, place):
        metrics = {"val": scores(validation[place["strategy"]][place["optimizer.lr"]]), "test": scores(0.5)}
        return record(overrides, recipe={**RECIPE, "lr": float(place["optimizer.lr"])}, metrics=metrics)

    # The order of an axis is the user's own.
    grid = {"optimizer.lr": ["0.001", "0.01", "0.0001"], "strategy": list(validation), "seed": ["0", "1"]}
    expected = (
        "The best learning rate by validation is at the edge of those tried (lp_ft: 0.0001, the smallest of 3; "
        "linear_probe: 0.01, the largest of 3): a better one may lie beyond."
    )
    assert warnings(study_of(sweep(tmp_path, grid, make))) == (expected,)


def test_a_rate_at_which_runs_diverged_was_tried(tmp_path):
    def make(rates):
        def made(overrides, place):
            value = {"0.1": 0.7, "1": 0.8, "10": None}[place["optimizer.lr"]]
            metrics = {"val": scores(value), "test": scores(value)}
            recipe = {**RECIPE, "lr": float(place["optimizer.lr"])}
            return record(overrides, recipe=recipe, metrics=metrics, diverged=value is None)

        return sweep(tmp_path, {"optimizer.lr": rates, "seed": ["0", "1"]}, made, f"{len(rates)} rates")

    told = "The best learning rate by validation is at the edge of those tried ({}): a better one may lie beyond."
    assert told.format("1, the largest of 2") in warnings(study_of(make(["0.1", "1"])))
    assert not [text for text in warnings(study_of(make(["0.1", "1", "10"]))) if "edge" in text]
    # Along the depth axis of the figure the rate says so too; one rate alone has no edge.
    assert told.format("1, the largest of 2") in warnings(study_of(make(["0.1", "1"]), axis="optimizer.lr"))
    assert warnings(study_of(make(["1"]))) == ()


def flat(top1, macro_accuracy):
    return {**scores(top1), "macro_accuracy": macro_accuracy}


def test_runs_no_better_than_a_constant_predictor_learned_nothing(tmp_path):
    """Of 200 test images 80 are of one class: saying it of every image has top-1 0.4 and macro accuracy 1/5."""
    constant = {"top1": 0.4, "macro_accuracy": 0.2}
    split = {"samples": 200, "sha256": "0", "per_class": [80, 30, 30, 30, 30], "constant_scores": constant}
    reached = {
        "constant": [(0.4, 0.2), (0.4, 0.2)],
        "below": [(0.395, 0.2), (0.0, 0.0)],
        "one seed learned": [(0.4, 0.2), (0.405, 0.2)],
        "learned the small classes": [(0.39, 0.45), (0.4, 0.41)],
    }

    def make(overrides, place):
        top1, macro = reached[place["setting"]][int(place["seed"])]
        metrics = {"val": flat(0.9, 0.9), "test": flat(top1, macro)}
        return record(overrides, metrics=metrics, splits={"val": split, "test": split})

    expected = (
        "No better on test than a constant predictor (constant: 2 of 2; below: 2 of 2): these runs learned nothing, "
        "so that whether they are equal says nothing about their settings."
    )
    grid = {"setting": list(reached), "seed": ["0", "1"]}
    assert expected in warnings(study_of(sweep(tmp_path, grid, make)))
    alone = sweep(tmp_path / "alone", {"setting": ["constant"], "seed": ["0", "1"]}, make)
    assert warnings(study_of(alone)) == (
        "No better on test than a constant predictor (all runs: 2 of 2): these runs learned nothing.",
    )
