"""A run that was stopped, killed or damaged at any point ends with the bits of one that was not."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import TINY, records
from tests.stopping import STOP_AT, STOPPING, numbers
from tests.trackers.test_wandb import Seen, assert_mirrors
from tests.zygote import Program, Zygote
from thawline.execution.checkpoint import FORMAT, Checkpoint, Saved
from thawline.files import sha256_of_file
from thawline.ledger.runs import status_of
from thawline.records import Record, load_record

# 39 samples in batches of 16: three steps an epoch, twelve in all. Dropout, augmentation, momentum and trained
# batch norms all have a state that a sloppy resume would lose.
SETTING = (
    *TINY, *STOPPING, "trainer.max_epochs=4", "trainer.checkpoint_seconds=0", "optimizer.lr=0.05",
    "dataset.classes=[1,4,7]", "dataset.n_per_class=13", "head.dropout=0.2", "transform=flip_crop", "transform.size=32",
    "freeze_policy=last_k", "diagnostics.drift=false",
)  # fmt: skip
TWO_PHASES = ("freeze_policy=lp_ft", "freeze_policy.optimizer_state=keep", "freeze_policy.probe.epochs=2")
LAST_TWO = ("freeze_policy.k=2",)


@dataclass
class Resuming:
    """Runs commands in a folder, with references that are made once."""

    zygote: Zygote
    folder: Path
    made: dict[tuple[str, ...], Path]
    home: Path
    given: dict[str, str] = field(default_factory=dict)

    def train(self, *overrides: str, stop: str = "") -> Program:
        """Run to the end, or to where `stop` says."""
        environment = {STOP_AT: stop, **self.given}
        return self.zygote.run("train", *SETTING, *overrides, folder=self.folder, environment=environment)

    @property
    def run_folder(self) -> Path:
        """The only run's."""
        (folder,) = (self.folder / "outputs" / "runs").iterdir()
        return folder

    def unbroken(self, *overrides: str) -> dict:
        """The numbers of the same run, never stopped."""
        if overrides not in self.made:
            place = self.home / str(len(self.made))
            place.mkdir()
            done = self.zygote.run("train", *SETTING, *overrides, folder=place)
            assert done.wait() == 0, done.err
            (self.made[overrides],) = records(str(place / "outputs"))
        return numbers(self.made[overrides])

    def assert_ends_as_if_never_stopped(self, *overrides: str) -> Record:
        """Run the same command again: the same bits as those of the run that was not stopped, and nothing left over."""
        done = self.train(*overrides)
        assert done.wait() == 0, done.err
        assert numbers(self.run_folder) == self.unbroken(*overrides)
        record = load_record(self.run_folder)
        for name, sha256 in record.files.items():
            assert sha256_of_file(self.run_folder / name) == sha256
        assert sorted(path.name for path in self.run_folder.iterdir() if not path.name.startswith("wandb")) == [
            "best.safetensors", "config.json", "gallery", "predictions.npz", "record.json", "state.json",
        ]  # fmt: skip
        return record


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, ...], Path], Path]:
    return {}, tmp_path_factory.mktemp("unbroken")


@pytest.fixture
def resuming(zygote: Zygote, tmp_path: Path, references) -> Iterator[Resuming]:
    yield Resuming(zygote, tmp_path, *references)


def resumed_at(record: Record) -> list[tuple[str, int]]:
    """Where each resume went on: the phase, and the epoch within it."""
    return [(place.phase, place.epoch) for place in record.provenance.resumed]


@pytest.mark.parametrize(
    ("stop", "status", "epoch"),
    [
        # A signal lets the epoch of steps 7, 8 and 9 end; a kill loses it; a second signal does not wait.
        ("TERM:8", 143, 3),
        pytest.param("HUP:8", 129, 3, marks=pytest.mark.slow),
        pytest.param("USR1:8", 138, 3, marks=pytest.mark.slow),
        pytest.param("INT:8", 130, 3, marks=pytest.mark.slow),
        ("TERM:7,TERM:8", 143, 2),
        ("KILL:8", -9, 2),
        # The last step of an epoch, before it is evaluated.
        pytest.param("KILL:9", -9, 2, marks=pytest.mark.slow),
        pytest.param("TERM:9", 143, 3, marks=pytest.mark.slow),
    ],
)
def test_faults_2_3_13_a_stopped_run_ends_with_the_same_bits(resuming, stop, status, epoch):
    stopped = resuming.train(*LAST_TWO, stop=stop)
    assert stopped.wait() == status, stopped.err
    found = status_of(resuming.run_folder)
    assert (found.state, found.attempt) == ("interrupted", 1)
    if status > 0:
        assert "the same command goes on from here" in stopped.err
    record = resuming.assert_ends_as_if_never_stopped(*LAST_TWO)
    assert resumed_at(record) == [("train", epoch)]
    assert status_of(resuming.run_folder).attempt == 2


@pytest.mark.slow
def test_a_signal_before_the_first_epoch_is_over_leaves_nothing_to_resume_and_no_harm(resuming):
    assert resuming.train(*LAST_TWO, stop="TERM:1,TERM:2").wait() == 143
    assert not (resuming.run_folder / "last.ckpt").exists()
    assert resumed_at(resuming.assert_ends_as_if_never_stopped(*LAST_TWO)) == []


