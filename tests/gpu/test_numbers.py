"""A GPU's numbers are the CPU's within rounding, with the bits of the store, and of a run that was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import records
from tests.drawn_objects import draw_instances, draw_yolo
from tests.execution.test_detection_runs import DETECT, SMALL, TWO_STAGES
from tests.execution.test_segmentation_runs import SEGMENT
from tests.gpu.device import HALF, HAS_GPU, MARK, SETTING
from tests.gpu.exactly import STOPPING
from tests.masked_squares import draw_masks
from tests.stopping import STOP_AT, numbers
from thawline.records import Record, load_record

pytestmark = MARK
VIT = ("backbone=test_vit", "backbone.input_size=32")
WHOLE = ("freeze_policy.k=all", "optimizer.lr=0.01")
# Nothing that is drawn on the device, such as dropout, where a GPU draws other numbers than a CPU.
KINDS = {
    "k=0": ("freeze_policy.k=0",),
    "k=2": ("freeze_policy.k=2",),
    "all": WHOLE,
    "vit": (*VIT, "freeze_policy.k=2"),
    "lora": (*VIT, "adapter=lora", "freeze_policy.k=0"),
    "path": ("probe=lbfgs_path", "freeze_policy=linear_probe", "probe.steps=3"),
    "l2_sp and bss": (*WHOLE, "regularizer=[l2_sp,bss]"),
    "delta": (*WHOLE, "regularizer=[delta]", "regularizer.delta.importance=uniform"),
    "measured rates": (*WHOLE, "learning_rates=auto_rgn"),
    "diagnostics": ("freeze_policy.k=1", "diagnostics.cka=true", "diagnostics.feature_distance=true"),
    "source": ("source=digits_low", "source.trainer.max_epochs=2", "dataset=digits_high", "dataset.n_per_class=4"),
    "read ahead": ("freeze_policy.k=1", "trainer.workers=1", "transform=flip_crop", "transform.size=32"),
}


def weights(record: Record, place: str) -> dict[str, torch.Tensor]:
    return load_file(f"{place}/runs/{record.identity}/best.safetensors")


def losses(record: Record) -> list[float]:
    return [value for row in record.history for name, value in row.items() if name.endswith("/loss")]


def assert_alike(one: Record, other: Record, tolerance: float) -> None:
    """Losses within rounding, and weights that went the same way."""
    assert losses(one) == pytest.approx(losses(other), rel=tolerance, abs=tolerance)
    if one.config["probe"] is not None:
        return  # L-BFGS ends anywhere on the flat ground about the optimum
    theirs = weights(other, "reference")
    for name, tensor in weights(one, "outputs").items():
        # The same steps from the same start: what differs has been rounded otherwise, and has grown for some steps.
        torch.testing.assert_close(
            tensor,
            theirs[name],
            rtol=10 * tolerance,
            atol=10 * tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_computes_what_the_cpu_does(run, kind):
    found, wanted = run(*KINDS[kind]), run(*KINDS[kind], place="reference", on="cpu")
    assert found.identity == wanted.identity
    assert_alike(found, wanted, 2e-3)
    assert found.metrics["test"]["loss"] == pytest.approx(wanted.metrics["test"]["loss"], rel=5e-3)


@pytest.fixture
def masks(tmp_path):
    draw_masks(tmp_path / "squares")
    return tuple(item for item in SEGMENT if not item.startswith("trainer.accelerator"))


@pytest.mark.parametrize("k", ["1", "all"])
def test_masks_are_learned_and_counted_as_on_the_cpu(run, masks, k):
    found = run(f"freeze_policy.k={k}", setting=masks)
    wanted = run(f"freeze_policy.k={k}", place="reference", on="cpu", setting=masks)
    assert_alike(found, wanted, 2e-3)
    for name in ("mean_iou", "pixel_accuracy", "dice"):
        assert found.metrics["test"][name] == pytest.approx(wanted.metrics["test"][name], abs=0.02)
    with np.load(f"outputs/runs/{found.identity}/predictions.npz") as kept:
        assert kept["truth"].sum() == kept["predicted"].sum() > 0


@pytest.fixture(params=["faster_rcnn", "mask_rcnn"])
def objects(tmp_path, request):
    """A detector of boxes, and one of masks too."""
    setting = tuple(item for item in DETECT if not item.startswith("trainer.accelerator"))
    if request.param == "faster_rcnn":
        draw_yolo(tmp_path / "objects")
        return (*setting, "head=faster_rcnn", *TWO_STAGES)
    draw_instances(tmp_path / "objects")
    data = ("dataset=instance_folder", "dataset.root=objects")
    fit = tuple(item for item in SETTING if not item.startswith(("dataset", "transform")))
    return (*fit, *data, *SMALL, "optimizer=adamw", "optimizer.lr=0.003", "head=mask_rcnn", *TWO_STAGES)


def test_objects_are_learned_and_found_on_the_device(run, objects):
    # Which anchors a step looks at is drawn on the device: other ones on a GPU than on a CPU.
    found = run("freeze_policy.k=1", "trainer.max_epochs=3", setting=objects)
    trained = [row["train/loss"] for row in found.history]
    assert trained[-1] < trained[0]
    assert {name for name in found.metrics["test"] if name.endswith("map")} >= {"map"}
    again = run("freeze_policy.k=1", "trainer.max_epochs=3", "cache.mode=off", place="again", setting=objects)
    # On a GPU the gradient of torchvision's RoI align is a sum in any order.
    assert losses(again) == pytest.approx(losses(found), rel=0.05 if HAS_GPU else 1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("network", [("backbone=test_resnet",), VIT], ids=["resnet", "vit"])
def test_the_store_changes_no_bit(run, whole_batches, network, precision):
    fixed = (*network, "freeze_policy.k=1", f"trainer.precision={precision}")
    stored = run(*fixed, "cache.mode=on", setting=whole_batches)
    computed = run(*fixed, "cache.mode=off", place="reference", setting=whole_batches)
    assert [record.phases[0].thaw_line.stored for record in (stored, computed)] == [True, False]
    assert losses(stored) == losses(computed)
    theirs = weights(computed, "reference")
    for name, tensor in weights(stored, "outputs").items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_channels_last_is_a_layout_alone(run, precision):
    fixed = ("freeze_policy.k=all", "optimizer.lr=0.001", f"trainer.precision={precision}")
    first = run(*fixed, "trainer.channels_last=false", place="reference")
    last = run(*fixed, "trainer.channels_last=true")
    assert losses(last) == pytest.approx(losses(first), rel=1e-3 if precision == "32-true" else 0.05)


def test_packed_probes_are_those_of_the_cpu_alone(thawline, run, device):
    grid = ("freeze_policy=linear_probe", "data_seed=0", "sweep.report=false")
    rates, decays = "optimizer.lr=0.01,0.1", "optimizer.weight_decay=0,0.1"
    done = thawline("train", "-m", *SETTING, f"trainer.accelerator={device}", *grid, rates, decays)
    assert done.status == 0, done.err
    packed = [load_record(folder) for folder in records()]
    assert [record.phases[0].thaw_line.packed for record in packed] == [4] * 4
    for record in packed:
        optimizer = record.config["optimizer"]
        own = (f"optimizer.lr={optimizer['lr']}", f"optimizer.weight_decay={optimizer['weight_decay']}")
        assert_alike(record, run(*grid, *own, place="reference", on="cpu"), 2e-3)


@pytest.mark.parametrize("stop", ["TERM:8", "KILL:8"])
def test_half_precision_goes_on_with_its_scaler(zygote, tmp_path, device, stop):
    fixed = (
        *SETTING, *STOPPING, f"trainer.accelerator={device}", f"trainer.precision={HALF}", "trainer.max_epochs=4",
        "trainer.cuda_graphs=true", "trainer.gradient_clip=1.0",
        "trainer.checkpoint_seconds=0", "freeze_policy.k=2", "head.dropout=0.2", "dataset.classes=[1,4,7]",
        "dataset.n_per_class=13",
    )  # fmt: skip
    places = [tmp_path / name for name in ("whole", "stopped")]
    for place in places:
        place.mkdir()
    whole = zygote.run("train", *fixed, folder=places[0])
    assert whole.wait() == 0, whole.err
    stopped = zygote.run("train", *fixed, folder=places[1], environment={STOP_AT: stop})
    assert stopped.wait() == {"TERM:8": 143, "KILL:8": -9}[stop], stopped.err
    (left,) = Path(places[1], "outputs", "runs").iterdir()
    state = torch.load(left / "last.ckpt", weights_only=True)["fit"]["precision"]
    assert bool(state) == HAS_GPU
    again = zygote.run("train", *fixed, folder=places[1])
    assert again.wait() == 0, again.err
    (wanted,), (found,) = (records(str(place / "outputs")) for place in places)
    assert load_record(found).provenance.resumed
    assert numbers(found) == numbers(wanted)
