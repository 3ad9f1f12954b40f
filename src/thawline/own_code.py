"""The source code of the classes that a user allowed: it decides numbers as much as a configuration does."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.abc import FileLoader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from weakref import WeakKeyDictionary

from thawline.specs import ALLOWED_PREFIXES

_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class SourceFile:
    """A file of a user's code, by its path below the folder that Python found it in, and the SHA-256 of its bytes."""

    file: str
    sha256: str


_known: WeakKeyDictionary[type, dict[str, SourceFile]] = WeakKeyDictionary()
"""By class, as they were when it was first asked for: an edit does not reach code that is already imported."""


def own_code(classes: Iterable[type]) -> dict[str, SourceFile]:
    """The files of the modules that define those of `classes` that are a user's own, and of what these import.

    Imports inside functions count; libraries (installed packages, the standard library, thawline) do not, unless the
    class itself comes from such a package.

    Returns:
        Module name -> its file, sorted.
    """
    found: dict[str, SourceFile] = {}
    for one in classes:
        if one.__module__.partition(".")[0] not in ALLOWED_PREFIXES:
            if one not in _known:
                _known[one] = _files_of(one)
            found |= _known[one]
    return dict(sorted(found.items()))


def _files_of(found: type) -> dict[str, SourceFile]:
    files: dict[str, SourceFile] = {}
    package = found.__module__.partition(".")[0]
    waiting, seen = [found.__module__], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [parent for parent in [name.rpartition(".")[0]] if parent]
        module = _located(name)
        if module is None or not isinstance(module.loader, FileLoader) or not _is_own(module, package):
            continue
        content = module.loader.get_data(str(module.origin))
        files[name] = SourceFile(_path_below(module), hashlib.sha256(content).hexdigest())
        waiting += _imports(content, module)
    return files


def _located(name: str) -> ModuleSpec | None:
    """Where a module lies. One that is not imported yet is looked for without running its package."""
    if name in sys.modules:
        return sys.modules[name].__spec__
    path, parts = None, name.split(".")
    for depth in range(1, len(parts) + 1):
        module = PathFinder.find_spec(".".join(parts[:depth]), path)
        if module is None:
            return None
        path = module.submodule_search_locations
    return module


def _path_below(module: ModuleSpec) -> str:
    parts = module.name.count(".") + (2 if module.submodule_search_locations is not None else 1)
    return Path(*Path(str(module.origin)).parts[-parts:]).as_posix()


def _is_own(module: ModuleSpec, package: str) -> bool:
    top = module.name.partition(".")[0]
    if top == package:
        return True
    library = top in ALLOWED_PREFIXES or top in sys.stdlib_module_names
    return not library and _INSTALLED.isdisjoint(Path(str(module.origin)).parts)


def _imports(content: bytes, module: ModuleSpec) -> Iterator[str]:
    """The names of modules that a file may import: of ``from a import b``, both ``a`` and ``a.b``."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # a compiled module
        return
    here = (module.name if module.submodule_search_locations is not None else module.parent or "").split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
