"""``thawline layers BACKBONE``: the layer groups of a network, what k means for it before anyone trains."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.config_paths import options
from thawline.errors import nearest, usage_error

if TYPE_CHECKING:
    from thawline.backbones import BackboneSpec
    from thawline.layer_groups import GroupRow


def run(argv: list[str]) -> int:
    """Print the table of a backbone's layer groups."""
    parser = argparse.ArgumentParser(prog="thawline layers", description="The layer groups of a backbone.")
    parser.add_argument("backbone", help="a name of `thawline list backbones`, any of timm, or torchvision/NAME")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="fields of the backbone: input_size=64")
    parser.add_argument("--granularity", choices=["block", "stage"], help="a group is a block or a stage")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    spec = backbone_spec(arguments.backbone, arguments.overrides, arguments.granularity)
    spec.check()
    from thawline.layer_groups import group_table

    skeleton = spec.skeleton()
    rows = group_table(skeleton.module, skeleton.groups, skeleton.input_size)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        _show(arguments.backbone, rows, skeleton.input_size)
    return 0


def backbone_spec(name: str, overrides: Sequence[str], granularity: str | None = None) -> BackboneSpec:
    """The spec of a backbone by the name of its yaml, of a timm model, or of ``torchvision/NAME``."""
    from omegaconf import OmegaConf

    from thawline.specs import resolve

    shipped = options("backbone")
    node: dict[str, Any]
    if name in shipped and name not in ("timm", "torchvision"):
        loaded = OmegaConf.to_container(OmegaConf.load(shipped[name]), resolve=True)
        node = {str(key): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    elif name.startswith("torchvision/"):
        node = {"_target_": "thawline.backbones.TorchvisionBackbone", "name": name.partition("/")[2]}
    else:
        node = {"_target_": "thawline.backbones.TimmBackbone", "name": name}
    node["weights"] = None
    changed = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    node.update(changed if isinstance(changed, dict) else {})
    if granularity is not None:
        node["granularity"] = granularity
    spec: BackboneSpec = resolve(node, "backbone")
    _known(name, shipped)
    return spec


def _known(name: str, shipped: Mapping[str, Path]) -> None:
    if name in shipped or name.startswith("torchvision/"):
        return
    import timm

    if not timm.is_model(name):
        raise usage_error("backbone", f"there is no backbone {name!r}{nearest(name, [*shipped, *timm.list_models()])}")


def _show(name: str, rows: Sequence[GroupRow], size: tuple[int, int]) -> None:
    from rich.table import Table

    from thawline.cli.console import console

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    columns = ("k", "group", "name", "parameters", "share", "from here up", "output", "multiply-adds")
    for column in columns:
        table.add_column(column, justify="left" if column == "name" else "right")
    above = 0
    for row in reversed(rows):
        above += row.parameters
        table.add_row(
            str(row.k),
            str(row.index),
            row.name,
            f"{row.parameters:,}",
            f"{row.share:.1%}",
            f"{above:,}",
            " x ".join(map(str, row.output_shape)) if row.output_shape else "-",
            f"{row.multiply_adds:,}" if row.multiply_adds is not None else "-",
        )
    total = sum(row.parameters for row in rows)
    console.print(f"[bold]{name}[/]: {len(rows)} layer groups, {total:,} parameters without the head, ", end="")
    console.print(f"at {size[0]} x {size[1]} pixels; freeze_policy.k thaws from the top of this table downwards")
    console.print(table)
