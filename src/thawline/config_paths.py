"""Where configuration comes from: the shipped groups and, before them, a folder of the user's own."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_own: list[Path] = []


def shipped_root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``: beside the package when installed, else the checkout."""
    return _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent.parent


def conf_folder() -> Path:
    """The folder of the shipped config groups."""
    return shipped_root() / "conf"


def use_own_folder(folder: Path | None) -> None:
    """Let the options in `folder` come before the shipped ones (``--config-dir``); None: there is no such folder."""
    _own[:] = [] if folder is None else [folder]


def own_folder() -> Path | None:
    """The user's own folder of config groups, as the command line names it."""
    return _own[0] if _own else None


def conf_folders() -> tuple[Path, ...]:
    """The folders of config groups; the first that has an option wins."""
    return (*_own, conf_folder())


def options(group: str) -> dict[str, Path]:
    """The options of a config group, each from the folder that wins: name -> yaml file, sorted by name."""
    found: dict[str, Path] = {}
    for root in reversed(conf_folders()):
        folder = root / group
        found |= {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(found.items()))


def overridden() -> dict[str, Path]:
    """The shipped files that the user's own folder replaces: ``GROUP/OPTION`` -> the user's file."""
    own = own_folder()
    found = sorted(own.rglob("*.yaml")) if own is not None else []
    shipped = (conf_folder(), shipped_root())
    names = ((path.relative_to(own), path) for path in found) if own is not None else ()
    return {
        name.with_suffix("").as_posix(): path
        for name, path in names
        if any((root / name).is_file() and (root / name).resolve() != path.resolve() for root in shipped)
    }
