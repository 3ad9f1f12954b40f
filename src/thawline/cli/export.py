"""``thawline export``: the whole model of a finished run, in one safetensors file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from thawline.cli.console import console
from thawline.cli.project import outputs
from thawline.errors import usage_error


def run(argv: Sequence[str]) -> int:
    """Put the model of a run together, source weights and what training moved, and write it.

    Raises:
        UsageError: there is no such run, its source is not what it was, or the file exists.
    """
    from thawline.cli.finding import find_run
    from thawline.execution.finish import BEST_FILE
    from thawline.execution.weights import ensure_model
    from thawline.files import atomic_write
    from thawline.ledger.verification import problems_of_run
    from thawline.planning.plan import IDENTITY_FORMAT, plan_run
    from thawline.planning.session import Workbench
    from thawline.planning.settings import recorded_config
    from thawline.records import require_record

    arguments = _parser().parse_args(argv)
    if arguments.output.exists() and not arguments.force:
        raise usage_error("--output", f"{arguments.output} exists; --force replaces it")
    folder = find_run(arguments.run, arguments.outputs)
    record = require_record(folder)
    from safetensors.torch import load_file, save

    damaged = [problem for problem in problems_of_run(folder) if problem.startswith(BEST_FILE)]
    if damaged:
        raise usage_error("run", f"{folder}: {damaged[0]}")
    bench = Workbench()
    plan = plan_run(recorded_config(record.config, folder.parent.parent), record.overrides, bench)
    if record.identity_format != IDENTITY_FORMAT:
        made = f"made by another version of thawline (identity format {record.identity_format}, not {IDENTITY_FORMAT})"
        raise usage_error("run", f"{folder}: {made}; run it again to export it")
    if plan.identity != record.identity:
        raise usage_error("run", f"{folder}: data or source weights are not those that the run was made from")
    tensors = load_file(ensure_model(plan, bench))
    skeleton = bench.skeleton(plan.settings)
    about = {
        "run": record.identity,
        "backbone": json.dumps(record.config["backbone"]),
        "classes": json.dumps(record.classes),
        "input_size": json.dumps(plan.transform.output_size),
        "mean": json.dumps(skeleton.mean),
        "std": json.dumps(skeleton.std),
    }
    with atomic_write(arguments.output) as stream:
        stream.write(save(tensors, metadata=about))
    numbers = sum(tensor.numel() for tensor in tensors.values())
    console.print(f"{arguments.output}: {len(tensors)} tensors, {numbers:,} numbers", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline export",
        description="Write the whole model of a finished run, backbone.* and head.*, as safetensors; classes, input "
        "size, mean and std are in the file's metadata.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its identity under outputs/runs")
    parser.add_argument("--output", type=Path, default=Path("model.safetensors"), metavar="FILE")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs lie")
    return parser
