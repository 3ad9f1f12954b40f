"""What is wrong with a command is said at once: every field by name, one line each, before anything is run."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

from tests.conftest import TINY
from thawline.backbones.names import families, names_of
from thawline.cli import main
from thawline.errors import Problem, UsageError

# Reports in the end whether torch was imported: that alone takes longer than an answer to a typo may.
PROGRAM = """
import sys
from thawline.cli import main
status = main(sys.argv[1:])
print("torch" if "torch" in sys.modules else "light")
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("freeze_policy=last_kk", "freeze_policy: there is no option 'last_kk'; nearest: last_k, first_k"),
        ("+typo=1", "typo: unknown field"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("trainer.max_epoch=3", "trainer.max_epoch: unknown field; nearest: trainer.max_epochs"),
        ("dataset=tar_shards dataset.root=nowhere", "dataset.root: nowhere: no such folder"),
        (
            "-m seed=0,-1",
            "seed: Input should be greater than or equal to 0 (got -1) [seed=-1]",
        ),
    ],
)
def test_fault_16_a_mistake_is_named_before_torch_is_imported(tmp_path, overrides, message):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "train", *TINY, *overrides.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (2, f"error: {message}\n", "light\n")
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    # A mapping in the place of a group is no option of it.
    (["++head={_target_: thawline.heads.Linear}", "lr=0.1"], ["lr: unknown field; nearest: optimizer.lr"]),
    (["freeze_polcy=x"], ["freeze_polcy: unknown field; nearest: freeze_policy"]),
    (["optimizer=sgdd"], ["optimizer: there is no option 'sgdd'; nearest: sgd"]),
    # TINY has dataset.n_per_class, a field of the option that is not there.
    (["dataset=image_foldr", "dataset.root=x"], ["dataset: there is no option 'image_foldr'; nearest: image_folder"]),
    (["optimizer=3"], ["optimizer: there is no option '3'; options: adamw, sgd"]),
    (["optimiser.lr=3"], ["optimiser.lr: unknown field; nearest: optimizer.lr"]),
    (["lr=0.1"], ["lr: unknown field; nearest: optimizer.lr"]),
    (["trainer.lr=0.1"], ["trainer.lr: unknown field; nearest: optimizer.lr"]),
    (["n_per_class=3"], ["n_per_class: unknown field; nearest: dataset.n_per_class"]),
    (["+seed=1"], ["seed: is there already; leave out the +"]),
    (["~nothing"], ["nothing: unknown field"]),
    (["freeze_policy=lp_ft", "freeze_policy.k=1"], ["freeze_policy.k: unknown field of the chosen option; of freeze_"]),
    (["scheduler.gamma=1"], ["scheduler.gamma: unknown field of the chosen option; of scheduler it is in step"]),
    (["transform.size=64x64"], ["transform.size: Input should be a valid integer, unable to parse string"]),
    (
        ["trainer.cuda_graphs=maybe"],
        ["trainer.cuda_graphs: Input should be a valid boolean, unable to interpret input, or 'auto' (got 'maybe')"],
    ),
    (["transform.size=[32,0]"], ["transform.size.1: Input should be greater than or equal to 1 (got 0)"]),
    (["seed=0,1"], ["seed: several values are a sweep: add -m (or write [a,b] for a list)"]),
    (["seed=[1"], ["seed: cannot be read: no viable alternative at input '[1'; if it is meant as text: \"seed='[1'\""]),
    (["-m", "seed=interval(0,1)"], ["seed: an interval cannot be swept as a grid; name the values or use range()"]),
    (["word"], ["'word' is neither FIELD=VALUE nor an option"]),
    (["=3"], ["'=3' is neither FIELD=VALUE nor an option"]),
    (["--config-dir", "nowhere"], ["--config-dir: there is no folder 'nowhere'"]),
    (["--experimental-rerun=x"], ["--experimental-rerun: refused: it would load a pickle, which can run code"]),
    (["experiments=digits_dept/sweep"], ["experiments: there is no option 'digits_dept/sweep'; nearest: digits_"]),
    (["freeze_policy.k=99"], ["freeze_policy.k: k = 99 is more than the backbone's 5 layer groups"]),
    (["freeze_policy.k=abc"], ["freeze_policy.k: there is no layer group 'abc'; groups: stem, layer1, layer2, l"]),
    (
        ["freeze_policy=last_kk", "optimizer=sgdd", "trainer.max_epoch=3", "seed=-1"],
        [
            "freeze_policy: there is no option 'last_kk'; nearest: last_k, first_k",
            "optimizer: there is no option 'sgdd'; nearest: sgd",
            "trainer.max_epoch: unknown field; nearest: trainer.max_epochs",
            "seed: Input should be greater than or equal to 0 (got -1)",
        ],
    ),
    (
        ["optimizer.lr=-1", "trainer.batch_size=0", "metrics.monitor=acc"],
        [
            "optimizer.lr: Input should be greater than 0 (got -1)",
            "trainer.batch_size: Input should be greater than or equal to 1 (got 0)",
            "metrics.monitor: 'acc' chooses no epoch of task classification; nearest: macro_accuracy",
        ],
    ),
    (
        ["-m", "freeze_policy=last_k,last_kk,first_kk", "seed=0,1"],
        [
            "freeze_policy: there is no option 'last_kk'; nearest: last_k, first_k",
            "freeze_policy: there is no option 'first_kk'; nearest: first_k",
        ],
    ),
    (
        ["-m", "strategy=last_k,l2_sp,lp_ft", "freeze_policy.k=0,2"],
        [
            "freeze_policy.k: with strategy=l2_sp: unknown field of the chosen option; of freeze_policy it is in",
            "freeze_policy.k: with strategy=lp_ft: unknown field of the chosen option; of freeze_policy it is in",
        ],
    ),
    (
        ["-m", "seed=0,-1,-2", "optimizer.lr=0.1,-3"],
        [
            "optimizer.lr: Input should be greater than 0 (got -3) [seed=0 optimizer.lr=-3 and 2 more cells]",
            "seed: Input should be greater than or equal to 0 (got -1) [seed=-1 optimizer.lr=0.1 and 1 more cell]",
            "seed: Input should be greater than or equal to 0 (got -2) [seed=-2 optimizer.lr=0.1 and 1 more cell]",
        ],
    ),
    (
        ["-m", "freeze_policy.k=0,99,1,98"],
        [
            "freeze_policy.k: k = 99 is more than the backbone's 5 layer groups [freeze_policy.k=99]",
            "freeze_policy.k: k = 98 is more than the backbone's 5 layer groups [freeze_policy.k=98]",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "messages"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_every_wrong_field_has_one_line(thawline, overrides, messages):
    result = thawline("train", *TINY, *overrides)
    lines = result.err.splitlines()
    assert result.status == 2
    assert len(lines) == len(messages), result.err
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(f"error: {message}")
    assert result.out == ""
    assert not Path("outputs/runs").exists() and not Path("outputs/sweeps").exists()


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("seed=0..4", 'each from 0 to 4: -m "seed=range(0,5)"'),
        ("seed=1-2", 'each from 1 to 2: -m "seed=range(1,3)"'),
        ("freeze_policy.k=0:3", 'each from 0 to 3: -m "freeze_policy.k=range(0,4)"'),
    ],
)
@pytest.mark.parametrize("grid", [[], ["-m"]], ids=["run", "grid"])
def test_an_interval_is_told_how_a_sweep_writes_it(thawline, override, meant, grid):
    result = thawline("train", *TINY, *grid, override)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert result.err.endswith(f"; {meant}\n")


