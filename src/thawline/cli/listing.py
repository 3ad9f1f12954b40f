"""``thawline list``: the options of a config group, each with what it is; for backbones the libraries' names too."""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from thawline.commands.console import console
from thawline.config_paths import conf_folders
from thawline.config_paths import options as conf_options
from thawline.errors import nearest, usage_error

if TYPE_CHECKING:
    from thawline.backbones.names import Family

_INTERNAL = ("hydra",)
_PIPE_WIDTH = 120
_WILD = "*?["


@dataclass(frozen=True)
class Option:
    """An option of a config group: its name, and the first comment of its file."""

    name: str
    about: str


def run(argv: Sequence[str]) -> int:
    """Print what there is; the exit status.

    Raises:
        UsageError: there is no such group, or nothing in it matches the filter.
    """
    arguments = _parser().parse_args(argv)
    groups = _groups()
    if arguments.group is None:
        return _show_groups(groups, as_json=arguments.json)
    group = _group(arguments.group, groups)
    wanted = arguments.filter
    options = [option for option in _options(group) if _matches(option, wanted)]
    families = _families(wanted) if group == "backbone" else []
    families = _with_weights(families) if arguments.pretrained else families
    if wanted and not options and not families:
        names = [option.name for option in _options(group)]
        names += [name for family in _families(None) for name in family.names] if group == "backbone" else []
        raise usage_error("", f"no {group.replace('_', ' ')} matches {wanted!r}{nearest(wanted.strip(_WILD), names)}")
    if arguments.json:
        _print_json(group, options, families)
    else:
        _show(group, options, families, brief=not wanted and not arguments.all)
    return 0


def wide_console() -> Console:
    """The terminal; where there is none (a pipe, a file), lines may be longer than the eighty columns rich assumes."""
    return console if console.is_terminal else Console(width=_PIPE_WIDTH, highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline list",
        description="The options of a config group. Without GROUP: the groups.",
        epilog="thawline list backbones 'resnet*'      thawline list datasets cifar      thawline list freeze_policies",
    )
    parser.add_argument("group", nargs="?", metavar="GROUP", help="backbones, datasets, freeze_policies, heads, ...")
    parser.add_argument("filter", nargs="?", metavar="FILTER", help="a part of a name, or a pattern with * and ?")
    parser.add_argument("--all", action="store_true", help="every name of the libraries, also without a filter")
    parser.add_argument("--pretrained", action="store_true", help="backbones: only names that have weights to download")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _groups() -> list[str]:
    folders = {path.name for root in conf_folders() for path in root.iterdir() if path.is_dir()}
    return sorted(name for name in folders if name not in _INTERNAL and conf_options(name))


def _group(word: str, groups: Sequence[str]) -> str:
    """The group that a word means, in the singular or the plural."""
    by_word = {plural: group for group in groups for plural in (group, f"{group}s", f"{group.removesuffix('y')}ies")}
    normal = word.lower().replace("-", "_")
    if normal not in by_word:
        raise usage_error(
            "", f"there is no config group {word!r}{nearest(normal, groups)}; groups: {', '.join(groups)}"
        )
    return by_word[normal]


def _options(group: str) -> list[Option]:
    return [Option(name, first_comment(path)) for name, path in conf_options(group).items()]


def first_comment(path: Path) -> str:
    """The first comment of a yaml, without the directives that Hydra reads."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ").strip()
    return ""


def _matches(option: Option, wanted: str | None) -> bool:
    return (
        not wanted or _fits(option.name, wanted) or (not _is_pattern(wanted) and wanted.lower() in option.about.lower())
    )


def _fits(name: str, wanted: str) -> bool:
    if _is_pattern(wanted):
        return fnmatch.fnmatchcase(name.lower(), wanted.lower())
    return wanted.lower() in name.lower()


def _is_pattern(wanted: str) -> bool:
    return any(sign in wanted for sign in _WILD)


def _families(wanted: str | None) -> list[Family]:
    """The networks of timm and torchvision that match, by the library's module."""
    from thawline.backbones.names import families

    found = []
    for family in families():
        prefix = "torchvision/" if family.library == "torchvision" else ""
        matching = [name for name in family.names if not wanted or _fits(name, wanted) or _fits(prefix + name, wanted)]
        found.append(replace(family, names=tuple(matching)))
    return [family for family in found if family.names]


def _with_weights(families: Sequence[Family]) -> list[Family]:
    """Of these networks those for which the library has weights; importing timm takes seconds."""
    import timm

    known = {name.partition(".")[0] for name in timm.list_pretrained()}
    kept = [
        family if family.library == "torchvision"
        else replace(family, names=tuple(name for name in family.names if name in known))
        for family in families
    ]  # fmt: skip
    return [family for family in kept if family.names]


def _print_json(group: str, options: Sequence[Option], families: Sequence[Family]) -> None:
    """Where a name comes from -> name -> what it is."""
    content = {f"conf/{group}": {option.name: option.about for option in options}}
    if group == "backbone":
        content |= {"timm": {}, "torchvision": {}}
        for family in families:
            prefix = "torchvision/" if family.library == "torchvision" else ""
            content[family.library].update(dict.fromkeys((f"{prefix}{name}" for name in family.names), ""))
    print(json.dumps(content, indent=2))


def _show_groups(groups: Sequence[str], *, as_json: bool) -> int:
    counts = {group: list(conf_options(group)) for group in groups}
    if as_json:
        print(json.dumps(counts, indent=2))
        return 0
    from rich.text import Text

    wide = wide_console()
    width = max(map(len, groups))
    for group, names in counts.items():
        line = Text.assemble((f"{group:<{width}}  ", "bold"), ", ".join(names))
        line.truncate(wide.width, overflow="ellipsis")
        wide.print(line)
    wide.print(Text("\nthawline list GROUP shows what each one is", style="dim"))
    return 0


def _show(group: str, options: Sequence[Option], families: Sequence[Family], *, brief: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    wide = wide_console()
    if options:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for option in options:
            table.add_row(Text(option.name), Text(option.about))
        wide.print(Text(f"{group}=OPTION", style="dim"))
        wide.print(table)
    if not families:
        return
    if brief:
        _show_counts(families, wide)
        return
    for library, how in (
        ("timm", "backbone=timm backbone.name=NAME"),
        ("torchvision", "backbone=torchvision backbone.name=NAME"),
    ):
        ours = [family for family in families if family.library == library]
        if ours:
            count = sum(len(family.names) for family in ours)
            wide.print(Text(f"\n{how}: {count:,} of {library}", style="dim"))
            for family in ours:
                _show_family(family, wide)


def _show_counts(families: Sequence[Family], wide: Console) -> None:
    from rich.text import Text

    counts = {
        library: sum(len(family.names) for family in families if family.library == library)
        for library in ("timm", "torchvision")
    }
    wide.print()
    for library, count in counts.items():
        wide.print(Text.assemble((library, "bold"), f"  {count:,} networks: backbone={library} backbone.name=NAME"))
    wide.print(Text("thawline list backbones FILTER (or --all) shows their names", style="dim"))


def _show_family(family: Family, wide: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    names = Text("  ").join(map(Text, family.names))
    if family.library == "timm":
        wide.print(Text(family.family, style="bold"))
    wide.print(Padding(names, (0, 0, 0, 2)))
