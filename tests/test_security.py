"""Nothing that is read runs code, and no name reaches a path, a shell or a page as anything but a name."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import REPOSITORY, TINY
from tests.datasets.image_folders import a_bomb
from tests.make_records import depth_sweep
from tests.stopping import STOP_AT, STOPPING
from thawline import specs

MARKER = "executed"


class Evil:
    """Unpickling it leaves a file in the current folder."""

    def __reduce__(self):
        return os.mknod, (MARKER,)


def executed() -> bool:
    return Path(MARKER).exists()


def test_the_trap_works():
    pickle.loads(pickle.dumps(Evil()))  # noqa: S301 - our own
    assert executed()


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch):
    monkeypatch.setattr(specs, "_extra_prefixes", [])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("joblib.load", "lies outside the allowed packages"),
        ("pandas.read_pickle", "lies outside the allowed packages"),
        ("os.system", "lies outside the allowed packages"),
        ("builtins.eval", "lies outside the allowed packages"),
        ("subprocess.Popen", "lies outside the allowed packages"),
        # A package that only begins like an allowed one.
        ("torchevil.SGD", "lies outside the allowed packages"),
        ("torch.load", "is refused: it can run code from a file"),
        ("torch.hub.load", "is refused: it can run code from a file"),
        ("torch.jit.load", "is refused: it can run code from a file"),
        ("torch.utils.cpp_extension.load", "is refused: it can run code from a file"),
        # Reached through an allowed package, and no class of it.
        ("thawline.files.os.system", "cannot import"),
        ("timm.models.load_checkpoint", "has no class"),
    ],
)
@pytest.mark.parametrize("field", ["optimizer", "freeze_policy"])
def test_a_target_outside_is_refused(thawline, field, target, said):
    result = thawline("train", *TINY, f"{field}._target_={target}")
    assert result.status == 2
    assert f"{field}._target_: " in result.err
    assert said in result.err
    assert not list(Path().iterdir())


def test_only_the_command_line_allows_a_package(thawline, monkeypatch, tmp_path):
    (tmp_path / "own.py").write_text("import torch\nclass Mine(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    option = tmp_path / "mine" / "optimizer" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: own.Mine\nlr: 0.1\n")
    for overrides in (
        ["optimizer=mine"],
        ["optimizer=mine", "+allow=[own]"],
        ["optimizer=mine", "+optimizer.allow=own"],
    ):
        result = thawline("train", "--config-dir", "mine", *TINY, *overrides)
        assert result.status == 2
        assert "'own.Mine' lies outside the allowed packages" in result.err
        assert "allow it on the command line with --allow own" in result.err
    assert thawline("--allow", "own", "train", "--config-dir", "mine", *TINY, "optimizer=mine").status == 0


def test_a_target_in_a_record_is_not_trusted(thawline, train):
    record = train()
    file = Path("outputs/runs", record.identity, "record.json")
    values = json.loads(file.read_text())
    values["config"]["optimizer"]["_target_"] = "joblib.load"
    file.write_text(json.dumps(values))
    for command in ("reproduce", "export"):
        result = thawline(command, record.identity)
        assert result.status == 2, command
        assert "'joblib.load' lies outside the allowed packages" in result.err


@pytest.mark.parametrize("name", ["weights.pth", "weights.ckpt", "weights.bin", "weights.safetensors"])
@pytest.mark.parametrize("old_format", [False, True])
def test_fault_18_weights_that_would_run_code_are_refused_by_name(thawline, name, old_format):
    torch.save({"state_dict": Evil()}, name, _use_new_zipfile_serialization=not old_format)
    result = thawline("train", *TINY, f"backbone.weights={name}")
    assert result.status == 2, result.err
    assert name in result.err
    assert "Traceback" not in result.err
    assert not executed()
    assert not Path("outputs/runs").exists()


def test_fault_18_a_checkpoint_that_would_run_code_is_refused_and_the_run_starts_over(zygote, tmp_path):
    command = ("train", *TINY, *STOPPING, "trainer.checkpoint_seconds=0")
    assert zygote.run(*command, folder=tmp_path, environment={STOP_AT: "KILL:4"}).wait() == -9
    (checkpoint,) = tmp_path.glob("outputs/runs/*/last.ckpt")
    torch.save({"format": 1, "identity": Evil()}, checkpoint)
    done = zygote.run(*command, folder=tmp_path)
    assert done.wait() == 0
    assert "last.ckpt is damaged" in done.err
    assert "the run starts over" in done.err
    assert not executed()


def test_predictions_that_would_run_code_are_refused(thawline, train):
    record = train()
    file = Path("outputs/runs", record.identity, "predictions.npz")
    np.savez(file, label=np.array([Evil()], dtype=object))
    result = thawline("verify", record.identity)
    assert result.status == 1
    assert "predictions.npz" in result.err
    assert not executed()


def test_hydra_cannot_be_told_to_load_a_pickle(thawline):
    Path("config.pickle").write_bytes(pickle.dumps(Evil()))
    result = thawline("train", "--experimental-rerun", "config.pickle")
    assert result.status == 2
    assert not executed()


FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "torch.jit.load", "torch.hub.load", "os.system", "os.popen", "eval", "exec", "marshal.loads", "shelve.open",
    "shutil.unpack_archive", "pandas.read_pickle", "torch.package.PackageImporter",
}  # fmt: skip


# What a function has written itself a line before.
OWN_FILES = [("exports/graphs.py", "torch.jit.load")]


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the sources but those of `OWN_FILES`: the name that is called as it is written, and the call."""
    files = [path for place in ("src", "benchmarks") for path in (REPOSITORY / place).rglob("*.py")]
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if not any(file.as_posix().endswith(own) and name == called for own, called in OWN_FILES):
                    found.append((name, node))
    return found