def test_a_run_that_is_killed_again_and_again_gets_done(resuming):
    for _ in range(3):
        # Four steps: one epoch more each time, and the first step of the next.
        assert resuming.train(*LAST_TWO, stop="KILL:4").wait() == -9
    record = resuming.assert_ends_as_if_never_stopped(*LAST_TWO)
    assert resumed_at(record) == [("train", 1), ("train", 2), ("train", 3)]
    assert status_of(resuming.run_folder).attempt == 4


@pytest.mark.parametrize(
    ("stop", "place"),
    [
        pytest.param("KILL:5", ("probe", 1), marks=pytest.mark.slow),
        # The second phase has written no epoch of its own yet: it starts from what the first one left.
        ("KILL:7", ("fine-tuning", 0)),
        pytest.param("KILL:10", ("fine-tuning", 1), marks=pytest.mark.slow),
        pytest.param("TERM:8", ("fine-tuning", 1), marks=pytest.mark.slow),
    ],
)
def test_fault_11_a_resume_knows_its_phase(resuming, stop, place):
    resuming.train(*TWO_PHASES, stop=stop)
    record = resuming.assert_ends_as_if_never_stopped(*TWO_PHASES)
    assert resumed_at(record) == [place]
    first, second = record.phases
    # The head alone, then everything; the statistics of the probe's frozen norms are held by the freeze contract.
    assert (first.trainable_parameters, second.trainable_parameters) == (291, record.parameters.total)


