"""Several sweeps as one study: a cell stands where its settings differ from those of the other cells.

What the sweeps vary stays an axis; a setting in which they differ from one another becomes one. Where they differ in
something that no command line says (an experiment's file, a version of the data), the sweep itself is an axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath

from thawline.config_paths import options
from thawline.records.names import PROTOCOL_FILE
from thawline.reports.axes import ROOT, SWEEP, is_replicate
from thawline.reports.loading import Cell, LoadedSweep, load_sweep, natural

_DATA_SET = "dataset"
# What decides no number: where files go, how fast they come, and files of settings, whose contents count instead.
_BESIDES = ("sweep", "output_dir", "logger", "cache", "hydra", "experiments")
_HOW_RUN = ("accelerator", "devices", "progress", "workers", "threads", "checkpoint_seconds", "eval_batch_size")


def load_sweeps(folders: Sequence[Path]) -> LoadedSweep:
    """The sweep in the one folder, or those in several as one (see `join`).

    Raises:
        UsageError: a folder holds no sweep, or a damaged one.
    """
    sweeps = [load_sweep(folder) for folder in dict.fromkeys(folders)]
    return _by_short_names(sweeps[0]) if len(sweeps) == 1 else join(sweeps)


def join(sweeps: Sequence[LoadedSweep]) -> LoadedSweep:
    """The cells of all sweeps on the axes in which they differ; a run that several sweeps have is there once."""
    names = _names(sweeps)
    cells: dict[str, tuple[Cell, str]] = {}
    for sweep, name in zip(sweeps, names, strict=True):
        for cell in sweep.cells:
            known = cells.get(cell.identity)
            if known is None or (known[0].run is None and cell.run is not None):
                cells[cell.identity] = cell, name
    members = [cell for cell, _ in cells.values()]
    swept = dict.fromkeys(axis for sweep in sweeps for axis in sweep.axes)
    placing = _Placing(members, tuple(swept))
    places = _by_folder_names(members, [placing.place(cell) for cell in members])
    if _differ_unseen(members, places):
        places = [{SWEEP: name, **place} for place, (_, name) in zip(places, cells.values(), strict=True)]
    values = {key: list(dict.fromkeys(place[key] for place in places)) for key in (places[0] if places else {})}
    axes = {
        key: tuple(sorted(found, key=natural) if _are_numbers(found) else found)
        for key, found in values.items()
        if len(found) > 1 or key in swept
    }
    placed = tuple(
        replace(cell, values={axis: place[axis] for axis in axes}) for cell, place in zip(members, places, strict=True)
    )
    return LoadedSweep(
        names=tuple(names),
        commands=tuple(command for sweep in sweeps for command in sweep.commands),
        folder=sweeps[0].folder.parent,
        axes=axes,
        cells=placed,
        runs=tuple(cell.run for cell in placed if cell.run is not None),
    )


@dataclass(frozen=True)
class _Placing:
    """Finds the value of each cell for every key that any cell names."""

    cells: Sequence[Cell]
    swept: tuple[str, ...]

    def place(self, cell: Cell) -> dict[str, str]:
        """The cell's values: as its command says, or else as its run had them."""
        return {key: self._value(cell, key) for key in self._keys}

    @cached_property
    def _keys(self) -> list[str]:
        named = dict.fromkeys((*self.swept, *(key for cell in self.cells for key in cell.overrides)))
        return [key for key in named if key in self.swept or _decides(key)]

    @cached_property
    def _divided(self) -> set[str]:
        """The config groups whose options differ: what stands below one belongs to its option alone."""
        groups = [key for key in self._keys if "." not in key]
        return {group for group in groups if len({self._option(cell, group) for cell in self.cells}) > 1}

    @cached_property
    def _options(self) -> dict[tuple[str, ...], str]:
        """How the settings of a group are called where that is clear: the group and its settings -> option."""
        found: dict[tuple[str, ...], set[str]] = {}
        for cell in self.cells:
            for group, option in cell.overrides.items():
                if "." not in group and (below := self._below(cell, group)):
                    found.setdefault((group, *below), set()).add(_canonical(option))
        return {settings: options.pop() for settings, options in found.items() if len(options) == 1}

    def _option(self, cell: Cell, group: str) -> str:
        said = cell.overrides.get(group)
        if said is not None:
            return _canonical(said)
        if cell.run is not None and group in cell.run.settings:
            return _canonical(cell.run.settings[group])
        return self._options.get((group, *self._below(cell, group)), "")

    def _below(self, cell: Cell, group: str) -> tuple[str, ...]:
        """The settings of a config group but for those that are swept, of a data set with the data themselves."""
        if cell.run is None:
            return ()
        settings = cell.run.settings
        found = [f"{k}={v}" for k, v in settings.items() if k.startswith(f"{group}.") and k not in self.swept]
        return (*found, settings.get("data", "")) if found and group == "dataset" else tuple(found)

    def _value(self, cell: Cell, key: str) -> str:
        group, dot, _ = key.partition(".")
        if not dot:
            return self._option(cell, key)
        said = cell.overrides.get(key)
        if said is None and cell.run is not None and group not in self._divided:
            said = cell.run.settings.get(key)
        return _canonical(said or "")


