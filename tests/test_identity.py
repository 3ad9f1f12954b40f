"""A run's identity: whatever can change its numbers gives another one, and what cannot does not."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import thawline as library
from tests.conftest import TINY
from thawline import specs
from thawline.heads import Linear
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record
from thawline.specs import Spec, stable_name

HEAD = """
from thawline.heads import Linear
from .parts import rate
import helper

class Mine(Linear):
    def build(self, features, classes, source, seed):
        from own import late
        return super().build(features, classes, source, seed)
"""
FILES = {
    "own/__init__.py": "from own.head import Mine\n",
    "own/head.py": HEAD,
    "own/parts.py": "from torch.optim import SGD\nclass Steps(SGD):\n    pass\nrate = 1\n",
    "own/late.py": "a = 1\n",
    "own/views.py": "from torchvision.transforms import v2\nclass Mirror(v2.RandomHorizontalFlip):\n    pass\n",
    "own/unused.py": "a = 1\n",
    "helper.py": "a = 1\n",
}

VIEW = "{_target_: own.views.Mirror}"


def forget_own() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "helper")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def identity(config) -> str:
    """The identity of a configuration in a new process: own modules are imported again."""
    forget_own()
    return plan_run(config, (), Session()).identity


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(specs, "_extra_prefixes", [])
    forget_own()


def test_the_source_code_of_own_classes_and_of_what_they_import(train, own):
    record = train("--allow", "own", "++head={_target_: own.Mine}", "trainer.max_epochs=1")
    read = ("helper", "own", "own.head", "own.late", "own.parts")
    assert list(record.provenance.own_code) == list(read)
    for module, said in record.provenance.own_code.items():
        file = {"own": "own/__init__.py"}.get(module, module.replace(".", "/") + ".py")
        assert (said.file, said.sha256) == (file, hashlib.sha256(Path(file).read_bytes()).hexdigest())
    seen = {record.identity}
    assert identity(record.config) == record.identity
    for module, said in record.provenance.own_code.items():
        file = Path(said.file)
        before = file.read_text()
        file.write_text(before + "\n# edited\n")
        changed = identity(record.config)
        assert changed not in seen, module
        seen.add(changed)
        file.write_text(before)
    Path("own/unused.py").write_text("a = 2\n")
    assert identity(record.config) == record.identity


@pytest.mark.parametrize(
    ("overrides", "module"),
    [
        (["optimizer._target_=own.parts.Steps"], "own.parts"),
        ([f"transform.augmentation=[{VIEW}]"], "own.views"),
        (
            [f"transform.augmentation=[{{_target_: torchvision.transforms.v2.RandomApply, transforms: [{VIEW}]}}]"],
            "own.views",
        ),
    ],
    ids=["optimizer", "augmentation", "inside another"],
)
def test_own_classes_anywhere_in_a_configuration(train, own, overrides, module):
    record = train("--allow", "own", "trainer.max_epochs=1", *overrides)
    assert module in record.provenance.own_code
    file = Path(record.provenance.own_code[module].file)
    file.write_text(file.read_text() + "\n# edited\n")
    assert identity(record.config) != record.identity


def specs_of_ours() -> list[type[Spec]]:
    for module in pkgutil.walk_packages(library.__path__, "thawline."):
        if module.name != "thawline.__main__":
            importlib.import_module(module.name)
    found, waiting = [], [Spec]
    while waiting:
        found += waiting
        waiting = [sub for one in waiting for sub in one.__subclasses__()]
    return list({one for one in found if one.__module__.startswith("thawline.")})


def test_no_two_specs_have_one_name():
    names = [stable_name(one) for one in specs_of_ours()]
    assert sorted(names) == sorted(set(names))


def test_a_class_of_ours_may_move_to_another_module(train, monkeypatch):
    record = train("trainer.max_epochs=1")
    monkeypatch.setattr(Linear, "__module__", "thawline.somewhere.else_")
    assert identity(record.config) == record.identity
    old = {**record.config, "head": {**record.config["head"], "_target_": "thawline.older.place.Linear"}}
    monkeypatch.setitem(specs.MOVED_MODULES, "thawline.older.place", "thawline.heads")
    assert identity(old) == record.identity


def test_records_of_the_first_format_are_read_and_said_to_be_old(thawline):
    assert thawline("train", "-m", *TINY, "trainer.max_epochs=1", "sweep.report=false").status == 0
    (folder,) = Path("outputs/runs").iterdir()
    values = json.loads((folder / "record.json").read_text())
    assert values.pop("identity_format") == 2
    for later in ("identity_parts", "seal", "preprocessing"):
        del values[later]
    # Before, an identity had other parts: another folder than the one that the configuration leads to now.
    values["identity"] = "0123456789abcdef0123"
    older = folder.rename(folder.with_name(values["identity"]))
    (older / "record.json").write_text(json.dumps(values))
    for manifest in Path("outputs/sweeps").glob("*/*.json"):
        manifest.write_text(manifest.read_text().replace(folder.name, older.name))
    assert load_record(older).identity_format == 1
    for command in ("status", "verify"):
        result = thawline(command, *([str(older)] if command == "verify" else []))
        assert result.status == 0, (command, result.err)
    result = thawline("export", str(older))
    assert result.status == 2
    assert "identity format 1" in result.err


def test_the_split_of_an_image_and_the_names_of_classes(train):
    rows = []
    for label in ("cat", "dog"):
        for number in range(8):
            path = Path("set", f"{label}{number}.png")
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (number * 30, 255 * (label == "cat"), 0)).save(path)
            rows.append([path.name, label, ("train", "train", "val", "test")[number % 4]])

    def write():
        Path("set/splits.csv").write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))

    write()
    record = train(
        "dataset=image_folder", "dataset.root=set", "~dataset.n_per_class", "trainer.max_epochs=1", "metrics.top_k=1"
    )
    assert identity(record.config) == record.identity
    rows[0][2], rows[3][2] = rows[3][2], rows[0][2]  # the same images and labels, two of them in other splits
    write()
    assert identity(record.config) != record.identity


def test_stored_values_of_low_precision_tell_apart_what_is_stored_and_what_is_not(train):
    config = train("trainer.max_epochs=1").config

    def with_cache(**fields):
        return identity({**config, "cache": {**config["cache"], **fields}})

    assert with_cache(mode="off") == with_cache(mode="on") == with_cache(mode="auto")
    rounded = [with_cache(mode=mode, dtype="bfloat16") for mode in ("off", "on", "auto")]
    assert rounded[0] == with_cache(mode="on")
    assert len(set(rounded)) == 3


def test_the_bytes_of_a_weights_file_and_of_an_image(train):
    made = np.random.default_rng(0).integers(0, 255, size=(12, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(made):
        place = Path("photos") / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")

    def weights(seed: int) -> None:
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), "weights.safetensors")

    weights(0)
    folder = ("dataset=image_folder", "dataset.root=photos", "dataset.n_per_class=null", "trainer.max_epochs=1")
    first = train(*folder, "backbone.weights=weights.safetensors", "freeze_policy.k=0")
    assert identity(first.config) == first.identity
    weights(1)
    assert identity(first.config) != first.identity
    weights(0)
    assert identity(first.config) == first.identity
    for part in ("train", "val", "test"):
        assert first.splits[part].samples > 0
    Image.fromarray(255 - made[5]).save("photos/1/5.png")
    assert identity(first.config) != first.identity
