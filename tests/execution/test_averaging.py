"""Averages of runs: the arithmetic is exact, choices are made on validation, and each average is a run of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TINY, records
from thawline.execution import averaging
from thawline.execution.averaging import batch_norms, interpolated, mean_of, reestimate_statistics
from thawline.execution.weights import build_model, restore
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record

START = {"w": torch.tensor([1.0, 2.0, 3e-8]), "n": torch.tensor(3), "h": torch.tensor([0.1], dtype=torch.float16)}
END = {"w": torch.tensor([3.0, -2.0, 1e30]), "n": torch.tensor(8), "h": torch.tensor([0.3], dtype=torch.float16)}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# The arithmetic -------------------------------------------------------------------------------------------------------


def test_the_ends_of_an_interpolation_are_exact():
    assert same(interpolated(START, END, 1.0), END)
    assert same(interpolated(START, END, 0.0), {**START, "n": END["n"]})
    # Also where the other end is not finite: 0 times infinity is no number.
    endless = {name: torch.full_like(tensor, torch.inf) for name, tensor in END.items() if tensor.is_floating_point()}
    finite = {name: END[name] for name in endless}
    assert same(interpolated(endless, finite, 1.0), finite)
    assert same(interpolated(finite, endless, 0.0), finite)


def test_between_the_ends_it_is_the_line_and_integers_are_left_alone():
    middle = interpolated(START, END, 0.25)
    torch.testing.assert_close(middle["w"][:2], torch.tensor([1.5, 1.0]))
    assert middle["n"] == 8
    assert {name: tensor.dtype for name, tensor in middle.items()} == {name: t.dtype for name, t in END.items()}


def test_equal_networks_interpolate_and_average_to_themselves():
    torch.manual_seed(0)
    network = {"w": torch.randn(1000), "n": torch.tensor(5)}
    assert same(interpolated(network, network, 0.3), network)
    for count in (1, 2, 3, 7):
        assert same(mean_of([network] * count), network)


def test_the_mean_is_that_of_the_numbers_and_the_first_ones_integers():
    mean = mean_of([START, END, END])
    torch.testing.assert_close(mean["w"][:2], torch.tensor([7 / 3, -2 / 3]))
    assert mean["n"] == 3
    assert mean["h"].dtype == torch.float16


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_reestimated_statistics_are_those_of_the_images(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    images = torch.rand(12, 3, 32, 32)
    first = next(iter(batch_norms(model)))
    seen: list[torch.Tensor] = []
    norm = model.get_submodule(first)
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    weights = {key: parameter.clone() for key, parameter in model.named_parameters()}
    reestimate_statistics(model, batch_norms(model), iter(images.split(6)))
    handle.remove()
    values = torch.cat(seen)
    torch.testing.assert_close(norm.running_mean, values.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    expected = torch.stack([batch.var(dim=(0, 2, 3)) for batch in seen]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, expected, rtol=1e-4, atol=1e-6)
    after = dict(model.named_buffers())
    assert all(torch.equal(after[key], before[key]) for key in after if key.endswith("num_batches_tracked"))
    assert all(not torch.equal(after[key], before[key]) for key in after if key.endswith("running_mean"))
    assert all(torch.equal(parameter, weights[key]) for key, parameter in model.named_parameters())
    assert not any(module.training for module in model.modules())
    assert {module.momentum for module in batch_norms(model).values()} == {0.1}


def test_only_the_norms_that_are_named_are_reestimated():
    model = timm.create_model("test_resnet", num_classes=0)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    reestimate_statistics(model, {"bn1"}, iter([torch.rand(4, 3, 32, 32)]))
    changed = {key for key, buffer in model.named_buffers() if not torch.equal(buffer, before[key])}
    assert changed == {"bn1.running_mean", "bn1.running_var"}


# Runs and sweeps ------------------------------------------------------------------------------------------------------

SWEEP = ("freeze_policy.k=1", "optimizer=adamw", "sweep.name=rates", "sweep.report=false", "data_seed=0")


@pytest.fixture(scope="module")
def swept(zygote, tmp_path_factory) -> Path:
    """Three runs that differ in their learning rate."""
    place = tmp_path_factory.mktemp("rates")
    done = zygote.run("train", "-m", *TINY, *SWEEP, "optimizer.lr=0.001,0.01,0.03", folder=place)
    assert done.wait() == 0, done.err
    return place / "outputs"


@pytest.fixture
def rates(swept):
    """The three runs, copied to where the test stands; best on validation first."""
    shutil.copytree(swept, "outputs")
    found = [load_record(folder) for folder in records()]
    return sorted(found, key=lambda record: (-record.selection.value, record.identity))


def averaged(before) -> list:
    known = {record.identity for record in before}
    return [load_record(folder) for folder in records() if folder.name not in known]


def tensors_of(record) -> dict[str, torch.Tensor]:
    return load_file(Path("outputs/runs") / record.identity / "best.safetensors")


def test_wise_ft_of_a_run_judges_the_line_and_tests_the_best(thawline, rates):
    run = rates[0]
    result = thawline("average", run.identity, "--method", "wise_ft", "--alphas", "0,0.5,1")
    assert result.status == 0, result.err
    (record,) = averaged(rates)
    assert [row["alpha"] for row in record.history] == [0.0, 0.5, 1.0]
    # At alpha 1 stands the run itself.
    for metric in ("loss", "top1", "macro_f1"):
        assert record.history[2][f"val/{metric}"] == pytest.approx(run.metrics["val"][metric], rel=1e-5)
    best = max(row["val/top1"] for row in record.history)
    chosen = record.history[record.selection.epoch]
    assert record.selection.value == best == chosen["val/top1"] == record.metrics["val"]["top1"]
    plan = plan_run(run.config, (), Session())
    start = {name: build_model(RunContext(plan, Session())).state_dict()[name] for name in tensors_of(run)}
    assert same(tensors_of(record), interpolated(start, tensors_of(run), chosen["alpha"]))
    assert record.diagnostics["average"]["ingredients"] == [run.identity]
    assert any("WiSE-FT" in note and run.identity in note for note in record.notes)
    assert record.phases == []
    assert record.parameters == run.parameters


def test_the_record_is_that_of_the_weights_that_the_run_leaves(thawline, rates):
    thawline("average", "rates", "--method", "greedy")
    (record,) = averaged(rates)
    session = Session()
    plan = plan_run(record.config, (), session)
    assert plan.identity == record.identity
    model = build_model(RunContext(plan, session))
    restore(model, plan.folder / "best.safetensors")
    stored = np.load(plan.folder / "predictions.npz")
    assert len(stored["label"]) == record.splits["test"].samples
    top1 = (stored["probabilities"].argmax(axis=1) == stored["label"]).mean()
    assert record.metrics["test"]["top1"] == pytest.approx(top1, abs=1e-6)
    assert np.array(record.confusion_matrix).trace() / len(stored["label"]) == pytest.approx(top1)
    model.eval()
    rows = stored["index"][:50]
    images = averaging.decoded_images(RunContext(plan, session)).read(rows)
    with torch.no_grad():
        torch.testing.assert_close(model(images).softmax(1), torch.from_numpy(stored["probabilities"][:50]))


def test_a_uniform_soup_is_the_mean_with_statistics_of_its_own(thawline, rates):
    assert thawline("average", "rates", "--method", "uniform").status == 0
    (record,) = averaged(rates)
    ordered = sorted(rates, key=lambda run: run.identity)
    expected = mean_of([tensors_of(run) for run in ordered])
    soup = tensors_of(record)
    statistics = {name for name in soup if "running" in name}
    assert statistics
    assert same(
        {n: t for n, t in soup.items() if n not in statistics}, {n: expected[n] for n in soup.keys() - statistics}
    )
    assert all(not torch.equal(soup[name], expected[name]) for name in statistics)
    assert record.diagnostics["average"]["ingredients"] == [run.identity for run in ordered]


def test_a_greedy_soup_is_never_worse_on_validation_than_its_best_ingredient(thawline, rates):
    assert thawline("average", "rates", "--method", "greedy").status == 0
    (record,) = averaged(rates)
    assert record.selection.value >= rates[0].selection.value
    singles = {row["ingredients"][0]: row["val/top1"] for row in record.history if len(row["ingredients"]) == 1}
    assert singles == {run.identity: pytest.approx(run.selection.value) for run in rates}
    # The protocol, replayed from the history: in order of validation (accuracy, then loss), each stays if the mean is
    # not worse with it.
    ranks = {row["ingredients"][0]: (row["val/top1"], -row["val/loss"]) for row in record.history[: len(singles)]}
    order = sorted(ranks, key=lambda identity: ranks[identity], reverse=True)
    soup, best = order[:1], ranks[order[0]]
    for row, identity in zip(record.history[len(singles) :], order[1:], strict=True):
        assert row["ingredients"] == [*soup, identity]
        if (row["val/top1"], -row["val/loss"]) >= best:
            soup, best = row["ingredients"], (row["val/top1"], -row["val/loss"])
    assert record.diagnostics["average"]["chosen"] == {"ingredients": soup}
    assert record.selection.value == best[0]


def test_a_greedy_soup_keeps_what_does_not_harm_it(thawline, rates, monkeypatch):
    """The second is best; the first would harm it and is left out; the third leaves it as it is and stays."""
    scripted = iter([(0.5, 1.0), (0.6, 1.0), (0.4, 1.0), (0.6, 1.1), (0.6, 1.0)])
    judge = averaging._Average._evaluated

    def judged(self, rows):
        values, predictions = judge(self, rows)
        top1, loss = next(scripted, (values["top1"], values["loss"]))
        return {**values, "top1": top1, "loss": loss}, predictions

    monkeypatch.setattr(averaging._Average, "_evaluated", judged)
    assert thawline("average", "rates", "--method", "greedy").status == 0
    (record,) = averaged(rates)
    first, second, third = sorted(run.identity for run in rates)
    tried = [row["ingredients"] for row in record.history]
    assert tried == [[first], [second], [third], [second, first], [second, third]]
    assert record.diagnostics["average"]["chosen"] == {"ingredients": [second, third]}
    assert record.selection.value == 0.6


def test_the_same_average_twice_is_made_once(thawline, rates):
    thawline("average", "rates", "--method", "uniform")
    (record,) = averaged(rates)
    stamp = (Path("outputs/runs") / record.identity / "record.json").stat().st_mtime_ns
    assert thawline("average", "rates", "--method", "uniform").status == 0
    assert (Path("outputs/runs") / record.identity / "record.json").stat().st_mtime_ns == stamp


def test_a_sweep_of_averages_stands_beside_its_runs_in_a_report(thawline, rates):
    assert thawline("average", "rates", "--method", "wise_ft", "--alphas", "0.5,1").status == 0
    manifest = json.loads(Path("outputs/sweeps/rates-wise_ft/sweep.json").read_text())
    assert manifest["axes"]["average.method"] == ["none", "wise_ft"]
    assert len(manifest["cells"]) == 6
    assert {cell["identity"] for cell in manifest["cells"]} == {folder.name for folder in records()}
    result = thawline("report", "rates-wise_ft", "--csv")
    assert result.status == 0, result.err
    assert result.out.count("wise_ft") == 3
    assert thawline("status", "rates-wise_ft").status == 0
    # The averages of a sweep are no ingredients of the next one.
    assert thawline("average", "rates-wise_ft", "--method", "uniform").status == 0
    (soup,) = [record for record in averaged(rates) if record.config["average"]["method"] == "uniform"]
    assert sorted(soup.diagnostics["average"]["ingredients"]) == sorted(run.identity for run in rates)


def test_the_test_split_is_read_for_the_chosen_average_alone(thawline, rates, monkeypatch):
    read = []
    judge = averaging._Average._evaluated
    monkeypatch.setattr(
        averaging._Average, "_evaluated", lambda self, rows: read.append(len(rows)) or judge(self, rows)
    )
    assert thawline("average", "rates", "--method", "greedy").status == 0
    splits = rates[0].splits
    assert read == [splits["val"].samples] * 5 + [splits["test"].samples]


def test_an_average_is_a_source_of_weights_like_any_run(thawline, rates):
    thawline("average", "rates", "--method", "uniform")
    (soup,) = averaged(rates)
    weights = f"backbone.weights=run:{soup.identity}"
    assert thawline("train", *TINY, weights, "freeze_policy=linear_probe").status == 0
    (tuned,) = averaged([*rates, soup])
    start = build_model(RunContext(plan_run(tuned.config, (), Session()), Session())).state_dict()
    moved = {name: tensor for name, tensor in tensors_of(soup).items() if name.startswith("backbone.")}
    assert same({name: start[name] for name in moved}, moved)
    again = thawline("average", soup.identity, "--method", "wise_ft")
    assert (again.status, again.err.strip().endswith(f"{soup.identity} is an average itself")) == (2, True)


def test_from_one_run_to_another(thawline, rates):
    other, run = rates[1], rates[0]
    result = thawline("average", run.identity, "--method", "wise_ft", "--alphas", "0,1", "--start", other.identity)
    assert result.status == 0, result.err
    (record,) = averaged(rates)
    assert record.history[0]["val/loss"] == pytest.approx(other.metrics["val"]["loss"], rel=1e-5)
    assert record.history[1]["val/loss"] == pytest.approx(run.metrics["val"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_runs_with_other_splits_make_soups_of_their_own(thawline):
    """One run's training images are in another's validation split: their mean has seen what it is evaluated on."""
    seeds = ("optimizer.lr=0.001,0.01", "seed=0,1")
    assert (
        thawline("train", "-m", *TINY, "freeze_policy.k=1", *seeds, "sweep.name=seeds", "sweep.report=false").status
        == 0
    )
    runs = [load_record(folder) for folder in records()]
    result = thawline("average", "seeds", "--method", "uniform")
    assert result.status == 0, result.err
    soups = averaged(runs)
    assert sorted(record.config["seed"] for record in soups) == [0, 1]
    of = {record.identity: record for record in runs}
    for soup in soups:
        ingredients = [of[identity] for identity in soup.diagnostics["average"]["ingredients"]]
        assert len(ingredients) == 2
        assert {run.splits["val"].sha256 for run in ingredients} == {soup.splits["val"].sha256}


def test_what_did_not_learn_is_left_out(thawline, rates):
    folder = Path("outputs/runs") / rates[1].identity
    record = json.loads((folder / "record.json").read_text())
    record["selection"]["value"] = None
    (folder / "record.json").write_text(json.dumps(record))
    missing = Path("outputs/runs") / rates[2].identity
    missing.rename("elsewhere")
    result = thawline("average", "rates", "--method", "wise_ft", "--alphas", "1")
    assert result.status == 0, result.err
    assert f"left out: run {rates[1].identity}: diverged" in result.err
    assert f"left out: run {rates[2].identity}: not done" in result.err
    assert len(averaged(rates)) == 1
    alone = thawline("average", "rates", "--method", "greedy")
    assert alone.status == 2
    assert f"run {rates[0].identity}: no other run of the sweep is like it" in alone.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "--method", "greedy"), "no sweep 'nothing'"),
        (("{run}", "--method", "greedy"), "--method: greedy averages the runs of a sweep"),
        (("{run:.8}", "--method", "greedy"), "--method: greedy averages the runs of a sweep"),
        (("rates", "--method", "uniform", "--alphas", "0,1"), "--start and --alphas are of wise_ft"),
        (("rates", "--method", "wise_ft", "--alphas", "0,2"), "--alphas: '0,2' is not a list of numbers from 0 to 1"),
        (("{run}", "--method", "wise_ft", "--start", "0123456789abcdef0123"), "no such record"),
    ],
)
def test_what_cannot_be_averaged_is_refused(thawline, rates, arguments, message):
    result = thawline("average", *(argument.format(run=rates[0].identity) for argument in arguments))
    assert result.status == 2
    assert message in result.err
    assert averaged(rates) == []


def test_a_start_of_another_network_is_refused(thawline, rates):
    assert thawline("train", *TINY, "data_seed=0", "backbone=test_efficientnet").status == 0
    (other,) = averaged(rates)
    result = thawline("average", rates[0].identity, "--method", "wise_ft", "--start", other.identity[:8])
    assert result.status == 2
    assert f"--start: run {other.identity} has another network" in result.err


def test_a_damaged_ingredient_fails_and_leaves_no_record(thawline, rates):
    file = Path("outputs/runs") / rates[0].identity / "best.safetensors"
    save_file({"strange": torch.zeros(1)}, file)
    result = thawline("average", rates[0].identity, "--method", "wise_ft")
    assert result.status == 1
    assert "failed" in result.err
    assert averaged(rates) == []
