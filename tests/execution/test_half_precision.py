"""Runs in bfloat16 on a CPU: the store changes no bit, each precision has its own values, and all of it is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY, records
from tests.drawn_objects import draw_yolo
from tests.execution.test_detection_runs import DETECT, TWO_STAGES
from tests.execution.test_segmentation_runs import SEGMENT
from tests.masked_squares import draw_masks
from thawline.execution.arithmetic import computing_dtype
from thawline.planning.settings import TrainerSettings
from thawline.records import Record, load_record
from thawline.runtime.bfloat16 import bfloat16_instructions, of_cpuinfo

HALF = "trainer.precision=bf16-mixed"
VIT = ("backbone=test_vit", "backbone.input_size=32")
PATH = ("probe=lbfgs_path", "freeze_policy=linear_probe", "probe.steps=2")
DENSE = {
    "masks": (draw_masks, "squares", SEGMENT, ("freeze_policy.k=1",)),
    "boxes": (draw_yolo, "objects", DETECT, ("head=faster_rcnn", *TWO_STAGES, "freeze_policy.k=1")),
}


def test_the_machine_is_measured_in_the_numbers_that_the_run_computes_in():
    computed = {"32-true": torch.float32, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    computed |= {"bf16-true": torch.bfloat16, "64-true": torch.float64}
    for precision, dtype in computed.items():
        assert computing_dtype(TrainerSettings(precision=precision)) == dtype


def numbers(record: Record) -> dict[str, Any]:
    """All that two runs of the same thing must have in common."""
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in record.history]
    return {"history": history, "metrics": record.metrics, "best": record.files["best.safetensors"]}


def of_lines(place: str = "outputs") -> list[dict[str, Any]]:
    """What the store holds of thaw lines."""
    held = [json.loads(file.read_bytes()) for file in sorted(Path(place).glob("cache/*/entry.json"))]
    return [entry for entry in held if entry["key"]["kind"] == "thaw line"]


def dtypes(entries: list[dict[str, Any]]) -> set[str]:
    return {array["stored_as"] for entry in entries for array in entry["arrays"]}


def test_gradients_are_clipped(train):
    # Of a fused optimizer Lightning clips none in mixed precision.
    record = train(HALF, "trainer.gradient_clip=1e-12", "head.init=zeros", "freeze_policy.k=0", "trainer.max_epochs=1")
    weights = load_file(f"outputs/runs/{record.identity}/best.safetensors")
    assert 0.0 < weights["head.weight"].abs().max() < 1e-11


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        pytest.param(("freeze_policy.k=2",), {"bfloat16"}, id="blocks"),
        pytest.param(
            ("freeze_policy.k=2", "trainer.channels_last=false", "learning_rates=auto_rgn"),
            {"bfloat16"},
            id="measured rates",
            marks=pytest.mark.slow,
        ),
        pytest.param((*VIT, "freeze_policy.k=1"), {"float32"}, id="tokens"),
        pytest.param(PATH, {"bfloat16"}, id="path"),
    ],
)
def test_the_store_changes_no_bit(train, overrides, kept):
    stored = train(HALF, *overrides, "cache.mode=on")
    plain = train(HALF, *overrides, "cache.mode=off", "output_dir=plain")
    assert [run.phases[0].thaw_line.stored for run in (stored, plain)] == [True, False]
    assert dtypes(of_lines()) == kept
    assert {value.dtype for value in stored.phases[0].thaw_line.values} == {f"torch.{dtype}" for dtype in kept}
    assert plain.identity == stored.identity
    assert numbers(plain) == numbers(stored)


@pytest.mark.parametrize("kind", ["boxes", pytest.param("masks", marks=pytest.mark.slow)])
def test_the_store_changes_no_bit_of_dense_tasks(thawline, tmp_path, kind):
    draw, folder, command, overrides = DENSE[kind]
    draw(tmp_path / folder)
    found = []
    for mode in ("on", "off"):
        result = thawline("train", *command, *overrides, HALF, f"cache.mode={mode}", f"output_dir={mode}")
        assert result.status == 0, result.err
        found.append(load_record(records(mode)[0]))
    assert [record.phases[0].thaw_line.stored for record in found] == [True, False]
    assert numbers(found[0]) == numbers(found[1])
    assert all(math.isfinite(row["train/loss"]) for row in found[0].history)


@pytest.mark.slow
def test_each_precision_of_a_sweep_has_the_numbers_of_running_alone(thawline):
    command = (*TINY, "trainer.max_epochs=1", "sweep.report=false")
    result = thawline("train", "-m", *command, "trainer.precision=32-true,bf16-mixed", "freeze_policy.k=2,1",
                      "cache.mode=on")  # fmt: skip
    assert result.status == 0, result.err
    swept = {folder.name: load_record(folder) for folder in records()}
    assert all(record.phases[0].thaw_line.stored for record in swept.values())
    # A precision, a depth: each has an entry of its own, for all images.
    held = [(entry["key"]["precision"], *sorted(dtypes([entry]))) for entry in of_lines()]
    assert sorted(held) == [("32-true", "float32")] * 2 + [("bf16-mixed", "bfloat16")] * 2
    result = thawline("train", *command, HALF, "freeze_policy.k=1", "cache.mode=off", "output_dir=alone")
    assert result.status == 0, result.err
    (alone,) = records("alone")
    assert numbers(load_record(alone)) == numbers(swept[alone.name])


def test_the_record_says_in_which_numbers_a_run_computed(train):
    record = train(HALF, "freeze_policy.k=0", "trainer.max_epochs=1", "cache.mode=on")
    said = record.provenance.arithmetic
    assert said is not None
    assert (said.precision, said.device, said.channels_last) == ("bf16-mixed", "cpu", True)
    flags = Path("/proc/cpuinfo")
    if flags.exists():
        present = set(flags.read_text().split())
        of_intel = {"amx": {"amx_bf16", "amx_tile"}, "avx512_bf16": {"avx512_bf16"}, "arm_bf16": {"bf16"}}
        expected = [name for name, wanted in of_intel.items() if wanted <= present]
        assert said.bfloat16_instructions == [*expected, "none"][0]
    assert record.recipe is not None and record.recipe.precision == "bf16-mixed"


def test_weights_in_bfloat16_train_without_the_store(train):
    record = train("trainer.precision=bf16-true", "freeze_policy.k=1", "trainer.max_epochs=1", "cache.mode=on")
    assert not record.diverged
    line = record.phases[0].thaw_line
    assert (line.stored, line.reason) == (
        False, "precision=bf16-true changes the weights' type when the fit starts",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("16-mixed", "trainer.precision: 16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true"),
        ("bf16-mixd", "or '64-true' (got 'bf16-mixd'); nearest: bf16-mixed"),
    ],
)
def test_a_precision_that_a_cpu_has_not_is_refused_before_anything_is_run(thawline, precision, message):
    for multirun in ((), ("-m",)):
        result = thawline("train", *multirun, *TINY, f"trainer.precision={precision}")
        assert result.status == 2
        assert message in result.err.replace("\n", " ")
        assert records() == []


def test_regularizers_are_added_up_in_float32(train, monkeypatch):
    """A sum of squares in bfloat16 has two digits, and no singular value can be computed in it."""
    seen: list[torch.dtype] = []
    whole = torch.linalg.svdvals

    def watched(values, **keywords):
        seen.append(values.dtype)
        return whole(values, **keywords)

    monkeypatch.setattr(torch.linalg, "svdvals", watched)
    record = train(HALF, "regularizer=[bss]", "trainer.max_epochs=1")
    assert set(seen) == {torch.float32}
    assert record.history[0]["train/bss"] > 0.0


INTEL = "processor\t: 0\nflags\t\t: fpu avx512f {}\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INTEL.format("avx512_bf16 amx_bf16 amx_tile"), "amx"),
        (INTEL.format("avx512_bf16 amx_bf16"), "avx512_bf16"),
        (INTEL.format("avx512_bf16"), "avx512_bf16"),
        (INTEL.format("avx512_vnni"), "none"),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", "arm_bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "none"),
        ("processor\t: 0\nisa\t: rv64\n", "unknown"),
    ],
)
def test_what_a_cpu_has_for_bfloat16_is_read_of_its_flags(text, expected):
    assert of_cpuinfo(text) == expected


def test_torch_and_linux_say_the_same_of_this_cpu():
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("one of them does not say")
    assert bfloat16_instructions() == of_cpuinfo(flags.read_text())
