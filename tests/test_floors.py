"""The house stands on floors: imports point down only, and each package on floors 1 to 5 keeps to itself."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import thawline

SOURCE = Path(thawline.__file__).parent
FLOORS = (
    (
        "config_paths",
        "dotted",
        "errors",
        "files",
        "invocation",
        "layer_groups",
        "network",
        "own_code",
        "preprocessing",
        "randomness",
        "records",
        "runtime",
        "specs",
        "tensor_files",
    ),
    (
        "adapters",
        "backbones",
        "datasets",
        "evaluation",
        "freeze_policies",
        "heads",
        "optimization",
        "regularizers",
        "statistics",
        "transforms",
    ),
    ("store",),
    ("reports", "tasks", "thaw_line", "trackers"),
    ("planning", "training"),
    ("ledger",),
    ("execution",),
    ("exports", "sweeps"),
    ("protocols",),
    ("commands",),
    ("api", "cli"),
    ("__main__",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def imports_of(file: Path) -> set[str]:
    """The names directly below ``thawline`` that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "thawline":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("thawline.")}
    return found - {"__version__"}


def test_every_module_has_a_floor():
    names = {path.stem for path in SOURCE.glob("*.py")} | {
        path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()
    }
    assert names - {"__init__"} == set(FLOOR_OF)


def test_imports_point_down_only():
    wrong = []
    for file in sorted(SOURCE.rglob("*.py")):
        own = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        for name in imports_of(file) - {own}:
            if own == "__init__":
                # Which is imported at its first use.
                wrong += [] if name == "api" else [f"thawline/__init__.py imports {name}"]
            elif FLOOR_OF[name] > FLOOR_OF[own] or (FLOOR_OF[name] == FLOOR_OF[own] and FLOOR_OF[own] > 0):
                wrong.append(
                    f"{file.relative_to(SOURCE)} (floor {FLOOR_OF[own]}) imports {name} (floor {FLOOR_OF[name]})"
                )
    assert wrong == []


def test_reports_never_import_torch():
    for file in (SOURCE / "reports").rglob("*.py"):
        tree = ast.parse(file.read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {name for name in modules if name and name.split(".")[0] == "torch"}, file


def test_no_modules_import_one_another_in_a_circle():
    """Imports inside functions and for type checkers alone count too."""
    modules = {}
    for file in SOURCE.rglob("*.py"):
        parts = ("thawline", *file.relative_to(SOURCE).with_suffix("").parts)
        modules[".".join(parts).removesuffix(".__init__")] = file
    imports = {}
    for name, file in modules.items():
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        found = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        found = {item if item in modules else item.rpartition(".")[0] for item in found}
        imports[name] = (found & modules.keys()) - {name}
    # Raises CycleError, with the circle.
    assert len(list(graphlib.TopologicalSorter(imports).static_order())) == len(modules)