def _by_folder_names(cells: Sequence[Cell], places: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The places, with each data set that is a folder of the user's own called by the folder's name alone.

    Folders that are called alike have as much of their paths before it as tells them apart; paths that lead to the
    same images are one.
    """
    own = _options_of_own_folders()
    data: dict[str, str] = {}
    for cell, place in zip(cells, places, strict=True):
        if place.get(ROOT) and (place.get(_DATA_SET) or _class_of_data(cell)) in own:
            data[place[ROOT]] = data.get(place[ROOT]) or (cell.run.settings.get("data", "") if cell.run else "")
    first = {content: root for root, content in reversed(data.items()) if content}
    roots = {root: first.get(content, root) for root, content in data.items()}
    others = {(place.get(_DATA_SET, ""),) for place in places if place.get(ROOT) not in roots}
    paths = {root: PurePath(root).parts for root in dict.fromkeys(roots.values())}
    names = {
        root: _apart(parts, [*others, *(rest for other, rest in paths.items() if other != root)])
        for root, parts in paths.items()
    }
    if names:
        places = [{**place, _DATA_SET: place.get(_DATA_SET, "")} for place in places]
    found = [
        {**place, _DATA_SET: names[roots[place[ROOT]]], ROOT: ""} if place.get(ROOT) in roots else place
        for place in places
    ]
    if any(place.get(ROOT) for place in found):
        return found
    return [{key: value for key, value in place.items() if key != ROOT} for place in found]


def _by_short_names(sweep: LoadedSweep) -> LoadedSweep:
    """The sweep, with each data set that is a folder of the user's own called as in a report of several sweeps.

    In a protocol they keep their paths, by which its manifest knows them.
    """
    if ROOT not in sweep.axes or (sweep.folder / PROTOCOL_FILE).is_file():
        return sweep
    places = [{_DATA_SET: cell.overrides.get(_DATA_SET, ""), **cell.values} for cell in sweep.cells]
    named = zip(sweep.cells, _by_folder_names(sweep.cells, places), strict=True)
    names = {cell.values[ROOT]: place[_DATA_SET] for cell, place in named if not place.get(ROOT)}
    if len({*names.values()}) < len(names):
        return sweep
    cells = [
        replace(cell, values={**cell.values, ROOT: names.get(cell.values[ROOT], cell.values[ROOT])})
        for cell in sweep.cells
    ]
    roots = tuple(names.get(root, root) for root in sweep.axes[ROOT])
    return replace(sweep, axes={**sweep.axes, ROOT: roots}, cells=tuple(cells))


def _class_of_data(cell: Cell) -> str:
    """The Python type of the cell's data set; empty where there is no run to tell."""
    return cell.run.settings.get(f"{_DATA_SET}._target_", "").rpartition(".")[2] if cell.run is not None else ""


def _apart(parts: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """The shortest end of a path that is the end of none of the others."""
    for length in range(1, len(parts)):
        if all(tuple(other[-length:]) != tuple(parts[-length:]) for other in others):
            return "/".join(parts[-length:])
    return str(PurePath(*parts))


def _options_of_own_folders() -> frozenset[str]:
    """Data sets that are a user's own folder, known by its name alone: the options, and their Python types."""
    import yaml

    nodes = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in options(_DATA_SET).items()}
    own = {name: node["_target_"].rpartition(".")[2] for name, node in nodes.items() if node.get("root") == "???"}
    return frozenset({*own, *own.values()})


def _names(sweeps: Sequence[LoadedSweep]) -> list[str]:
    """A name for each sweep; those that are called alike go by their folders."""
    names = [sweep.name for sweep in sweeps]
    return [sweep.name if names.count(sweep.name) == 1 else str(sweep.folder) for sweep in sweeps]


def _decides(key: str) -> bool:
    first, _, rest = key.partition(".")
    return first.partition("/")[0] not in _BESIDES and not (first == "trainer" and rest in _HOW_RUN)


def _differ_unseen(cells: Sequence[Cell], places: Sequence[Mapping[str, str]]) -> bool:
    """Whether runs that stand at one place, but for their seeds, have different settings."""
    known: dict[tuple[str, ...], frozenset[tuple[str, str]]] = {}
    for cell, place in zip(cells, places, strict=True):
        if cell.run is not None:
            where = tuple(value for key, value in place.items() if not is_replicate(key))
            settings = frozenset(item for item in cell.run.settings.items() if not is_replicate(item[0]))
            if known.setdefault(where, settings) != settings:
                return True
    return False


def _are_numbers(values: Iterable[str]) -> bool:
    return all(natural(value)[0] == 0 for value in values)


def _canonical(text: str) -> str:
    """One text for one value: ``1e-3`` and 0.001 are the same."""
    try:
        number = float(text)
    except ValueError:
        return {"True": "true", "False": "false", "null": "", "None": ""}.get(text, text)
    return text if text.lstrip("+-").isdigit() else f"{number:.12g}"