def said(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_no_source_file_loads_unsafely():
    found = calls()
    assert [name for name, _ in found if name in FORBIDDEN] == []
    loads = [call for name, call in found if name == "torch.load"]
    assert loads
    assert all(said(call, "weights_only") is True for call in loads)
    numpy = [call for name, call in found if name in ("np.load", "numpy.load")]
    assert all(said(call, "allow_pickle") is not True for call in numpy)
    assert not [call for _, call in found if said(call, "shell") is True]
    unpacking = [call for name, call in found if name.endswith((".extractall", ".extract"))]
    assert all(said(call, "filter") == "data" for call in unpacking)


@pytest.mark.parametrize("link", [False, True], ids=["outside", "link"])
def test_fault_18_an_archive_that_escapes_is_refused(thawline, tmp_path, monkeypatch, link):
    from torchvision.datasets import CIFAR10

    # As Python before 3.11.4, and torchvision before it asked for the filter: whatever is sent is unpacked.
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        if link:
            way = tarfile.TarInfo("escaped")
            way.type, way.linkname = tarfile.SYMTYPE, str(tmp_path)
            archive.addfile(way)
        member = tarfile.TarInfo("escaped/evil" if link else "../escaped")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    # As if this were what the server sent.
    content = (root / CIFAR10.filename).read_bytes()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
    plain = [override for override in TINY if not override.startswith("dataset")]
    result = thawline("train", *plain, "dataset=cifar10", f"dataset.root={root}", "dataset.download=true")
    assert result.status == 2
    assert f"CIFAR10 could not be fetched into {root}" in result.err
    assert "escaped" in result.err
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "evil").exists()


def image_folder(root: Path, classes: list[str], number: int = 6) -> None:
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(number):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def folder_run(root: Path) -> list[str]:
    plain = [override for override in TINY if not override.startswith("dataset")]
    return [*plain, "dataset=image_folder", f"dataset.root={root}"]


def test_fault_18_a_decompression_bomb_stops_the_run_by_name(thawline):
    image_folder(Path("set"), ["cat", "dog"])
    a_bomb(Path("set/dog/bomb.png"))
    result = thawline("train", *folder_run(Path("set")))
    assert result.status == 2
    assert "set/dog/bomb.png" in result.err
    assert not Path("outputs/runs").exists()


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "$(touch pwned)",
    "`touch pwned`;touch pwned",
    "..",
    "é" * 100,
    "a\nb",
    "'\"&",
]


class Page(HTMLParser):
    """What a browser would see that could act."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]


def test_fault_17_classes_of_any_name_stay_names(thawline):
    classes = [name for name in HOSTILE if name != ".." and "/" not in name]
    image_folder(Path("set"), classes)
    before = {path.name for path in Path().iterdir()}
    result = thawline("train", "-m", *folder_run(Path("set")), "seed=0,1", "sweep.name=grid", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    assert {path.name for path in Path().iterdir()} == before | {"outputs"}
    assert {path.name for path in Path("outputs").iterdir()} <= {"cache", "runs", "sweeps"}
    page = Page()
    page.feed(Path("outputs/sweeps/grid/report/report.html").read_text())
    assert page.handlers == []
    assert not [source for source in page.sources if source.startswith("javascript:") or source == "x"]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "..", "", ".hidden", "a" * 101, "$(id)", "a b"])  # noqa: S108
def test_fault_17_a_sweep_is_named_by_a_plain_name(thawline, name):
    result = thawline("train", "-m", *TINY, "seed=0,1", f"sweep.name='{name}'")
    assert result.status == 2
    assert "sweep.name: " in result.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("verb", ["status", "verify", "report", "sync", "reproduce", "export"])
@pytest.mark.parametrize("name", ["../../../etc", "a" * 5000, "\0", "-rf"])
def test_fault_17_no_verb_follows_a_name_that_is_none(thawline, verb, name):
    try:
        result = thawline(verb, name)
    except SystemExit as end:
        # argparse takes what begins with a dash for an option.
        assert (name, end.code) == ("-rf", 2)
        return
    assert result.status == 2
    assert "Traceback" not in result.err


def test_a_manifest_cannot_point_outside_of_the_runs(thawline):
    folder = depth_sweep(Path("outputs"), depths=[0], seeds=2)
    manifest = json.loads((folder / "sweep.json").read_text())
    manifest["cells"][0]["identity"] = "../../../etc"
    (folder / "sweep.json").write_text(json.dumps(manifest))
    for verb in ("status", "verify"):
        result = thawline(verb, str(folder))
        assert result.status == 2, verb
        assert "cells.0.identity" in result.err
    # A report can say of a cell that it is missing.
    assert thawline("report", str(folder)).status == 0
    assert "not the identity of a run" in (folder / "report" / "report.md").read_text()


def test_what_moves_a_cursor_is_not_shown(thawline):
    folder = depth_sweep(Path("outputs"), depths=[0], seeds=2, axes={"x": ["\x1b[2Jgone", "[red]plain[/]"]})
    shown = thawline("status", str(folder), "--all")
    assert "\x1b" not in shown.out
    assert "x=?[2Jgone" in shown.out
    assert "x=[red]plain[/]" in shown.out
