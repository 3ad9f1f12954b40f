"""Typed configuration: a spec is a validated config node that knows how to build what it describes.

A YAML node names its class by ``_target_``; Hydra's config groups are thus the registry. `resolve` turns a tree of
plain containers into specs and reports *every* wrong field at once, before anything heavy is imported or built.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thawline.errors import Problem, UsageError, nearest

ALLOWED_PREFIXES = ("thawline", "torch", "torchvision", "timm", "torchmetrics", "pytorch_lightning", "lightning")
UNSET = "???"
"""What a yaml has in the place of a value that must be given."""
_TEXT_ERRORS = ("string_type", "path_type")
_KIND = re.compile(r"(list|dict|tuple|literal)\[.*\]$|(constrained-)?(str|int|float|bool)$")
_REFUSED = ("torch.load", "torch.hub", "torch.jit", "torch.package", "torch.utils.cpp_extension")
MOVED_MODULES: dict[str, str] = {
    "thawline.learning_rates": "thawline.optimization.learning_rates",
    "thawline.optimizers": "thawline.optimization.optimizers",
    "thawline.probes": "thawline.optimization.probes",
    "thawline.runs.loggers": "thawline.trackers",
    "thawline.runs.shift": "thawline.planning.shift",
    "thawline.schedulers": "thawline.optimization.schedulers",
}
"""Modules that had another name before: old -> new. Configurations of earlier records name classes by the old one."""
_extra_prefixes: list[str] = []
_libraries_wait: ContextVar[bool] = ContextVar("_libraries_wait", default=False)


def allow_targets(prefixes: Sequence[str]) -> None:
    """Let ``_target_`` resolve under more packages. Only the command line calls this, never a config file.

    They may lie in the folder that one stands in, which an installed program does not look into by itself. It comes
    last, so that nothing there stands in for a library.
    """
    here = str(Path.cwd())
    if prefixes and here not in sys.path:
        sys.path.append(here)
    _extra_prefixes[:] = list(dict.fromkeys([*_extra_prefixes, *prefixes]))


def allowed_extra_targets() -> tuple[str, ...]:
    """The packages that the command line allowed beside the built-in ones."""
    return tuple(_extra_prefixes)


def only_allowing(prefixes: Sequence[str]) -> None:
    """Let ``_target_`` resolve under these packages beside the built-in ones, and under no others any more."""
    _extra_prefixes[:] = list(prefixes)


class Spec(BaseModel):
    """Base of every config node of ours: immutable, and a field that it does not know is an error.

    `TASKS` names the tasks that a part has a meaning for; None: every one. `NEUTRAL` names the fields that cannot
    change a run's numbers (paths, devices, progress bars): they are left out of the run's identity. `ADDED` names those
    that came later: they are left out where they have their default, so that the runs of before keep theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=True)
    NEUTRAL: ClassVar[frozenset[str]] = frozenset()
    ADDED: ClassVar[frozenset[str]] = frozenset()
    TASKS: ClassVar[frozenset[str] | None] = None

    @property
    def reads_vector(self) -> bool:
        """Whether it reads the one feature vector of an image, which a task of feature maps does not have."""
        return False

    def deciding(self) -> dict[str, Any]:
        """What of this node decides a run's numbers, as plain values; ``_target_`` is a `stable_name`."""
        values: dict[str, Any] = {"_target_": stable_name(type(self))}
        fields = type(self).model_fields
        unset = {name for name in self.ADDED if getattr(self, name) == fields[name].default}
        for name in fields.keys() - self.NEUTRAL - unset:
            values[name] = _plain(getattr(self, name))
        values.update({name: _plain(value) for name, value in (self.model_extra or {}).items()})
        return values

    def __repr_name__(self) -> str:
        # What runs of a process share is kept by this: two classes of one's own may have one name.
        return stable_name(type(self)).removeprefix("thawline:")


