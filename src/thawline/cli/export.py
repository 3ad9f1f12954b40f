"""``thawline export``: the whole model of a finished run, in one safetensors file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from thawline.commands.console import console
from thawline.commands.project import outputs
from thawline.errors import usage_error


def run(argv: Sequence[str]) -> int:
    """Put the model of a run together, source weights and what training updated, and write it.

    Raises:
        UsageError: there is no such run, its source is not what it was, or the file exists.
    """
    from thawline.commands.finding import find_run

    arguments = _parser().parse_args(argv)
    if arguments.output.exists() and not arguments.force:
        raise usage_error("--output", f"{arguments.output} exists; --force replaces it")
    folder = find_run(arguments.run, arguments.outputs)
    from safetensors import safe_open

    from thawline.execution.weights import ensure_model
    from thawline.files import atomic_write
    from thawline.planning.context import RunContext
    from thawline.planning.plan import plan_of_run
    from thawline.planning.session import Session

    session = Session()
    model = ensure_model(RunContext(plan_of_run(folder, session), session))
    with atomic_write(arguments.output) as stream:
        stream.write(model.read_bytes())
    with safe_open(model, framework="numpy") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no iterator
    numbers = sum(math.prod(shape) for shape in shapes)
    console.print(f"{arguments.output}: {len(shapes)} tensors, {numbers:,} numbers", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline export",
        description="Write the whole model of a finished run, backbone.* and head.*, as safetensors; classes and "
        "preprocessing (input size, resize, crop, interpolation, mean, std) are in the file's metadata, where "
        "backbone.weights=FILE finds them.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its identity under outputs/runs")
    parser.add_argument("--output", type=Path, default=Path("model.safetensors"), metavar="FILE")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs lie")
    return parser
