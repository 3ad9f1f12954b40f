"""Training steps in float32 and in bfloat16, in turn: prints the CPU seconds of each as JSON.

``python benchmarks/half_steps.py MODEL SIZE BATCH SECONDS WAYS``, with the overrides of each way by its name: network,
head, layout and precision are those that thawline gives a run of full fine-tuning; the images are random. Each round
takes one step of every kind, so that what else the machine does falls on all of them, and whoever compares takes the
ratio within a round.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from thawline.config_paths import conf_folder
from thawline.execution.arithmetic import arithmetic_of, mixed_precision
from thawline.execution.weights import source_backbone, with_head
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.runtime.cores import available_cores

_FEWEST, _MOST = 3, 30


def main(model: str, size: int, batch: int, seconds: float, ways: dict[str, list[str]]) -> None:
    """Measure and print."""
    torch.set_num_threads(available_cores())
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(10, (batch,), generator=numbers)
    steps, said = {}, {}
    for name, overrides in ways.items():
        steps[name], said[name] = _step(model, size, overrides, pixels, labels)
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    for taken in range(_MOST):
        if taken >= _FEWEST and time.perf_counter() - began > seconds:
            break
        for name, step in steps.items():
            start = time.process_time()
            step()
            found[name].append(time.process_time() - start)
    json.dump({"seconds": found, "arithmetic": said}, sys.stdout)


def _step(
    model: str, size: int, overrides: list[str], pixels: torch.Tensor, labels: torch.Tensor
) -> tuple[Callable[[], None], dict[str, object]]:
    """A training step of full fine-tuning, and in which numbers it computes."""
    vit = [f"backbone.input_size={size}"] if model.startswith("vit") else []
    fixed = [
        "backbone=timm", f"backbone.name={model}", "backbone.weights=null", *vit, "dataset=digits",
        "transform=squash", f"transform.size={size}", "freeze_policy=full", "trainer.accelerator=cpu", "logger=none",
    ]  # fmt: skip
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [*fixed, *overrides])
    with tempfile.TemporaryDirectory() as place:
        values: Any = OmegaConf.to_container(config, resolve=True)
        plan = plan_run({**values, "output_dir": str(Path(place))}, (), session := Session())
        run = RunContext(plan, session)
        backbone = source_backbone(run)
        network = with_head(plan, backbone)
    network.set_trainable(plan.phases[0].trainable)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with mixed_precision(plan.settings):
            loss = plan.settings.task.losses(network(pixels), labels)["loss"].mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, arithmetic_of(plan, backbone.module).model_dump()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), json.loads(sys.argv[5]))
