"""The Python interface: the same runs as the command line's, its results as tables, and its page."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import thawline as tl
from tests.conftest import REPOSITORY, TINY, records
from tests.make_records import record, scores, sweep
from thawline.api.overrides import overrides_of
from thawline.records import load_record

FIELDS = {
    "backbone": "test_resnet",
    "dataset": "digits",
    "dataset.n_per_class": 4,
    "transform": {"size": 32, "resize": "squash"},
    "optimizer": "sgd",
    "trainer": {"max_epochs": 2, "batch_size": 16, "accelerator": "cpu", "progress": False},
    "logger": "none",
}


def on_file(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def test_importing_is_light_and_names_are_found_at_their_first_use():
    script = (
        "import sys; before = set(sys.modules); import thawline; "
        "made = {name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names; "
        "assert made == {'thawline'}, made; "
        "assert set(thawline.__all__) < set(dir(thawline)); thawline.train; thawline.load_run; "
        "sys.exit(bool({'torch', 'hydra', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        tl.tran  # noqa: B018


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": 0, "a": None, "b": True, "c": 1e-05, "d": "resnet18"}, "seed=0|a=null|b=true|c=1e-05|d=resnet18"),
        ({"trainer": {"max_epochs": 2, "strategy": "ddp"}}, "trainer.max_epochs=2|trainer.strategy=ddp"),
        ({"seed": [0, 1], "k": range(3), "lr": np.array([0.1, 0.01])}, "seed=0,1|k=0,1,2|lr=0.1,0.01"),
        ({"size": (32, 48), "shift": (), "regularizer": {}}, "size=[32,48]|shift=[]|regularizer={}"),
        ({"n": np.int64(3), "root": Path("my images/a,b")}, "n=3|root='my images/a,b'"),
        ({"name": "2024_01", "x": "null", "y": "a,b", "z": "${seed}"}, "name='2024_01'|x='null'|y='a,b'|z=${seed}"),
        ({"classes": [(0, 1), (2, 3)], "names": ("true", "cat")}, "classes=[0,1],[2,3]|names=['true',cat]"),
        ({"steps": ({"_target_": "a.B", "p": 0.5},)}, "steps=[{_target_:a.B,p:0.5}]"),
    ],
)
def test_values_of_python_are_the_overrides_of_a_command_line(values, expected):
    assert "|".join(overrides_of(values)) == expected


def test_a_run_is_the_one_of_the_command_line_and_the_process_stays_as_it_was(thawline, monkeypatch):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    def handler(number, frame):
        pass

    assert thawline("train", *TINY, "seed=3").status == 0
    (folder,) = records()
    stamp = (folder / "record.json").stat().st_mtime_ns
    arguments, before = ["script.py", "--mine"], Path.cwd()
    monkeypatch.setattr(sys, "argv", arguments)
    old = signal.signal(signal.SIGTERM, handler)
    Path("own").mkdir()
    Path("own/config.yaml").write_text("x: 1\n")
    paths = list(sys.path)
    try:
        with initialize_config_dir(str(before / "own"), version_base="1.1"):
            hydra = GlobalHydra.instance().hydra
            for given in ([*TINY, "seed=3"], " ".join([*TINY, "seed=3"]), {**FIELDS, "seed": 3}):
                run = tl.train(given)
                assert run.folder == folder.absolute()
            assert GlobalHydra.instance().hydra is hydra
            assert compose("config").x == 1
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, old)
    assert (sys.argv, Path.cwd(), sys.path) == (arguments, before, paths)
    assert (folder / "record.json").stat().st_mtime_ns == stamp
    new = tl.train(FIELDS, seed=4)
    assert new.record.overrides == [*TINY, "seed=4"]
    assert new.record.provenance.command.startswith("thawline train backbone=test_resnet dataset=digits ")
    assert thawline("train", *TINY, "seed=4").status == 0
    assert len(records()) == 2


def test_what_a_run_has_is_what_its_files_say():
    run = tl.train(FIELDS, seed=0, **{"freeze_policy.k": 1})
    said = on_file(run.folder)
    assert (run.identity, run.config, run.metrics) == (said["identity"], said["config"], said["metrics"])
    assert run.history.to_dict("records") == said["history"]
    with np.load(run.folder / "predictions.npz") as stored:
        index, label, probabilities = stored["index"], stored["label"], stored["probabilities"]
    table = run.predictions
    assert table.index.tolist() == index.tolist()
    assert table["label"].tolist() == label.tolist()
    assert list(table.columns) == ["label", *(f"probabilities.{name}" for name in said["classes"])]
    assert (table.iloc[:, 1:].to_numpy() == probabilities).all()
    assert (probabilities.argmax(axis=1) == label).mean() == pytest.approx(said["metrics"]["test"]["top1"])
    state, best = run.load_model().state_dict(), load_file(run.folder / "best.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in best.items())
    assert not any(module.training for module in run.load_model().modules())
    _predicts_as_in_the_test(run, index, probabilities, said["classes"])
    (run.folder / "best.safetensors").write_bytes(b"damaged")
    with pytest.raises(tl.UsageError, match=r"best\.safetensors: damaged"):
        tl.load_run(run.identity[:8]).load_model()


def _predicts_as_in_the_test(run, index, probabilities, classes):
    """Every kind of image gives the test's probabilities: of the digits, scaled as the data set scales them."""
    from thawline.datasets import Digits

    images = Digits().load(0).test.images
    pillow = [images.read(int(row)) for row in index[:3]]
    arrays = [np.asarray(image) for image in pillow]
    for place, image in enumerate(pillow):
        image.save(f"{place}.png")
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    paths = [Path(f"{place}.png") for place in range(3)]
    for given in (pillow, arrays, np.stack(arrays), batch, paths, list(batch)):
        found = run.predict(given)
        assert list(found.columns) == classes
        np.testing.assert_allclose(found.to_numpy(), probabilities[:3], rtol=1e-5, atol=1e-7)
    assert found.index.tolist() == [0, 1, 2]
    assert run.predict(paths).index.tolist() == ["0.png", "1.png", "2.png"]
    assert len(run.predict("0.png")) == len(run.predict(arrays[0][:, :, 0])) == len(run.predict(batch[0])) == 1
    # A transparent image is laid over white, as the data set's files are.
    Image.new("RGBA", (9, 9)).save("clear.png")
    white = np.full((9, 9, 3), 255, np.uint8)
    assert (run.predict("clear.png").to_numpy() == run.predict(white).to_numpy()).all()
    assert (run.predict(Image.open("clear.png")).to_numpy() == run.predict(white).to_numpy()).all()
    for wrong, message in (
        (arrays[0] / 255, "got float64"),
        ([], "there is none"),
        (torch.zeros((2, 8, 8)), r"got \(2, 8, 8\)"),
        ("gone.png", "gone.png: cannot be read"),
    ):
        with pytest.raises(tl.UsageError, match=f"images: .*{message}"):
            run.predict(wrong)


