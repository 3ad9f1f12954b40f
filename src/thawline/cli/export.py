"""``thawline export``: the model of a finished run as a file for other programs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from thawline.commands.console import console
from thawline.commands.project import outputs

_FORMATS = ("safetensors", "onnx", "torchscript", "timm")


def run(argv: Sequence[str]) -> int:
    """Put the model of a run together, source weights and what training updated, and write it with its card.

    Raises:
        UsageError: there is no such run, the model has no such form, its source is not what it was, or a file exists.
    """
    from thawline.commands.finding import find_run_or_best
    from thawline.runtime.steps import Bars, step

    arguments = _parser().parse_args(argv)
    found = find_run_or_best(arguments.run, arguments.outputs)
    if found.why:
        console.print(Text(found.why), soft_wrap=True)
    with Bars(console):
        with step("loading libraries"):
            from thawline.exports import export_run
            from thawline.store.store import readable_bytes
        with step("exporting"):
            made = export_run(
                found.folder, arguments.output, form=arguments.format, force=arguments.force, chosen=found.why
            )
    for file in made.files:
        console.print(Text(f"{file}: {readable_bytes(file.stat().st_size)}"), soft_wrap=True)
    console.print(Text(made.remark, style="dim"), soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline export",
        description="Write the whole model of a finished run, with all preprocessing and the names of its outputs in "
        "the file's metadata, and a model card beside it. safetensors: the tensors backbone.* and head.*, from which "
        "backbone.weights=FILE goes on. onnx and torchscript: graphs of any batch size that take uint8 images and "
        "normalise them, compared with the model before they are kept. timm: a folder that "
        "timm.create_model('local-dir:FOLDER', pretrained=True) loads.",
        epilog="thawline export flowers --format onnx --output flowers.onnx",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run's folder or identity under outputs/runs, or a sweep: its best run by validation",
    )
    parser.add_argument(
        "--format", choices=_FORMATS, help="default: by the ending of --output (.onnx, .pt), else safetensors"
    )
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="the file, or timm's folder (default: model.safetensors, ...)"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.add_argument("--outputs", type=Path, default=outputs(), metavar="DIR", help="where runs and sweeps lie")
    return parser
