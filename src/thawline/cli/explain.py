"""``thawline explain``: what a field takes, in the words of the class that takes it; ``--markdown`` prints them all."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from thawline.commands.console import console
from thawline.config_paths import conf_folder, options
from thawline.errors import nearest_path, usage_error

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_BOUNDS = {
    "ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}",
    "min_length": "length at least {}", "max_length": "length at most {}", "pattern": "matching `{}`",
}  # fmt: skip
_WHOLE_CONFIG = ("experiments", "strategy", "source")
"""Groups whose options set fields of other groups."""
_NO_GROUPS = ("hydra",)


@dataclass(frozen=True)
class Field:
    """A field of the configuration: path, what it takes and means, default, and the options that have, or lack, it."""

    path: str
    takes: str
    meaning: str
    default: str
    options: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()

    def where(self, written: str = "{}") -> str:
        """Which options have it, each name `written` so, said by whichever names are fewer; empty where all do."""
        if not self.options:
            return ""
        few, word = (self.lacking, "not of") if len(self.lacking) < len(self.options) else (self.options, "of")
        return f" ({word} {', '.join(written.format(name) for name in few)})"


def run(argv: Sequence[str]) -> int:
    """Print what the fields mean that a path names; the exit status.

    Raises:
        UsageError: there is no such field or group.
    """
    arguments = _parser().parse_args(argv)
    if arguments.markdown:
        print(markdown(), end="")
        return 0
    if not arguments.path:
        raise usage_error("", "name a field or a group, e.g. thawline explain dataset.n_per_class")
    for path in arguments.path:
        _print(path)
    return 0


def fields() -> list[Field]:
    """Every field of every group and of the configuration itself, in the order of the settings."""
    found: list[Field] = []
    written = _yaml(conf_folder() / "config.yaml")
    comments = _comments(conf_folder() / "config.yaml")
    for name, info in _settings().items():
        if name in _WHOLE_CONFIG or name == "average":
            continue
        if options(name):
            found += _of_group(name, info, options(name))
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += _of_class(name, info.annotation, written.get(name, {}), {})
        else:
            found.append(
                Field(name, _takes(info.annotation, info.metadata), comments.get(name, ""), _shown(written.get(name)))
            )
    return found


def _settings() -> dict[str, FieldInfo]:
    """The fields of a run's configuration, and that of the command's protocol."""
    from thawline.planning.settings import RunSettings
    from thawline.protocols import Protocol

    return {**RunSettings.model_fields, "protocol": FieldInfo(annotation=Protocol)}


def markdown() -> str:
    """The page of all fields and options, for ``docs/configuration.md``."""
    lines = [
        "# Configuration",
        "",
        "Made by `thawline explain --markdown` from the classes that take these fields. `FIELD=VALUE` sets a field,",
        "`GROUP=OPTION` chooses an option; `thawline train --cfg job` shows the configuration that comes out.",
    ]
    by_group: dict[str, list[Field]] = {}
    for field in fields():
        by_group.setdefault(field.path.partition(".")[0], []).append(field)
    for group in sorted({*by_group, *_groups()}, key=lambda name: [*by_group, *_groups()].index(name)):
        lines += ["", f"## {group}", ""]
        files = options(group)
        if files:
            lines += ["| option | what it is |", "| :--- | :--- |"]
            lines += [f"| `{name}` | {_cell(_about(file))} |" for name, file in files.items()]
        own = by_group.get(group, [])
        if own:
            lines += [""] if files else []
            lines += ["| field | takes | default | meaning |", "| :--- | :--- | :--- | :--- |"]
            for field in own:
                where = field.where("`{}`")
                cells = (f"`{field.path}`", field.takes, f"`{field.default}`", f"{field.meaning}{where}")
                lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _print(path: str) -> None:
    from rich.text import Text

    group, _, option = path.partition("=")
    known = fields()
    chosen = [field for field in known if field.path == group or field.path.startswith(f"{group}.")]
    files = options(group) if group in _groups() else {}
    if (not chosen and not files) or (option and option not in files):
        raise usage_error("", f"there is no field or group {path!r}{nearest_path(path, [f.path for f in known])}")
    if option:
        info = _settings().get(group)
        chosen = list(_of_group(group, info, {option: files[option]})) if info is not None else []
    if files:
        shown = {name: file for name, file in files.items() if not option or name == option}
        width = max(map(len, shown))
        console.print(Text(f"{group}=OPTION", style="bold"))
        for name, file in shown.items():
            console.print(Text(f"  {name:<{width}}  {_about(file)}"), soft_wrap=True)
    for field in chosen:
        of = "" if option else field.where()
        console.print(
            Text.assemble((field.path, "bold"), f": {field.takes}; default {field.default}{of}"), soft_wrap=True
        )
        if field.meaning:
            console.print(Text(f"  {field.meaning}"), soft_wrap=True)


def _of_group(group: str, info: FieldInfo, files: Mapping[str, Path]) -> Iterator[Field]:
    """The fields of some options of a group; a field that several have alike occurs once, with its defaults."""
    declared = next((item for item in _inner(info.annotation) if _is_model(item)), None)
    merged: dict[tuple[str, str], list[tuple[str, Field]]] = {}
    for option, file in files.items():
        for name, node in _nodes(_yaml(file)):
            cls = _class_of(node) or declared
            if cls is not None:
                path = f"{group}.{name}" if name else group
                for field in _of_class(path, cls, node, _comments(file)):
                    merged.setdefault((field.path, field.takes), []).append((option, field))
    for (path, takes), found in merged.items():
        having = tuple(dict.fromkeys(option for option, _ in found))
        meaning = next((field.meaning for _, field in found if field.meaning), "")
        lacking = tuple(option for option in files if option not in having)
        yield Field(path, takes, meaning, _defaults(found), having if lacking else (), lacking)


def _defaults(found: Sequence[tuple[str, Field]]) -> str:
    """The default that most options have, and those of the others with their names."""
    by_value: dict[str, list[str]] = {}
    for option, field in found:
        by_value.setdefault(field.default, []).append(option)
    first, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
    return "; ".join([first, *(f"{value} ({', '.join(by_value[value])})" for value in others)])


def _of_class(path: str, cls: type[BaseModel], written: Any, comments: Mapping[str, str]) -> Iterator[Field]:
    listed, mentioned = _meanings(cls)
    given = written if isinstance(written, Mapping) else {}
    for name, info in cls.model_fields.items():
        if info.alias == "_target_":
            continue
        required = name not in given and info.is_required()
        default = None if required else given.get(name, info.get_default(call_default_factory=True))
        meaning = listed.get(name) or mentioned.get(name) or comments.get(name, "")
        shown = "must be given" if required or default == "???" else _shown(default)
        yield Field(f"{path}.{name}", _takes(info.annotation, info.metadata), meaning, shown)
    if cls.model_config.get("extra") == "allow":
        for name in [name for name in given if name not in cls.model_fields and name not in ("_target_", "defaults")]:
            takes = f"an argument of {given.get('_target_')}"
            yield Field(f"{path}.{name}", takes, comments.get(name, ""), _shown(given[name]))


def _nodes(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The nodes of an option's file: itself, or those that it names one level down."""
    named = [(str(key), item) for key, item in values.items() if isinstance(item, Mapping) and "_target_" in item]
    if "_target_" not in values and named:
        yield from named
    else:
        yield "", values