def test_a_sweep_has_the_report_s_numbers_and_the_best_run_by_validation():
    sweep = tl.train({**FIELDS, "freeze_policy.k": [0, 1]}, seed=range(2))
    assert isinstance(sweep, tl.Sweep)
    found = {folder.name: load_record(folder) for folder in records()}
    assert sorted(sweep.runs.index) == sorted(found)
    for identity, row in sweep.runs.iterrows():
        assert row["test_top1"] == found[identity].metrics["test"]["top1"]
        assert int(row["freeze_policy.k"]) == found[identity].config["freeze_policy"]["k"]
    means = {
        k: np.mean([r.metrics["test"]["top1"] for r in found.values() if r.config["freeze_policy"]["k"] == k])
        for k in (0, 1)
    }
    table = sweep.table
    assert dict(zip(table["freeze_policy.k"].astype(int), table["test_top1_mean"], strict=True)) == pytest.approx(means)
    with (sweep.folder / "report/table.csv").open() as stream:
        assert [row["test_top1_mean"] for row in csv.DictReader(stream)] == [str(x) for x in table["test_top1_mean"]]
    best = max(found.values(), key=lambda r: (r.metrics["val"]["top1"], -r.metrics["val"]["loss"]))
    assert sweep.best.identity == best.identity
    drawn = [line for axes in sweep.figure().axes for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert any(list(line.get_ydata()) == pytest.approx([means[0], means[1]]) for line in drawn)
    again = tl.load_sweep(sweep.name)
    assert [run.identity for run in again] == list(sweep.runs.index)
    assert repr(again) == f"<Sweep {sweep.name}: 4 of 4 runs done>"


def test_the_best_run_is_that_of_validation_and_of_equals_the_smallest(tmp_path):
    val, test = {0: 0.9, 1: 0.9, 2: 0.8, 3: None}, {0: 0.5, 1: 0.5, 2: 0.99, 3: None}

    def made(overrides, place):
        k = int(place["freeze_policy.k"])
        return record(overrides, k=k, metrics={"val": scores(val[k]), "test": scores(test[k])})

    folder = sweep(tmp_path, {"freeze_policy.k": ["3", "2", "1", "0"]}, made)
    assert tl.load_sweep(folder).best.record.overrides == ["freeze_policy.k=0"]


def test_errors_are_exceptions_that_name_what_is_wrong(thawline, monkeypatch):
    for given, message in (
        ({**FIELDS, "dataset": "digitz"}, "dataset: there is no option 'digitz'"),
        ({**FIELDS, "seed": object()}, "seed: a value of type object cannot be a setting"),
        ({**FIELDS, "seed": []}, "seed: an empty list has nothing to sweep"),
        ([*TINY, "seed=0,1"], "seed: several values are a sweep: pass multirun=True"),
        (
            [*TINY, "freeze_policy.k=0..2"],
            'each from 0 to 2: range(0, 3) in a mapping, or multirun=True with "freeze_policy.k=range(0,3)"',
        ),
        ({**FIELDS, "seed": "1-2"}, "each from 1 to 2: range(1, 3) in a mapping"),
        ([*TINY, "--cfg", "job"], "--cfg: not for Python"),
    ):
        with pytest.raises(tl.UsageError, match=re.escape(message)):
            tl.train(given)
    with pytest.raises(tl.UsageError, match="config_dir: there is no folder"):
        tl.train(FIELDS, config_dir="gone")
    with pytest.raises(tl.UsageError, match="no sweep"):
        tl.load_sweep("gone")
    assert not Path("outputs").exists()
    monkeypatch.setattr("thawline.execution.run.finish", lambda *_: 1 / 0)
    with pytest.raises(tl.RunFailed, match="ZeroDivisionError") as failed:
        tl.train(FIELDS)
    assert "ZeroDivisionError" in failed.value.traceback_file.read_text()
    with pytest.raises(tl.SweepIncomplete, match=r"1 of 1 runs are not done\n.*ZeroDivisionError") as incomplete:
        tl.train(FIELDS, multirun=True, seed=1)
    assert [one.status.state for one in incomplete.value.unfinished] == ["failed"]
    assert tl.load_sweep(incomplete.value.folder).runs["status"].tolist() == ["missing"]


def test_a_stopped_call_is_a_keyboard_interrupt_and_goes_on_from_there(monkeypatch):
    from thawline.execution import run as execution

    finish = execution.finish

    def stopped(*given):
        os.kill(os.getpid(), signal.SIGINT)
        return finish(*given)

    fields = {**FIELDS, "trainer": {**FIELDS["trainer"], "checkpoint_seconds": 0}}
    monkeypatch.setattr(execution, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        tl.train(fields)
    monkeypatch.setattr(execution, "finish", finish)
    assert tl.train(fields).record.provenance.resumed


def test_own_classes_are_allowed_for_the_call_alone(own_class, tmp_path):
    source = "from thawline.freeze_policies import LastK\n\n\nclass Mine(LastK):\n    pass\n"
    own_class("policies", source, "freeze_policy/mine", "_target_: mine.policies.Mine\nk: 1\n")
    with pytest.raises(tl.UsageError, match="there is no option 'mine'"):
        tl.train(FIELDS, freeze_policy="mine")
    run = tl.train(FIELDS, freeze_policy="mine", allow="mine", config_dir="conf")
    assert run.record.provenance.options == ["--allow", "mine", "--config-dir", "conf"]
    assert run.load_model()
    with pytest.raises(tl.UsageError, match="outside the allowed packages"):
        tl.load_run(run.identity).load_model()
    assert tl.load_run(run.identity, allow="mine").load_model()


@pytest.mark.slow
def test_the_page_runs_as_it_stands(capsys):
    page = (REPOSITORY / "docs/python.md").read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(code, "docs/python.md", "exec"), names)  # noqa: S102
    assert "there is no option 'digitz'; nearest: digits" in capsys.readouterr().out
    # The first run leaves k unset, which is a configuration of its own.
    assert len(records()) == 5
    assert names["logits"].shape == (1, 10)
    assert Path("depth.pdf").stat().st_size > 1000
    assert load_digits().images.shape[1:] == names["image"].shape
