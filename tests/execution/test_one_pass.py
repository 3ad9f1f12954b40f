"""One pass over the images stores the values at all lines of a sweep, with the bits of a pass for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from tests.conftest import TINY, records
from tests.masked_squares import CLASSES, draw_masks
from thawline.records import FeaturePass, Record, load_record
from thawline.reports.loading import load_sweep
from thawline.store.store import Store

SWEEP = ("cache.mode=on", "sweep.report=false", "trainer.max_epochs=1")
TRACED = 3
"""Tracing passes batches of at most so many images."""


class Passed:
    """Counts the images that pass convolutions of three channels, whatever asks for that, but for tracing."""

    def __init__(self) -> None:
        self.images = self.batches = 0
        self.stop_at = 0

    def __call__(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and len(inputs[0]) > TRACED:
            self.images += len(inputs[0])
            self.batches += 1
            if self.batches == self.stop_at:
                raise RuntimeError("stopped in the middle of a pass")


@pytest.fixture
def passed() -> Iterator[Passed]:
    counting = Passed()
    handle = nn.modules.module.register_module_forward_hook(counting)
    yield counting
    handle.remove()


@pytest.fixture
def sweep(thawline):
    """Run a sweep over depths and return its records in the order in which they ran, by their depths."""

    def run(depths: str, *overrides: str, place: str = "outputs", status: int = 0) -> dict[str, Record]:
        result = thawline("train", "-m", *TINY, *SWEEP, f"freeze_policy.k={depths}", f"output_dir={place}",
                          f"cache.dir={place}/cache", *overrides)  # fmt: skip
        assert result.status == status, result.err
        found = {str(record.config["freeze_policy"]["k"]): record for record in map(load_record, records(place))}
        return {k: found[k] for k in depths.split(",") if k in found}

    return run


def passes(record: Record) -> list[FeaturePass]:
    return [each for phase in record.phases for each in phase.thaw_line.passes]


def entries(record: Record) -> list[str]:
    return [entry for phase in record.phases for entry in phase.thaw_line.entries]


def kept(place: str = "outputs") -> dict[str, str]:
    """What the store holds: identity and title, but for decoded images."""
    found = Store(Path(place, "cache")).verify()
    # Entries of this process stay in use for as long as a session lives.
    assert {status.state for status in found} <= {"whole", "in use"}
    return {status.identity: status.title for status in found if not status.title.startswith("decoded images")}


def numbers(record: Record) -> list[object]:
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in record.history]
    return [history, record.metrics, record.files]


def test_the_first_run_stores_what_all_others_need_with_the_bits_of_passes_apart(sweep, passed):
    found = sweep("0,1,2,3,4")
    (made,) = passes(found["0"])
    assert made.samples == passed.images > 0
    assert [line.entry for line in made.lines] == [entries(found[k])[0] for k in "43210"]
    assert sum(line.share for line in made.lines) == pytest.approx(1.0)
    assert not any(passes(found[k]) for k in "1234")
    assert all(found[k].phases[0].thaw_line.stored for k in found)
    # The longer way costs the deeper line more; the bytes of the shallow ones cost these.
    assert 0 < made.cpu_seconds <= found["0"].cost.cpu_seconds
    for k in "02":
        (alone,) = sweep(k, place=f"alone{k}").values()
        assert numbers(alone) == numbers(found[k])
        for entry in entries(alone):
            for file in Path(f"alone{k}/cache", entry).glob("*.bin"):
                assert file.read_bytes() == Path("outputs/cache", entry, file.name).read_bytes()


@pytest.mark.slow
def test_runs_from_the_input_on_go_on_from_one_another(sweep, passed):
    found = sweep("3,1,2,0")
    # 3 stores for itself; 1 comes by the line of 2.
    assert [[line.entry for line in made.lines] for k in found for made in passes(found[k])] == [
        entries(found["3"]),
        [*entries(found["2"]), *entries(found["1"])],
        entries(found["0"]),
    ]
    assert passed.images == passes(found["3"])[0].samples
    assert [made.start for k in "310" for made in passes(found[k])] == [
        "",
        f"thaw line before {found['3'].phases[0].thaw_line.line}",
        f"thaw line before {found['1'].phases[0].thaw_line.line}",
    ]


@pytest.mark.slow
def test_where_the_budget_does_not_hold_them_all_it_holds_those_that_save_most_a_byte(sweep):
    whole = sweep("0,1,2,3", place="whole")
    sizes = {k: record.phases[0].thaw_line.bytes for k, record in whole.items()}
    flops = {k: record.phases[0].thaw_line.prefix_flops_per_sample for k, record in whole.items()}
    # Deeper lines save more and are narrower here.
    assert sorted(sizes, key=lambda k: flops[k] / sizes[k]) == ["3", "2", "1", "0"]
    # Decoded images give way to values at a line.
    budget = sum(sizes[k] for k in "012") + sizes["3"] // 2
    found = sweep("3,2,1,0", f"cache.max_bytes={budget}")
    assert [found[k].phases[0].thaw_line.stored for k in "3210"] == [False, True, True, True]
    reason = found["3"].phases[0].thaw_line.reason
    assert reason.startswith("not stored: ") and "are kept for lines that save more a byte (cache.max_bytes)" in reason
    assert set(kept()) == {entry for k in "012" for entry in entries(found[k])}
    for k in "0123":
        assert found[k].metrics["test"]["loss"] == pytest.approx(whole[k].metrics["test"]["loss"], rel=1e-5)


def test_a_pass_that_breaks_off_leaves_no_line(sweep, passed):
    passed.stop_at = 2
    assert sweep("0,1,2", "sweep.fail_fast=true", status=1) == {}
    assert kept() == {}
    assert not [path for path in Path("outputs/cache").iterdir() if path.name.endswith(".partial")]
    passed.images, passed.stop_at = 0, 0
    found = sweep("0,1,2")
    assert [len(made.lines) for made in passes(found["0"])] == [3]
    assert passed.images == passes(found["0"])[0].samples
    assert set(kept()) == {entry for record in found.values() for entry in entries(record)}


@pytest.mark.slow
def test_lines_that_are_stored_are_not_computed_again(sweep, passed):
    first = sweep("1")
    one = passes(first["1"])[0].samples
    assert passed.images == one
    for folder in records():
        shutil.rmtree(folder)
    found = sweep("0,1,2")
    # 0 goes on from 1, and 2, which lies before it, is left to its own run.
    assert [made.start for made in passes(found["0"])] == [f"thaw line before {found['1'].phases[0].thaw_line.line}"]
    assert [[line.entry for line in made.lines] for made in passes(found["0"])] == [entries(found["0"])]
    assert passes(found["1"]) == []
    assert [made.start for made in passes(found["2"])] == [""]
    assert passed.images == 2 * one


@pytest.mark.slow
def test_rounded_values_lead_to_no_deeper_line(sweep):
    found = sweep("2,0", "cache.dtype=bfloat16")
    assert [made.start for record in found.values() for made in passes(record)] == ["", ""]
    (alone,) = sweep("0", "cache.dtype=bfloat16", place="alone").values()
    assert numbers(alone) == numbers(found["0"])


def test_the_phases_of_a_policy_over_time_share_a_pass(thawline, passed):
    gradual = ("freeze_policy=gradual_unfreezing", "freeze_policy.k=3", "trainer.max_epochs=4")
    options = [item for item in SWEEP if not item.startswith("trainer")]
    assert thawline("train", *TINY, *options, *gradual).status == 0
    (record,) = map(load_record, records())
    assert [phase.thaw_line.stored for phase in record.phases] == [True] * 4
    assert [len(phase.thaw_line.passes) for phase in record.phases] == [1, 0, 0, 0]
    (made,) = passes(record)
    assert [line.entry for line in made.lines] == entries(record)[::-1]
    assert passed.images == made.samples
    assert thawline("train", *TINY, *options, *gradual, "cache.mode=off", "output_dir=plain").status == 0
    plain = load_record(records("plain")[0])
    assert [row["val/loss"] for row in record.history] == pytest.approx([row["val/loss"] for row in plain.history])


@pytest.mark.slow
def test_the_maps_of_a_dense_task_share_a_pass(thawline, tmp_path, passed):
    draw_masks(tmp_path / "squares")
    tiny = [item for item in TINY if not item.startswith(("dataset", "transform"))]
    options = (*tiny, *SWEEP, "dataset=mask_folder", "dataset.root=squares", "transform.size=32", "head.width=8",
               f"dataset.classes=[{','.join(CLASSES)}]", "trainer.batch_size=4")  # fmt: skip
    assert thawline("train", "-m", *options, "freeze_policy.k=0,2").status == 0
    zero, two = sorted(map(load_record, records()), key=lambda record: record.config["freeze_policy"]["k"])
    (made,) = passes(zero)
    assert len(zero.phases[0].thaw_line.values) > 1
    assert [line.entry for line in made.lines] == [*entries(two), *entries(zero)]
    # Each run's gallery shows its five test images to the whole model.
    assert passed.images == made.samples + 2 * 5
    for record in (zero, two):
        k = record.config["freeze_policy"]["k"]
        assert thawline("train", *options, f"freeze_policy.k={k}", "output_dir=alone", "cache.dir=apart").status == 0
        assert numbers(load_record(Path("alone/runs", record.identity))) == numbers(record)


@pytest.mark.slow
def test_packed_probes_store_for_the_runs_after_them(thawline, passed):
    options = (*TINY, *SWEEP, "seed=0", "backbone.weights=null", "optimizer.lr=0.01,0.1", "freeze_policy.k=0,1")
    assert thawline("train", "-m", *options).status == 0
    found = [load_record(folder) for folder in records()]
    packed = [record for record in found if record.phases[0].thaw_line.packed == 2]
    # Each has half of the one pass.
    assert [len(passes(record)) for record in packed] == [1, 1]
    assert len({passes(record)[0].model_dump_json() for record in packed}) == 1
    assert len(passes(packed[0])[0].lines) == 2
    assert not any(passes(record) for record in found if record not in packed)
    assert passed.images == passes(packed[0])[0].samples


def test_a_report_shares_the_cost_of_a_pass_among_the_runs_that_read_it(sweep):
    found = sweep("0,1,2")
    (made,) = passes(found["0"])
    shown = {str(run.settings["freeze_policy.k"]): run for run in load_sweep(Path("outputs/runs")).runs}
    share = {k: next(line.share for line in made.lines if line.entry in entries(found[k])) for k in "012"}
    for k, paid in (("0", made.cpu_seconds), ("1", 0.0), ("2", 0.0)):
        assert shown[k].cpu_seconds == pytest.approx(found[k].cost.cpu_seconds - paid + share[k] * made.cpu_seconds)
    for name in ("cpu_seconds", "total_seconds"):
        assert sum(getattr(run, name) for run in shown.values()) == pytest.approx(
            sum(getattr(record.cost, name) for record in found.values())
        )


@pytest.mark.slow
def test_a_worker_learns_from_the_sweep_what_the_others_need(sweep):
    found = sweep("0,1,2", "hydra/launcher=parallel", "hydra.launcher.workers=1", "sweep.name=spread")
    (made,) = passes(found["0"])
    assert [line.entry for line in made.lines] == [entries(found[k])[0] for k in "210"]
    assert not passes(found["1"]) and not passes(found["2"])