class Component(Spec):
    """A class of an allowed library with keyword arguments, checked against its signature: ``_target_`` + arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)
    target: str = Field(alias="_target_")

    @model_validator(mode="after")
    def _known_arguments(self) -> Component:
        if not waits(self.target):
            check_arguments(self.target, self.arguments)
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that the config gives."""
        return dict(self.model_extra or {})

    def deciding(self) -> dict[str, Any]:
        """What of this node decides a run's numbers."""
        return {**super().deciding(), "target": _stable_target(self.target)}

    def build(self, *positional: Any, **keywords: Any) -> Any:
        """An instance of the target class."""
        return import_class(self.target)(*positional, **{**self.arguments, **keywords})


def stable_name(found: type) -> str:
    """What a class is called in a run's identity.

    Thawline's own go by their name alone, so that a class that moves to another module keeps the identity of its runs.
    """
    if found.__module__.partition(".")[0] == "thawline":
        return f"thawline:{found.__qualname__}"
    return f"{found.__module__}.{found.__qualname__}"


def classes_in(value: Any) -> Iterator[type]:
    """The classes of all specs and targets below `value`, without those of `NEUTRAL` fields."""
    if isinstance(value, Component):
        yield import_class(value.target)
    if isinstance(value, Spec):
        yield type(value)
        names = type(value).model_fields.keys() - value.NEUTRAL
        yield from classes_in([*(getattr(value, name) for name in names), *(value.model_extra or {}).values()])
    elif isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield import_class(value["_target_"])
        yield from classes_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from classes_in(item)


@contextlib.contextmanager
def without_libraries() -> Iterator[None]:
    """Within the block, classes of libraries that are not imported yet are not checked: torch takes seconds."""
    waiting = _libraries_wait.set(True)
    try:
        yield
    finally:
        _libraries_wait.reset(waiting)


def waits(target: str) -> bool:
    """Whether the checks of this class of a library are for later (`without_libraries`)."""
    package = target.partition(".")[0]
    return _libraries_wait.get() and package in ALLOWED_PREFIXES and package not in sys.modules


def import_class(target: str) -> type:
    """The class that a ``_target_`` names.

    Raises:
        ValueError: it lies outside the allowed packages, does not exist, or is not a class.
    """
    _check_allowed(target)
    module_name, _, name = current_target(target).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} ({error})") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [other for other, value in vars(module).items() if isinstance(value, type)]
        raise ValueError(f"{module_name} has no class {name!r}{nearest(name, classes)}")
    return found


def current_target(target: str) -> str:
    """The ``_target_`` under the name that its module has now."""
    module, _, name = target.rpartition(".")
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target


def _stable_target(target: str) -> str:
    """A library's class is called as the configuration calls it: where it is defined is the library's business."""
    package = target.partition(".")[0]
    is_library = package in ALLOWED_PREFIXES and package != "thawline"
    return target if is_library else stable_name(import_class(target))


def _check_allowed(target: str) -> None:
    prefixes = (*ALLOWED_PREFIXES, *_extra_prefixes)
    if not any(target == prefix or target.startswith(prefix + ".") for prefix in prefixes):
        package = target.split(".")[0]
        raise ValueError(
            f"{target!r} lies outside the allowed packages ({', '.join(prefixes)}); "
            f"allow it on the command line with --allow {package}"
        )
    if any(target == refused or target.startswith(refused + ".") for refused in _REFUSED):
        raise ValueError(f"{target!r} is refused: it can run code from a file")