def _class_of(node: Mapping[str, Any]) -> type[BaseModel] | None:
    from thawline.specs import allowed_extra_targets, import_class

    target = str(node.get("_target_", ""))
    # A library's class has no fields of ours, and torch takes seconds.
    if not target.startswith(tuple(f"{package}." for package in ("thawline", *allowed_extra_targets()))):
        return None
    try:
        found = import_class(target)
    except ValueError:
        return None  # train says what is wrong with it, where the option is chosen
    return found if _is_model(found) else None


def _is_model(item: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(item, type) and issubclass(item, BaseModel)


def _inner(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _inner(part)


def _meanings(cls: type) -> tuple[dict[str, str], dict[str, str]]:
    """What a class and its bases say of their fields: in the ``Attributes`` of the docstring, and in its sentences."""
    listed: dict[str, str] = {}
    mentioned: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        prose, _, attributes = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:")
        sentences = re.split(r"(?<=[.;])\s+", " ".join(prose.split()))
        for name in getattr(base, "__annotations__", {}):
            said = [sentence for sentence in sentences if re.search(rf"`{re.escape(name)}`", sentence)]
            if said:
                mentioned[name] = _sentence(" ".join(said))
        for match in re.finditer(r"^    (\w+): (.*(?:\n(?:     +.*|\s*$))*)", attributes, re.MULTILINE):
            listed[match[1]] = _sentence(match[2])
    return listed, mentioned


def _sentence(text: str) -> str:
    text = " ".join(text.replace("``", "`").split())
    return text.rstrip(".;")


def _takes(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a type takes, in words, with its bounds."""
    bounds = [
        words.format(f"{value:g}" if isinstance(value, float) else value)
        for item in metadata
        for name, words in _BOUNDS.items()
        if (value := getattr(item, name, None)) is not None
    ]
    return ", ".join([_type_in_words(annotation), *bounds])


def _type_in_words(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _takes(parts[0], parts[1:])
    if origin is Literal:
        return " or ".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type_in_words(part) for part in parts)
    if origin in (tuple, list, frozenset, set):
        return f"a list of {_type_in_words(parts[0])}"
    if origin is dict:
        return "a mapping"
    return _WORDS.get(annotation, getattr(annotation, "__name__", "a value"))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _groups() -> list[str]:
    return sorted(
        path.name
        for path in conf_folder().iterdir()
        if path.is_dir() and path.name not in _NO_GROUPS and options(path.name)
    )


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise usage_error("", f"{file}: {str(error).splitlines()[0]}") from None
    return found if isinstance(found, dict) else {}


def _comments(file: Path) -> dict[str, str]:
    """The comments behind the fields of a file."""
    lines = re.findall(r"^ *(\w+):[^#\n]*#+ *(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: _sentence(text) for name, text in lines}


def _about(file: Path) -> str:
    """The first comment of a file, without the directives that Hydra reads."""
    from thawline.cli.listing import first_comment

    return first_comment(file)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline explain",
        description="What a field of the configuration takes: type, bounds, default and meaning.",
        epilog="thawline explain dataset.n_per_class      thawline explain head=mlp",
    )
    parser.add_argument("path", nargs="*", metavar="FIELD|GROUP|GROUP=OPTION", help="as on the command line of train")
    parser.add_argument("--markdown", action="store_true", help="print the page of all fields (docs/configuration.md)")
    return parser
