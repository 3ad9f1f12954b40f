"""A finished sweep is answered without planning it, and whatever changes of what it rests on makes it planned again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.conftest import TINY, records
from tests.datasets.image_folders import class_folders
from thawline.cli import main
from thawline.execution.run import execute
from thawline.planning.plan import plan_run
from thawline.runtime import program as programs
from thawline.sweeps import known

SWEEP = (
    "train", "-m", *(item for item in TINY if not item.startswith(("dataset", "trainer.max_epochs"))),
    "dataset=image_folder", "dataset.root=images", "backbone.weights=start.safetensors", "freeze_policy.k=0,1",
    "trainer.max_epochs=1", "seed=0,1", "sweep.name=small", "sweep.report=false",
)  # fmt: skip
ALONE = ("train", *(item for item in SWEEP[2:] if "0,1" not in item), "freeze_policy.k=0", "seed=0")


class PlannedError(Exception):
    """A run was about to be planned."""


def _refuse(*_, **__):
    raise PlannedError


@pytest.fixture(scope="module", autouse=True)
def _unchanged_program():
    """Whoever has just edited thawline's sources keeps no plans; these tests are not about that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "program", lambda: "this program")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with images, weights and two finished runs of both."""
    folder = tmp_path_factory.mktemp("finished")
    class_folders(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _random_weights()
        assert main(list(SWEEP)) == 0
        assert main(list(ALONE)) == 0
    return folder


def _run_of(k, seed):
    """The folder of a run of the sweep."""
    configs = {folder: json.loads((folder / "record.json").read_text())["config"] for folder in records()}
    (found,) = [
        folder for folder, config in configs.items() if (config["freeze_policy"]["k"], config["seed"]) == (k, seed)
    ]
    return found


def _random_weights():
    import timm
    import torch

    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    save_file({name: tensor.numpy() for name, tensor in state.items()}, "start.safetensors")


@pytest.fixture
def refused(monkeypatch):
    """Planning a run is an error."""
    monkeypatch.setattr("thawline.sweeps.sweep.plan_run", _refuse)
    monkeypatch.setattr("thawline.planning.plan.plan_run", _refuse)


@pytest.fixture
def copied(finished, tmp_path, refused):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def test_a_finished_sweep_and_a_finished_run_are_not_planned_again(copied, thawline):
    before = {folder: (folder / "record.json").read_bytes() for folder in records()}
    manifest = Path("outputs/sweeps/small/sweep.json")
    written = json.loads(manifest.read_text())
    manifest.unlink()
    result = thawline(*SWEEP)
    assert (result.status, result.out, result.err) == (0, "sweep small: 4 runs\n", "")
    assert json.loads(manifest.read_text()) == written
    assert {folder: (folder / "record.json").read_bytes() for folder in records()} == before
    alone = thawline(*ALONE)
    assert alone.status == 0
    assert alone.out.splitlines()[0].split() == ["metric", "test", "val"]
    assert alone.out.splitlines()[-1] == f"record: {_run_of(k=0, seed=0)}/record.json"


def test_its_answer_imports_no_torch(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    script = """
import sys
from thawline.cli import main
from thawline.sweeps import known
known.program = lambda: "this program"
for command in (sys.argv[1:], [*sys.argv[1:], "sweep.report=true", "report.margin=0.2"]):
    assert main(command) == 0
    heavy = {"torch", "torchvision", "timm", "pytorch_lightning", "sklearn", "pandas", "wandb"} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script, *SWEEP], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lies within ±0.2" in Path("outputs/sweeps/small/report/report.md").read_text()


def _repainted(file, color):
    Image.new("RGB", (4, 4), color).save(file)


def _repainted_unseen():
    """The file has its size and its time of change again."""
    file = Path("images/cat/0.png")
    before = file.stat()
    _repainted(file, (2, 0, 7))
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _other_weights():
    state = load_file("start.safetensors")
    save_file({**state, "conv1.0.weight": 2 * state["conv1.0.weight"]}, "start.safetensors")


def _first_record():
    return records()[0] / "record.json"


def _edited(change):
    values = json.loads(_first_record().read_text())
    change(values)
    _first_record().write_text(json.dumps(values))


CHANGES = {
    "an image is another": lambda: _repainted(Path("images/cat/0.png"), (99, 99, 99)),
    "an image is another of the same size and time": _repainted_unseen,
    "an image more": lambda: _repainted(Path("images/cat/more.png"), (99, 99, 99)),
    "an image less": lambda: Path("images/dog/3.png").unlink(),
    "an image has another class": lambda: Path("images/dog/3.png").rename("images/cat/dog3.png"),
    "other weights": _other_weights,
    "the weights' classes have names": lambda: Path("start.labels.txt").write_text("a\nb\n"),
    "a record is gone": lambda: _first_record().unlink(),
    "a record is cut off": lambda: _first_record().write_bytes(_first_record().read_bytes()[:-100]),
    "a record is another run's": lambda: shutil.copy(records()[1] / "record.json", _first_record()),
    "a record is of other settings": lambda: _edited(lambda v: v["identity_parts"]["settings"].update(seed=7)),
    "a record is of another format": lambda: _edited(lambda values: values.update(identity_format=1)),
    "what is kept is cut off": lambda: [file.write_text("{") for file in Path("outputs/cache/plans").iterdir()],
    "the project file names another folder": lambda: Path("thawline.toml").write_text('output_dir = "other"'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_planned_again(copied, change):
    change()
    with pytest.raises(PlannedError):
        main(list(SWEEP))


def test_a_weights_file_that_is_gone_is_named(copied, thawline):
    Path("start.safetensors").unlink()
    result = thawline(*SWEEP)
    assert (result.status, result.err) == (2, "error: backbone.weights: start.safetensors: no such file\n")


def test_weights_that_change_while_a_run_goes_on_are_not_taken_for_its_own(finished, tmp_path, thawline, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    _run_of(k=0, seed=0).joinpath("record.json").unlink()
    shutil.rmtree("outputs/cache/plans")

    def then_other_weights(*arguments, **keywords):
        record = execute(*arguments, **keywords)
        _other_weights()
        return record

    with monkeypatch.context() as patch:
        patch.setattr("thawline.execution.run.execute", then_other_weights)
        assert thawline(*ALONE).status == 0
    before = len(records())
    assert thawline(*ALONE).status == 0
    assert len(records()) == before + 1


def test_weights_that_change_between_a_plan_and_its_note_are_planned_again(finished, tmp_path, thawline, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree("outputs/cache/plans")

    def then_other_weights(*arguments, **keywords):
        plan = plan_run(*arguments, **keywords)
        _other_weights()
        return plan

    monkeypatch.setattr("thawline.planning.plan.plan_run", then_other_weights)
    assert thawline(*ALONE).status == 0
    monkeypatch.setattr("thawline.planning.plan.plan_run", _refuse)
    with pytest.raises(PlannedError):
        main(list(ALONE))


def test_a_warning_of_images_that_are_left_out_is_of_now(finished, tmp_path, thawline):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for name, said in (("bad", "1 unreadable image left out"), ("worse", "2 unreadable images left out")):
        Path(f"images/cat/{name}.png").write_bytes(b"no image")
        result = thawline(*ALONE, "dataset.on_unreadable=skip")
        assert result.status == 0
        assert said in result.out + result.err


@pytest.mark.parametrize("changed", ["seed=0,2", "trainer.max_epochs=2", "output_dir=other", "open_test=false"])
def test_other_settings_are_planned(copied, changed):
    with pytest.raises(PlannedError):
        main([*SWEEP, changed])


def test_another_program_plans_again(copied, monkeypatch):
    monkeypatch.setattr(known, "program", lambda: "another version of thawline or of a library")
    with pytest.raises(PlannedError):
        main(list(SWEEP))


def test_a_program_that_changed_under_the_process_keeps_nothing(finished, tmp_path, thawline, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree("outputs/cache/plans")
    monkeypatch.setattr(known, "program", lambda: None)
    assert thawline(*SWEEP).status == 0
    assert not Path("outputs/cache/plans").exists()


def test_a_program_is_its_versions_and_its_files(tmp_path, monkeypatch):
    digest = programs.program.__wrapped__
    source = tmp_path / "lib" / "made_up" / "part" / "code.py"
    source.parent.mkdir(parents=True)
    (source.parent.parent / "__init__.py").touch()
    source.write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setattr(programs, "_SOURCES", ("made_up", "not_there"))
    # A file that is younger than the process may not be what the process has imported.
    assert digest() is None
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 10)
    first = digest()
    assert first is not None
    assert digest() == first
    os.utime(source)
    second = digest()
    source.with_name("more.py").touch()
    third = digest()
    source.with_name("page.html").touch()
    fourth = digest()
    monkeypatch.setattr(programs, "_version", lambda package: "0.0.1")
    assert len({first, second, third, fourth, digest()}) == 5
    assert "made_up" not in sys.modules


def test_own_code_is_always_looked_at(own_class, thawline, monkeypatch):
    own_class("policies", OWN_POLICY, "freeze_policy/mine", "_target_: mine.policies.Mine\n")
    command = ("--allow", "mine", "--config-dir", "conf", "train", *TINY, "freeze_policy=mine")
    assert thawline(*command).status == 0
    assert not list(Path("outputs/cache").glob("plans/*"))

    monkeypatch.setattr("thawline.planning.plan.plan_run", _refuse)
    with pytest.raises(PlannedError):
        main(list(command))


OWN_POLICY = '''
from thawline.freeze_policies import Phase
from thawline.specs import Spec


class Mine(Spec):
    """Trains the head."""

    def phases(self, network):
        return (Phase("all", frozenset(network.head)),)
'''


@pytest.mark.slow
def test_a_failed_run_runs_again(finished, tmp_path, thawline, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    gone = _run_of(k=1, seed=1)
    (gone / "record.json").unlink()

    def fails(*_, **__):
        raise RuntimeError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr("thawline.execution.run.execute", fails)
        assert thawline(*SWEEP).status == 1
    assert thawline(*SWEEP).status == 0
    assert (gone / "record.json").is_file()
