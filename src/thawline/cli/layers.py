"""``thawline layers``: the layer groups of a backbone, so that one knows what k means before anyone trains."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.cli.listing import wide_console
from thawline.config_paths import options as conf_options
from thawline.errors import nearest, usage_error

if TYPE_CHECKING:
    from thawline.backbones import Backbone, TimmBackbone, TorchvisionBackbone
    from thawline.layer_groups import GroupRow

_TORCHVISION = "torchvision/"
_TIMM = "timm/"


def run(argv: Sequence[str]) -> int:
    """Print the table of a backbone's layer groups; the exit status.

    Raises:
        UsageError: there is no such backbone, or an override does not fit it.
    """
    arguments = _parser().parse_args(argv)
    overrides = list(arguments.overrides)
    if arguments.granularity:
        overrides.append(f"granularity={arguments.granularity}")
    spec = _spec(arguments.backbone, overrides)
    spec.check()

    from thawline.layer_groups import group_table

    backbone = spec.skeleton()
    rows = group_table(backbone.module, backbone.groups, backbone.input_size)
    if arguments.json:
        pairs = zip(rows, backbone.groups, strict=True)
        print(json.dumps([{**asdict(row), "parameter_names": group.parameters} for row, group in pairs], indent=2))
    else:
        _show(arguments.backbone, backbone, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline layers",
        description="The layer groups of a backbone: k counts them from the output. Multiply-adds are those of "
        "convolutions, linear layers and attention for one image. Nothing is downloaded or trained.",
        epilog="thawline layers resnet18      thawline layers timm/resnet34 --granularity stage      "
        "thawline layers torchvision/alexnet      thawline layers vit_tiny input_size=96",
    )
    parser.add_argument(
        "backbone",
        metavar="BACKBONE",
        help="an option of the config group, a name of timm's, or torchvision/NAME (see: thawline list backbones)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="fields of the backbone, e.g. input_size=96"
    )
    parser.add_argument("--granularity", choices=("block", "stage"), help="a group is a block (default) or a stage")
    parser.add_argument("--json", action="store_true", help="print JSON, with the parameters' names")
    return parser


def _spec(name: str, overrides: Sequence[str]) -> TimmBackbone | TorchvisionBackbone:
    """The backbone that `name` and `overrides` describe."""
    from thawline.specs import resolve

    options = conf_options("backbone")
    given = {override.lstrip("+").removeprefix("backbone.").partition("=")[0] for override in overrides}
    if "name" in given and "weights" not in given:
        # The option's weights are those of its own network, and none are needed here.
        overrides = [*overrides, "weights=null"]
    if name in options:
        node = _plain(options[name], overrides)
    elif name.startswith(_TORCHVISION):
        node = _plain(
            {"_target_": "thawline.backbones.TorchvisionBackbone", "name": name.removeprefix(_TORCHVISION)}, overrides
        )
    else:
        network = name.removeprefix(_TIMM)
        _require_timm(network, options)
        node = _plain({"_target_": "thawline.backbones.TimmBackbone", "name": network}, overrides)
    spec: TimmBackbone | TorchvisionBackbone = resolve(node, "backbone")
    return spec


def _require_timm(name: str, options: dict[str, Path]) -> None:
    from thawline.backbones.names import names_of

    if name.partition(".")[0] not in names_of("timm"):
        theirs = (f"{_TORCHVISION}{model}" for model in names_of("torchvision"))
        hint = nearest(name, [*options, *names_of("timm"), *theirs])
        raise usage_error("", f"there is no backbone {name!r}{hint}; thawline list backbones shows them all")


def _plain(source: Path | dict[str, Any], overrides: Sequence[str]) -> Any:
    """The config node of `source` with the overrides laid on it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
    from yaml import YAMLError

    for override in overrides:
        if not re.fullmatch(r"\+{0,2}[\w.]+=.*", override, re.DOTALL):
            raise usage_error("", f"{override!r} is not FIELD=VALUE")
    fields = [override.lstrip("+").removeprefix("backbone.") for override in overrides]
    try:
        base = OmegaConf.load(source) if isinstance(source, Path) else OmegaConf.create(source)
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist(fields))
        return OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        field = error.full_key or "name"
        raise usage_error(f"backbone.{field}", f"must be given, e.g. {field}=resnet34") from None
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise usage_error("backbone", str(error).splitlines()[0]) from None


def _total(rows: Sequence[GroupRow]) -> int | None:
    counts = [row.multiply_adds for row in rows if row.multiply_adds is not None]
    return sum(counts) if counts else None


def _show(name: str, backbone: Backbone, rows: Sequence[GroupRow]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = wide_console()
    total = sum(row.parameters for row in rows)
    multiply_adds = _total(rows)
    height, width = backbone.input_size
    known_as = "" if name.endswith(backbone.name) else f" ({backbone.name})"
    facts = [f"input 3x{height}x{width}", f"features {backbone.feature_dim}", f"{total:,} parameters"]
    facts += [f"{_short(multiply_adds)} multiply-adds"] if multiply_adds is not None else []

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("layer group", overflow="fold")
    table.add_column("k", justify="right", style="bold", no_wrap=True)
    for header, least in (("parameters", 10), ("share", 7), ("trains\nwith k", 7)):
        table.add_column(header, justify="right", no_wrap=True, min_width=least)
    table.add_column("output", no_wrap=True)
    table.add_column("multiply-\nadds", justify="right", no_wrap=True, min_width=9)
    trained = [*accumulate(row.parameters for row in reversed(rows))][::-1]
    for row, cumulative in zip(rows, trained, strict=True):
        table.add_row(
            str(row.index),
            Text(row.name),
            str(row.k),
            f"{row.parameters:,}",
            _percent(row.share),
            _percent(cumulative / total),
            "?" if row.output_shape is None else "x".join(map(str, row.output_shape)),
            "?" if row.multiply_adds is None else _short(row.multiply_adds),
        )
    console.print(Text.assemble((name, "bold"), f"{known_as}: {len(rows)} layer groups"))
    console.print(Text(", ".join(facts)))
    console.print()
    console.print(table)
    console.print()
    console.print(_example(rows))


def _example(rows: Sequence[GroupRow]) -> Any:
    """One choice of k in words."""
    from rich.text import Text

    k = min(2, len(rows))
    names = ", ".join(row.name for row in rows[-k:])
    text = f"k counts from the output: freeze_policy=last_k freeze_policy.k={k} trains {names} and the head."
    return Text(text, style="dim")


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %"


def _short(count: int) -> str:
    """A count to three digits, with a unit: 1.81 G, 37.6 M, 118 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            scaled = count / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {unit}"
    return str(count)
