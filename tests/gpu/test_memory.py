"""The memory of the device: given back after each run, and one clear message where it does not suffice."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import records
from tests.gpu.device import HAS_GPU, MARK, SETTING
from thawline.records import load_record

pytestmark = MARK
ALLOW = ("--allow", "mine", "--config-dir", "conf")

TRACKER = '''
from tests.gpu.test_memory import held
from thawline.specs import Spec


class Nothing:
    def epoch(self, row):
        pass

    def close(self, record):
        pass


class Memory(Spec):
    """A tracker: notes what is held as a run begins."""

    def open(self, run):
        with open("memory.txt", "a") as notes:
            notes.write("{} {}\\n".format(*held()))
        return Nothing()
'''
HUNGRY = '''
import torch
from torch import nn
from thawline.backbones import TimmBackbone


class Hungry(TimmBackbone):
    """A network for which a machine has no memory to train the whole of it in batches of sixteen."""

    def build(self, *arguments, **options):
        backbone = super().build(*arguments, **options)

        def look(module, inputs):
            trains = next(iter(module.parameters())).requires_grad and torch.is_grad_enabled()
            if trains and len(inputs[0]) == 16:
                raise torch.OutOfMemoryError("out of memory. Tried to allocate 20.00 GiB")

        backbone.module.register_forward_pre_hook(look)
        return backbone
'''


def held() -> tuple[int, int]:
    """Bytes on the GPU, or on a CPU those of all tensors that are alive; and how many of Lightning's trainers are."""
    # A run sets what was made before it apart from what Python looks through.
    gc.unfreeze()
    objects = gc.get_objects()
    gc.freeze()
    trainers = sum(type(found).__name__ == "Trainer" for found in objects)
    if HAS_GPU:
        return int(torch.cuda.memory_allocated()), trainers
    # Subclasses are left out: what torch traces with has no memory of its own, and a process may keep it.
    tensors = [found for found in objects if type(found) in (torch.Tensor, nn.Parameter) and found.device.type == "cpu"]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()), trainers


def noted() -> tuple[list[int], list[int]]:
    """What was held as each run began: bytes, and trainers."""
    lines = [line.split() for line in Path("memory.txt").read_text().splitlines()]
    return [int(line[0]) for line in lines], [int(line[1]) for line in lines]


def test_memory_is_back_where_it_was_after_each_run(thawline, own_class, device):
    own_class("tracker", TRACKER, "logger/memory", "_target_: mine.tracker.Memory\n")
    setting = tuple(item for item in SETTING if not item.startswith("logger"))
    # The deepest first: what it leaves would be seen in all that follow.
    grid = ("freeze_policy.k=all,2,1", "seed=0,1,2", "data_seed=0", "sweep.report=false", "logger=memory")
    done = thawline("train", *ALLOW, "-m", *setting, f"trainer.accelerator={device}", *grid)
    assert done.status == 0, done.err
    began, trainers = noted()
    assert len(began) == 9
    assert trainers[1:] == trainers[:1] * 8
    # The first three runs leave the sources of three seeds, on the CPU; all later runs share what is there.
    assert max(began[3:]) - min(began[3:]) <= 2**16, began
    found = [load_record(folder) for folder in records()]
    peaks = {k: [r.cost.peak_memory_bytes for r in found if r.config["freeze_policy"]["k"] == k] for k in (1, "all")}
    assert min(peaks[1]) > 0
    if HAS_GPU:
        assert min(peaks[1]) < min(peaks["all"])


@dataclass(frozen=True)
class TooSmall:
    """A setting for which the device has no memory to train the whole network, and just enough for its end."""

    overrides: tuple[str, ...]
    batch: int
    size: int

    @property
    def batch_bytes(self) -> int:
        """What a batch of normalised images takes."""
        return self.batch * 3 * self.size**2 * 4


@pytest.fixture
def too_small(own_class):
    if not HAS_GPU:
        option = Path(__file__).parents[2] / "conf" / "backbone" / "test_resnet.yaml"
        config = option.read_text().replace("thawline.backbones.TimmBackbone", "mine.hungry.Hungry")
        own_class("hungry", HUNGRY, "backbone/hungry", config)
        yield TooSmall(("backbone=hungry",), 16, 32)
        return
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 384 * 2**20
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    large = ("transform.size=512", "dataset.n_per_class=8", "trainer.batch_size=64", "trainer.eval_batch_size=1")
    yield TooSmall(large, 64, 512)
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_does_not_fit_is_one_message_and_costs_no_other_run(thawline, own_class, too_small, device):
    own_class("tracker", TRACKER, "logger/memory", "_target_: mine.tracker.Memory\n")
    setting = tuple(item for item in SETTING if not item.startswith("logger"))
    grid = ("freeze_policy.k=1,all,0", "sweep.name=small", "sweep.report=false", "trainer.max_epochs=1")
    where = (f"trainer.accelerator={device}", "cache.mode=on", "logger=memory")
    done = thawline("train", *ALLOW, "-m", *setting, *where, *too_small.overrides, *grid)
    assert done.status == 1
    said = " ".join(done.err.split())
    assert "OutOfMemory: the memory of " in said
    assert f"is too small for trainer.batch_size={too_small.batch} (trainer.eval_batch_size=" in said
    assert "with freeze_policy.k=all; smaller batches, or less that trains, need less" in said
    assert sorted(load_record(folder).config["freeze_policy"]["k"] for folder in records()) == [0, 1]
    counts = json.loads(thawline("status", "small", "--json").out)["counts"]
    assert counts == {"done": 2, "failed": 1}
    (_, after_success, after_failure), trainers = noted()
    assert after_failure - after_success <= too_small.batch_bytes + 2**16
    assert trainers[1:] == trainers[:1] * 2
