"""What of a command's grid a protocol compares: its cells, each with its plan and with what of it may be tuned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf

from thawline.commands.composing import Composer, Grid, Point, changed, key_of
from thawline.commands.diagnosis import checked
from thawline.dotted import dotted
from thawline.errors import Problem, UsageError, nearest_path, usage_error
from thawline.freeze_policies import LastK
from thawline.protocols import Candidate, Protocol
from thawline.protocols.space import Dimension, dimension, tuned_fields
from thawline.specs import resolve
from thawline.sweeps.cells import for_each

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from thawline.planning.plan import Plan
    from thawline.planning.session import Session

_ITS_OWN = {
    "seed": "a protocol gives its runs their seeds; protocol.seed changes them all",
    "open_test": "a protocol opens the test split in its last stage and in no other",
    "train_on": "a protocol says what the runs of its stages train on",
    "sweep.stage": "a protocol sets it",
}
_SPACE = "protocol.space."


class Compared(NamedTuple):
    """What a protocol compares.

    Attributes:
        protocol: the command's.
        candidates: the cells of its grid.
        plans: of a run of each, whose test split stays closed.
        axes: the swept keys with their values.
        session: what all plans share.
    """

    protocol: Protocol
    candidates: Sequence[Candidate]
    plans: Sequence[Plan]
    axes: Mapping[str, list[str]]
    session: Session


def compared(composer: Composer, arguments: Sequence[str], new_session: Callable[[int], Session]) -> Compared:
    """The candidates of a command, right as far as that can be known before anything runs.

    Args:
        composer: composes their configurations.
        arguments: the overrides of the command and of the experiment.
        new_session: a session for about so many runs.

    Raises:
        UsageError: the protocol or a candidate cannot be used.
    """
    grid = Grid(composer, arguments)
    _refuse(arguments, grid)
    bases = for_each(((cell.label, cell) for cell in grid), len(grid), functools.partial(_base, composer))
    protocol = bases[0].protocol
    session = new_session(len(bases) * max(1, protocol.budget))
    plans = for_each(((base.label, base) for base in bases), len(bases), lambda base: _planned(base, session))
    numbered = ((base.label, (index, base, plan)) for index, (base, plan) in enumerate(zip(bases, plans, strict=True)))
    axes = {key: values for key, values in grid.axes.items() if not _of_protocol(key)}
    candidates = for_each(numbered, len(bases), lambda item: _candidate(*item, axes))
    return Compared(protocol, candidates, plans, axes, session)


@dataclass(frozen=True)
class _Base:
    """A cell of the command's grid.

    Attributes:
        overrides: without those of the protocol.
        label: what of them is swept.
        strategy: the option of ``strategy``, or else of ``freeze_policy``.
        values: the configuration of a run, which keeps the test split closed.
        protocol: with the space of this cell.
        tuned: the fields that the command itself puts into the space.
    """

    overrides: tuple[str, ...]
    label: str
    strategy: str
    values: Mapping[str, Any]
    protocol: Protocol
    tuned: frozenset[str]


def _base(composer: Composer, cell: Point) -> _Base:
    """The cell with its values and its protocol, right as far as that can be known without torch."""
    protocol = _protocol(cell.config)
    given = _given(protocol, cell.overrides)
    config = changed(composer, cell.overrides, given, ()).config if given else cell.config
    own = (*(line for line in cell.overrides if not _of_protocol(key_of(line))), *given)
    if not any(key_of(line).lstrip("+") == "protocol" for line in cell.overrides):
        own = (*own, "protocol=none")  # an experiment has chosen it, and would for the command of each run
    spaces = (key_of(line).lstrip("+") for line in cell.overrides)
    tuned = frozenset(key.removeprefix(_SPACE) for key in spaces if key.startswith(_SPACE))
    choices = config.hydra.runtime.choices
    chosen = {key_of(line): line.partition("=")[2] for line in own}
    strategy = next(
        str(value)
        for group in ("strategy", "freeze_policy")
        if (value := chosen.get(group, choices.get(group))) not in (None, "null")
    )
    values = {**checked(config, own), "open_test": False}
    label = cell.label if cell.label != " ".join(cell.overrides) else strategy
    return _Base(own, label, strategy, values, protocol, tuned)


def _given(protocol: Protocol, overrides: Sequence[str]) -> list[str]:
    """The overrides that all runs of a protocol have.

    Raises:
        UsageError: the command sets such a field itself.
    """
    keys = {key_of(line).lstrip("+") for line in overrides}
    names = {key: f"protocol.{key.rpartition('.')[2]}" for key in protocol.given}
    problems = [Problem(key, f"{name} gives it to all runs") for key, name in names.items() if key in keys]
    if problems:
        raise UsageError(problems)
    return [f"{key}={value}" for key, value in protocol.given.items()]


def _protocol(config: DictConfig) -> Protocol:
    node = OmegaConf.to_container(config.protocol, resolve=True)
    found = resolve(node, "protocol")
    if not isinstance(found, Protocol):
        raise usage_error("protocol", f"{config.protocol._target_} is no protocol")
    return found


def _planned(base: _Base, session: Session) -> Plan:
    from thawline.planning.plan import plan_run

    return plan_run(base.values, base.overrides, session, base.label)


def _candidate(index: int, base: _Base, plan: Plan, axes: Collection[str]) -> Candidate:
    """What of the grid is compared, with its space: what the command itself sets is not tuned."""
    given = {key_of(line).lstrip("+") for line in base.overrides}
    groups = len(plan.network.groups)
    entries = {field: entry for field, entry in tuned_fields(base.protocol.space) if field not in given}
    problems = [Problem(f"{_SPACE}{field}", "the command sets this field, too") for field in sorted(base.tuned & given)]
    space: dict[str, Dimension] = {}
    for field, entry in entries.items():
        try:
            space[field] = dimension(field, entry, _configured(base.values, field), groups)
        except UsageError as error:
            problems += error.problems
    if not problems and base.protocol.budget and not space:
        problems.append(Problem("protocol.space", "no field is left that could be tuned"))
    if problems:
        raise UsageError(problems)
    chosen = {key_of(line): line.partition("=")[2] for line in base.overrides}
    place = {key: chosen[key] for key in axes}
    policy = plan.settings.freeze_policy
    depth = policy.count(plan.network) if isinstance(policy, LastK) else None
    return Candidate(index, base.label, base.strategy, base.overrides, place, space, depth)


def _configured(values: Mapping[str, Any], field: str) -> Any:
    """The value of a field of a configuration.

    Raises:
        UsageError: it has no such field.
    """
    known = dict(dotted(values))
    if field not in known:
        raise usage_error(f"{_SPACE}{field}", f"there is no field {field!r}{nearest_path(field, known)}")
    return known[field]


def _refuse(arguments: Sequence[str], grid: Grid) -> None:
    """Refuse fields that are the protocol's to set, and a sweep over its own.

    Raises:
        UsageError: with a problem for each.
    """
    keys = dict.fromkeys(key_of(line).lstrip("+~") for line in arguments)
    problems = [Problem(key, _ITS_OWN[key]) for key in keys if key in _ITS_OWN]
    swept = [key.lstrip("+~") for key in grid.axes]
    problems += [Problem(key, "is the same for all that is compared") for key in swept if _of_protocol(key)]
    problems += [Problem(key, _ITS_OWN["seed"]) for key in swept if key == "data_seed"]
    if problems:
        raise UsageError(problems)


def _of_protocol(key: str) -> bool:
    return key.lstrip("+~").partition(".")[0] == "protocol"