def test_early_stopping_counts_on(resuming):
    # A learning rate too small to change a weight: the first epoch stays the best one, and two more end the run.
    stopping = ("trainer.early_stopping=2", "freeze_policy=linear_probe", "optimizer.lr=1e-30")
    assert resuming.train(*stopping, stop="KILL:8").wait() == -9
    record = resuming.assert_ends_as_if_never_stopped(*stopping)
    assert resumed_at(record) == [("train", 2)]
    assert (record.phases[0].epochs, record.selection.epoch) == (3, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=adamw", "optimizer.lr=0.005", *LAST_TWO),
        ("trainer.gradient_clip=0.1", "loss.label_smoothing=0.1"),
        ("learning_rates=auto_rgn",),
        ("regularizer=[l2_sp,bss]",),
        ("regularizer=[feature_matching]", "regularizer.feature_matching.layers={layer4.0: layer4.0}"),
        ("adapter=bottleneck", "backbone=test_vit", "backbone.input_size=32"),
        ("freeze_policy=gradual_unfreezing", "freeze_policy.k=2", "freeze_policy.optimizer_state=keep"),
        ("trainer.precision=bf16-mixed",),
        ("diagnostics.cka=true", "diagnostics.feature_distance=true"),
        ("cache.mode=off",),
        ("trainer.workers=1", "transform=flip_crop"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_kind_of_run_goes_on_with_the_same_bits(resuming, overrides):
    killed = resuming.train(*overrides, stop="KILL:8")
    assert killed.wait() == -9, killed.err
    assert torch.load(resuming.run_folder / "last.ckpt", weights_only=True)["format"] == FORMAT
    resuming.assert_ends_as_if_never_stopped(*overrides)


def test_fault_4_a_kill_while_the_checkpoint_is_saved_costs_one_epoch(resuming, tmp_path_factory):
    elsewhere = Path("/dev/shm")  # noqa: S108 - another file system, where there is one
    temporary = tmp_path_factory.mktemp("temporary")
    if elsewhere.is_dir() and elsewhere.stat().st_dev != resuming.folder.stat().st_dev:
        temporary = elsewhere
    resuming.given = {"TMPDIR": str(temporary)}
    before = set(temporary.iterdir())
    assert resuming.train(*LAST_TWO, stop="SAVE:2").wait() == -9
    (half,) = resuming.run_folder.glob(".last.ckpt.*.partial")
    whole = resuming.run_folder / "last.ckpt"
    assert half.stat().st_size < whole.stat().st_size
    assert not {path for path in set(temporary.iterdir()) - before if path.name.endswith(".partial")}
    assert torch.load(whole, weights_only=True)["fit"]["epoch"] == 1
    record = resuming.assert_ends_as_if_never_stopped(*LAST_TWO)
    assert resumed_at(record) == [("train", 1)]


@pytest.mark.slow
def test_fault_5_a_kill_loses_no_epoch_of_the_wandb_run(resuming):
    mirrored = (*LAST_TWO, "logger=wandb")
    assert resuming.train(*mirrored, stop="KILL:8").wait() == -9
    record = resuming.assert_ends_as_if_never_stopped(*mirrored)
    assert resumed_at(record) == [("train", 2)]
    # What the killed process wrote may be cut short: the one that went on told all epochs again, under the same id.
    last = max((resuming.run_folder / "wandb").glob(f"offline-run-*-{record.identity}"))
    assert_mirrors(Seen(last), record)
    assert Seen(last).exits == [0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def other_software(path: Path) -> None:
    values = torch.load(path, weights_only=True)
    values["software"]["torch"] = "1.0"
    torch.save(values, path)


def other_run(path: Path) -> None:
    values = torch.load(path, weights_only=True)
    values["identity"] = "0" * 20
    torch.save(values, path)


def without(*way: str) -> Callable[[Path], None]:
    """Takes a key out of a whole checkpoint; of the text of the run's outcome, too."""

    def damage(path: Path) -> None:
        values = torch.load(path, weights_only=True)
        holder = values if len(way) == 1 else values[way[0]]
        if isinstance(holder, str):
            values[way[0]] = json.dumps({key: item for key, item in json.loads(holder).items() if key != way[1]})
        else:
            del holder[way[-1]]
        torch.save(values, path)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is damaged (the checksum of ": flip,
    "is damaged (File is not a zip file)": cut,
    f"is damaged (it is not a checkpoint of format {FORMAT})": lambda path: torch.save([1, 2], path),
    "was written by other versions of thawline, torch or Lightning": other_software,
    "belongs to another run": other_run,
    "is damaged (it lacks 'identity')": without("identity"),
    "is damaged (Saved.__init__() missing 1 required positional argument: 'tensors')": without("tensors"),
    "is damaged (it lacks 'schedulers')": without("fit", "schedulers"),
    "is damaged (it lacks 'epoch')": without("fit", "epoch"),
    "is damaged (it lacks 'history')": without("run", "history"),
}


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_used_is_named_and_the_run_starts_over(resuming):
    assert resuming.train(*LAST_TWO, stop="KILL:8").wait() == -9
    checkpoint = resuming.run_folder / "last.ckpt"
    whole = checkpoint.read_bytes()
    for said, damage in DAMAGES.items():
        checkpoint.write_bytes(whole)
        damage(checkpoint)
        # Ended after one step: what a run does without a checkpoint is shown above.
        again = resuming.train(*LAST_TWO, stop="KILL:1")
        assert f"{checkpoint.relative_to(resuming.folder)} {said}" in again.err
        assert "; the run starts over" in again.err
        # The next attempt does not meet it again.
        assert not checkpoint.exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_changes_no_number(resuming):
    assert resuming.train(*LAST_TWO, stop="KILL:8").wait() == -9
    flip(resuming.run_folder / "last.ckpt")
    assert resumed_at(resuming.assert_ends_as_if_never_stopped(*LAST_TWO)) == []


def test_fault_2_a_signal_ends_the_sweep_and_the_rest_is_not_lost(resuming, thawline):
    grid = (*LAST_TWO, "-m", "seed=0,1", "sweep.name=grid", "sweep.report=false")
    assert resuming.train(*grid, stop="TERM:8").wait() == 143
    shown = thawline("status", "grid", "--json")
    assert shown.status == 1
    assert json.loads(shown.out)["counts"] == {"interrupted": 1, "pending": 1}
    assert resuming.train(*grid).wait() == 0
    assert thawline("status", "grid").status == 0
    by_seed = {load_record(folder).config["seed"]: numbers(folder) for folder in records()}
    assert by_seed.keys() == {0, 1}
    assert by_seed[0] == resuming.unbroken(*LAST_TWO)


OPTIMIZER = """
from pathlib import Path

import torch


class Mine(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if Path("stop").exists() and self.steps > 3:  # three are an epoch
            raise ArithmeticError("in the second epoch")
        return super().step(closure)

    def load_state_dict(self, state_dict):
        if Path("small").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        super().load_state_dict(state_dict)
"""


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_the_memory_is_kept(own_class, thawline):
    """Another program may have it for a while; the epochs that are done must not be lost by that."""
    own_class("optimizers", OPTIMIZER, "optimizer/mine", "_target_: mine.optimizers.Mine\nlr: 0.01\n")
    command = ("train", "--allow", "mine", "--config-dir", "conf", *TINY, "optimizer=mine")
    Path("stop").touch()
    assert thawline(*command, "trainer.checkpoint_seconds=0").status == 1
    (checkpoint,) = Path("outputs").glob("runs/*/last.ckpt")
    Path("stop").unlink()
    Path("small").touch()
    result = thawline(*command, "trainer.checkpoint_seconds=0")
    assert result.status == 1
    assert "is too small for trainer.batch_size=16" in result.out + result.err
    assert checkpoint.exists()
    Path("small").unlink()
    assert thawline(*command, "trainer.checkpoint_seconds=0").status == 0
    (folder,) = records()
    assert [(at.phase, at.epoch) for at in load_record(folder).provenance.resumed][-1][1] == 1


def test_a_checkpoint_that_cannot_be_read_now_is_kept(tmp_path):
    settings = SimpleNamespace(trainer=SimpleNamespace(checkpoint_seconds=0))
    checkpoint = Checkpoint(SimpleNamespace(folder=tmp_path, identity="a" * 20, settings=settings))
    checkpoint.write(Saved(phase=0, run="{}", tensors={"x": torch.arange(3)}, fit={}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            checkpoint.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert checkpoint.read().tensors["x"].tolist() == [0, 1, 2]