def test_a_verb_that_does_not_exist(thawline):
    assert thawline("trian").err == "error: there is no verb 'trian'; nearest: train\n"
    assert thawline("sweep").err == "error: there is no verb 'sweep'; you may want: thawline train -m\n"


def test_flags_may_stand_anywhere(thawline):
    result = thawline("train", "seed=3", "--cfg", "job", "data_seed=4", "--package", "trainer")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("# @package trainer\nmax_epochs: 12\n")


def test_a_broken_yaml_of_the_user_is_named(thawline, tmp_path):
    folder = tmp_path / "mine" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("lr: [1\nmomentum: 2\n")
    result = thawline("train", "--config-dir", "mine", *TINY, "optimizer=broken")
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert "broken.yaml" in result.err


def test_the_traceback_is_there_when_it_is_asked_for(thawline):
    from thawline.errors import UsageError

    with pytest.raises(UsageError):
        thawline("train", *TINY, "seed=-1", "--traceback")


def test_an_error_of_another_process_is_the_same():
    """As pools send them, and as the loader of torch makes them again."""
    error = UsageError([Problem("seed", "first"), Problem("", "second")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems  # noqa: S301 - our own
    try:
        raise UsageError(Problem("dataset", "a.png: no image"))
    except UsageError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(UsageError) as found:
        sent.reraise()
    assert [*map(str, found.value.problems)] == ["dataset: a.png: no image"]


@pytest.mark.slow
def test_fault_28_a_terminal_that_knows_few_signs_ends_no_sweep(thawline, monkeypatch):
    train = ("train", "-m", *TINY, "freeze_policy.k=0,1", "trainer.max_epochs=1", "sweep.name=narrow")
    for command, encoding in ((train, "ascii"), (("report", "narrow"), "cp1252")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(list(command)) == 0
        stream.flush()
        shown = stream.buffer.getvalue().decode(encoding)
        assert "report: outputs/sweeps/narrow/report/report.html" in shown
        assert "* best validation mean" in shown


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("sweep.name=2024", "2024"),
        ("sweep.name=2024_01", "2024_01"),
        ("sweep.name=1e3", "1e3"),
        ("sweep.name=nan", "nan"),
        ("sweep.name=true", "true"),
        ("backbone.weights=epoch=3-step=10.ckpt", "epoch=3-step=10.ckpt"),
        ("backbone.weights=Größe.pth", "Größe.pth"),
        ("backbone.weights=a&b;c.pth", "a&b;c.pth"),
        ("backbone.weights=007", "007"),
        ("backbone.weights=2024", "2024"),
        ("output_dir=2024_01", "2024_01"),
        ("output_dir=o'clock", ""),
    ],
)
@pytest.mark.parametrize("grid", [[], ["-m", "seed=0,1"]], ids=["run", "grid"])
def test_text_is_text_also_where_yaml_reads_a_number_or_nothing(thawline, monkeypatch, override, text, grid):
    """What the run would take for its settings."""
    seen = []
    monkeypatch.setattr("thawline.planning.plan.parse", lambda config: seen.append(config) or stop())
    if override.startswith("backbone.weights="):
        Path(text).touch()
    result = thawline("train", *TINY, *grid, override)
    if not text:
        assert result.err.endswith("if it is meant as text: 'output_dir='\"'\"'o\\'\"'\"'clock'\"'\"''\n")
        return
    keys = override.partition("=")[0].split(".")
    for config in seen:
        value = config
        for key in keys:
            value = value[key]
        assert value == text
    assert len(seen) == (2 if grid else 1)


def stop():
    raise UsageError(Problem("", "far enough"))


def test_relative_paths_are_those_of_the_command_also_in_a_folder_of_the_job(thawline):
    command = ("train", *TINY, "trainer.max_epochs=1", "hydra.job.chdir=true", "hydra.run.dir=elsewhere")
    assert thawline(*command).status == 0
    assert len(list(Path("outputs/runs").iterdir())) == 1
    assert [path for path in Path("elsewhere").rglob("*") if path.is_file()] == []


FIRST_LINE = """
import io, sys
class Terminal(io.StringIO):
    def isatty(self):
        return True
    def write(self, text):
        if not self.getvalue():
            slow = {"torch", "numpy", "hydra", "omegaconf", "pydantic", "rich", "yaml", "asyncio"} & set(sys.modules)
            sys.stdout.write(f"after {slow or 'nothing'}: {text}\\n")
        return super().write(text)
sys.stderr = Terminal()
from thawline.cli import main
print(main(sys.argv[1:]))
sys.stdout.write(sys.stderr.getvalue())
"""


def test_a_terminal_has_a_first_line_before_anything_slow_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FIRST_LINE, "--config-dir", ".", "train", "seed=-1"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, status, *all_of_it = done.stdout.splitlines()
    assert (first, status) == ("after nothing: thawline train: reading the configuration", "2")
    wrong = "error: seed: Input should be greater than or equal to 0 (got -1)"
    assert all_of_it == ["thawline train: reading the configuration", wrong]


WITHOUT_TORCH = [
    ["--help"],
    ["train", "--help"],
    ["status"],
    ["runs"],
    ["explain", "freeze_policy"],
    ["list", "backbones"],
    ["list", "backbones", "resnet18"],
    ["list", "backbones", "no such network"],
    ["layers", "no such network"],
    *([verb, "nowhere"] for verb in ("report", "verify", "status", "export", "reproduce", "sync")),
    ["average", "nowhere", "--method", "greedy"],
    ["train", "dataset=image_folder", "dataset.root=nowhere"],
    ["train", "-m", "seed=0,1", "backbone.weights=nowhere.pth"],
    ["train", "source=digits_low", "source.weights=nowhere.pth"],
]


def test_what_needs_no_torch_does_not_wait_for_it(tmp_path):
    script = f"""
import contextlib, sys
from thawline.cli import main
for command in {WITHOUT_TORCH}:
    with contextlib.suppress(SystemExit):
        main(command)
    if "torch" in sys.modules:
        sys.exit(f"torch was imported for {{command}}")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dataset.root: nowhere: no such folder" in done.stderr
    assert "error: backbone.weights: nowhere.pth: no such file" in done.stderr
    assert "error: source.backbone.weights: nowhere.pth: no such file" in done.stderr


def test_the_names_read_from_the_sources_are_those_of_the_libraries():
    import timm
    from torchvision import models

    assert list(names_of("timm")) == sorted(timm.list_models())
    assert list(names_of("torchvision")) == sorted(models.list_models(module=models))
    by_family = {family.family: family.names for family in families() if family.library == "timm"}
    for module in timm.list_modules():
        assert sorted(timm.list_models(module=module)) == list(by_family[module])
