"""Tests go through the command line's own entry point, in an empty folder, with tiny real models and real digits."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.zygote import Zygote
from thawline import specs
from thawline.cli import main
from thawline.datasets import Split
from thawline.records import Record, load_record

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = (
    "backbone=test_resnet",
    "dataset=digits",
    "dataset.n_per_class=4",
    "transform.size=32",
    "transform.resize=squash",
    "optimizer=sgd",
    "trainer.max_epochs=2",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "logger=none",
)


@pytest.fixture(autouse=True)
def _quiet_and_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Every test in its own empty folder, without a network; nothing that it imports from there outlives it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("THAWLINE_CACHE", raising=False)
    monkeypatch.setattr("sys.argv", ["thawline"])
    known, folders = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = folders
    for name in set(sys.modules) - known:
        spec = getattr(sys.modules[name], "__spec__", None)
        if isinstance(spec, ModuleSpec):
            places = [spec.origin, *(spec.submodule_search_locations or ())]
            if any(place and Path(place).is_relative_to(tmp_path) for place in places):
                del sys.modules[name]


@dataclass(frozen=True)
class Result:
    """What a command did: exit status, what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def thawline(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        status = main(list(arguments))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def train(thawline: Callable[..., Result]) -> Callable[..., Record]:
    """Train one tiny configuration and return its record."""

    def run(*overrides: str) -> Record:
        places = [item.partition("=")[2] for item in overrides if item.startswith("output_dir=")]
        place = places[-1] if places else "outputs"
        before = set(records(place))
        result = thawline("train", *TINY, *overrides)
        assert result.status == 0, result.err
        (new,) = [folder for folder in set(records(place)) - before if not _is_source(folder)]
        return load_record(new)

    return run


def records(output_dir: str = "outputs") -> list[Path]:
    """The folders of all finished runs."""
    return sorted(path.parent for path in Path(output_dir).glob("runs/*/record.json"))


def per_class(split: Split, classes: int) -> list[int]:
    """How many samples of a split each class has."""
    counts = Counter(split.targets.tolist())
    assert set(counts) <= set(range(classes))
    return [counts[label] for label in range(classes)]


def _is_source(folder: Path) -> bool:
    return (folder / "model.safetensors").exists()


@pytest.fixture
def own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str, str], None]:
    """Write a module into ``mine/`` and an option of a group that names its class into ``conf/``."""
    monkeypatch.setattr(specs, "_extra_prefixes", [])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def write(module: str, source: str, option: str, config: str) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
            del sys.modules[name]
        for place, text in ((f"mine/{module}.py", source), (f"conf/{option}.yaml", config)):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text(text)

    return write


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs commands in processes of their own, without the seconds of imports."""
    warm = Zygote(tmp_path_factory.mktemp("zygote"))
    yield warm
    warm.close()


@pytest.fixture
def shared_data() -> Path:
    """The real images and weights beside the checkout."""
    folder = Path(os.environ.get("THAWLINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images and weights at {folder}")
    return folder