def check_arguments(target: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError where the class `target` takes no argument of such a name."""
    parameters = inspect.signature(import_class(target)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            raise ValueError(f"{target} takes no argument {name!r}{nearest(name, parameters)}")


def resolve(node: Any, path: str = "") -> Any:
    """Replace every mapping whose ``_target_`` is a `Spec` by a validated instance, depth first.

    Mappings whose target is a class of another library stay as they are, for the field that holds them to type.

    Raises:
        UsageError: with one problem per wrong field, over the whole tree.
    """
    problems: list[Problem] = []
    resolved = _resolve(node, path, problems)
    if problems:
        raise UsageError(problems)
    return resolved


def validate(model: type[Spec], values: Mapping[str, Any], path: str = "") -> Any:
    """An instance of `model`, or a `UsageError` that names every wrong field below `path`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(_problems(error, model, path)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.deciding()
    if isinstance(value, Mapping):
        plain = {str(key): _plain(item) for key, item in value.items()}
        if isinstance(plain.get("_target_"), str):
            plain["_target_"] = _stable_target(plain["_target_"])
        return plain
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _resolve(node: Any, path: str, problems: list[Problem]) -> Any:
    if isinstance(node, (list, tuple)):
        return [_resolve(item, f"{path}[{index}]", problems) for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    before = len(problems)
    values = {key: _resolve(item, f"{path}.{key}" if path else str(key), problems) for key, item in node.items()}
    target = values.get("_target_")
    if not isinstance(target, str):
        return values
    try:
        _check_allowed(target)
        if waits(target):
            return values
        found = import_class(target)
    except ValueError as error:
        problems.append(Problem(f"{path}._target_", str(error)))
        return values
    if not issubclass(found, Spec) or len(problems) > before:
        return values
    given = {key: item for key, item in values.items() if key != "_target_"}
    try:
        made = validate(found, given, path)
    except UsageError as error:
        problems.extend(error.problems)
        made = values
    # What a yaml leaves to be given would do for a text or a path.
    named = {problem.field for problem in problems[before:]}
    unset = [f"{path}.{key}" for key, item in given.items() if isinstance(item, str) and item == UNSET]
    problems += [Problem(field, "must be given") for field in unset if field not in named]
    return values if len(problems) > before else made


def _problems(error: ValidationError, model: type[BaseModel], path: str) -> list[Problem]:
    problems = []
    for item in _of_fields(error.errors()):
        field = ".".join([*([path] if path else []), *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            message = f"unknown field{nearest(str(item['loc'][-1]), _fields_at(model, item['loc'][:-1]))}"
        else:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            if item["type"] not in ("missing", "value_error") or not isinstance(item["input"], Mapping):
                message += f" (got {_short(item['input'])})"
            if isinstance(item["input"], str) and item["input"] == UNSET and item["type"] != "value_error":
                message = "must be given"
            if item["type"] == "is_instance_of":
                message += _lacking(model, item["loc"], item["input"])
            if item["type"] == "literal_error":
                message += nearest(str(item["input"]), re.findall(r"'([^']+)'", item["ctx"]["expected"]))
        wants_text = item["type"] in _TEXT_ERRORS and isinstance(item["input"], (bool, int, float))
        if wants_text:
            message = f"{_short(item['input'])} is not text; with quotes around it, it is"
        problems.append(Problem(field, message, wants_text))
    return problems


def _of_fields(errors: Sequence[Any]) -> list[Any]:
    """Pydantic's errors with one for each value: it has one for each kind that a field takes, named after the kind."""
    found: dict[Any, Any] = {}
    of_a_kind = set()
    for item in errors:
        place = tuple(part for part in item["loc"] if not _KIND.match(str(part)))
        other = found.get(place)
        if place != item["loc"]:
            of_a_kind.add(place)
        message = item["msg"] if other is None else f"{other['msg']}, or {item['msg'].removeprefix('Input should be ')}"
        found[place] = {**item, **(other or {}), "loc": place, "msg": message}
    # Of a value whose kind is right something within it is wrong; that it is of no other kind says nothing.
    return [
        item
        for place, item in found.items()
        if place not in of_a_kind
        or not any(len(other) > len(place) and other[: len(place)] == place for other in found)
    ]


def _lacking(model: type[BaseModel], location: Sequence[Any], value: Any) -> str:
    """Which members of the field's protocol an object of an own class has not."""
    field = model.model_fields.get(str(location[0])) if location else None
    parts = (field.annotation, *get_args(field.annotation)) if field is not None else ()
    names = [
        name
        for part in parts
        if getattr(part, "_is_protocol", False)
        for name in (*part.__annotations__, *vars(part))
        if not name.startswith("_") and not hasattr(value, name)
    ]
    return f"; it lacks {', '.join(dict.fromkeys(names))}" if names and isinstance(value, Spec) else ""


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
