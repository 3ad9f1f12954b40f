"""``thawline list GROUP [FILTER]``: what can be chosen."""

from __future__ import annotations

import argparse
import fnmatch
import json
from pathlib import Path

from thawline.config_paths import conf_folder, options
from thawline.errors import nearest, usage_error

_NO_GROUPS = {"hydra"}
_MOST_NAMES = 200


def run(argv: list[str]) -> int:
    """Print the options of a config group; of backbones, with a filter, the libraries' models too."""
    groups = sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name not in _NO_GROUPS)
    parser = argparse.ArgumentParser(prog="thawline list", description="What can be chosen.")
    parser.add_argument("group", nargs="?", help=f"one of {', '.join(groups)} (the plural works too)")
    parser.add_argument("filter", nargs="?", default="", help="part of a name, or a pattern such as 'resnet*'")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    if arguments.group is None:
        print("\n".join(groups))
        return 0
    found = matches(_group(arguments.group, groups), arguments.filter)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return 0


def matches(group: str, pattern: str) -> dict[str, dict[str, str]]:
    """Where a name comes from -> name -> what it is."""
    shipped = {name: _first_comment(path) for name, path in options(group).items() if _fits(name, pattern)}
    found = {f"conf/{group}": shipped}
    if group == "backbone" and pattern:
        import timm
        from torchvision import models

        found["timm"] = dict.fromkeys((name for name in timm.list_models() if _fits(name, pattern)), "")
        names = models.list_models(module=models)
        found["torchvision"] = {f"torchvision/{name}": "" for name in names if _fits(name, pattern)}
    return found


def _group(name: str, groups: list[str]) -> str:
    for candidate in (name, name.removesuffix("s"), name.removesuffix("es"), name.removesuffix("ies") + "y"):
        if candidate in groups:
            return candidate
    raise usage_error("", f"there is no group {name!r}{nearest(name, groups) or '; groups: ' + ', '.join(groups)}")


def _fits(name: str, pattern: str) -> bool:
    return pattern in name or fnmatch.fnmatch(name, pattern)


def _first_comment(path: Path) -> str:
    """What a yaml says of itself in its first comment that is not Hydra's."""
    for line in path.read_text().splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""


def _show(found: dict[str, dict[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from thawline.cli.console import console

    for origin, names in found.items():
        if not names:
            continue
        console.print(f"[bold]{origin}[/] ({len(names)})")
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for name, text in list(names.items())[:_MOST_NAMES]:
            table.add_row(f"  {escape(name)}", escape(text))
        console.print(table)
        if len(names) > _MOST_NAMES:
            console.print(f"  and {len(names) - _MOST_NAMES} more; narrow the filter")
    if not any(found.values()):
        console.print("nothing matches; `thawline list backbones resnet` also searches timm and torchvision")
