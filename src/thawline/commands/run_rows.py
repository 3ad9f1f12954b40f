"""Known runs as rows: of a table for the terminal, and of files for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thawline.errors import nearest, usage_error
from thawline.reports.document import DASH, Line, Table, columns, digits_of, number, seconds
from thawline.reports.escaping import plain
from thawline.reports.loading import natural
from thawline.reports.tables import LONGEST_NAME
from thawline.sweeps.catalogue import KnownRun

FIELDS = ("identity", "sweep", "state", "metric", "val", "test", "seconds", "trainable", "date")
"""What is known of a run beside its settings; conditions and the order take these names too."""
_SPLITS = ("val", "test")
_SHORTEST_IDENTITY = 8
# Overrides that decide no number: where a run's files go, and who is told of it.
_BESIDES = ("sweep", "output_dir", "logger", "hydra")
# What runs are compared by: where not every setting has room, these have it first.
_COMPARED_BY = ("strategy", "freeze_policy", "freeze_policy.k", "freeze_policy.depth", "seed", "dataset", "backbone")


def values_of(run: KnownRun, metric: str | None) -> dict[str, Any]:
    """The run's settings and its `FIELDS`, with `metric` or the record's own headline."""
    name = metric or (run.record.headline if run.record is not None else None)
    cost = run.record.cost.total_seconds if run.record is not None else None
    trainable = run.record.parameters.trainable if run.record is not None else None
    scores = (run.value(split, name) if name is not None else None for split in _SPLITS)
    fields = (run.identity, run.sweeps, run.state, name, *scores, cost, trainable, run.date)
    return run.settings | dict(zip(FIELDS, fields, strict=True))


def require_metric(runs: Iterable[KnownRun], metric: str | None) -> None:
    """Check that some run has `metric`.

    Raises:
        UsageError: none has; the message has the nearest names.
    """
    known = {name: None for run in runs if run.record is not None for name in run.record.metric_definitions}
    if metric is not None and metric not in known:
        raise usage_error("--metric", f"no run has a metric {metric!r}{nearest(metric, known)}")


def sort_key(run: KnownRun, key: str, metric: str | None) -> tuple[bool, tuple[int, float, str]]:
    """Sorts runs by `key`: the best metric first, the latest date first, else the smallest; those without it last."""
    values = values_of(run, metric)
    value = values.get(key)
    if value is None or value in ("", ()):
        return True, (0, 0.0, "")
    if key in _SPLITS and run.record is not None:
        definition = run.record.metric_definitions[values["metric"]]
        return False, (0, -value if definition.direction == "max" else value, "")
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return False, natural(text)


def in_order(runs: Iterable[KnownRun], key: str, metric: str | None) -> list[KnownRun]:
    """The runs sorted by `sort_key`; dates from the latest on."""
    ordered = sorted(runs, key=lambda run: sort_key(run, key, metric))
    if key != "date":
        return ordered
    dated = [run for run in ordered if run.date]
    return [*reversed(dated), *ordered[len(dated) :]]


def asked_for(runs: Iterable[KnownRun]) -> list[str]:
    """The keys that any of the runs has on its command line, but for those that decide no number."""
    keys = {key: None for run in runs for key in run.overrides}
    return [key for key in keys if key.partition("/")[0].partition(".")[0] not in _BESIDES]


def varying(runs: Sequence[KnownRun]) -> list[str]:
    """Of `asked_for` the keys whose values differ among the runs that have them."""
    return [
        key for key in asked_for(runs) if len({_text(run.settings[key]) for run in runs if key in run.settings}) > 1
    ]


def file_rows(runs: Sequence[KnownRun], metric: str | None) -> list[dict[str, Any]]:
    """A row for each run: identity, sweeps, state, what was asked for, every metric, cost, date, and the folder.

    A run without a setting has None there; all rows have the same columns.
    """
    keys = asked_for(runs)
    splits: dict[str, dict[str, None]] = {}
    for run in runs:
        for split, values in run.record.metrics.items() if run.record is not None else ():
            splits.setdefault(split, {}).update(dict.fromkeys(values))
    rows = []
    for run in runs:
        known = values_of(run, metric)
        rows.append(
            {"identity": run.identity, "sweep": list(run.sweeps), "state": run.state}
            | {key: run.settings.get(key) for key in keys}
            | {name: known[name] for name in FIELDS[3:]}
            | {f"{split}_{name}": run.value(split, name) for split, names in splits.items() for name in names}
            | {"error": run.status.error, "folder": str(run.folder)}
        )
    return rows


def run_table(runs: Sequence[KnownRun], keys: Sequence[str], metric: str | None, digits_of_identity: int) -> Table:
    """The table of `runs` with their settings of `keys`, each by so many digits of its identity."""
    values = [values_of(run, metric) for run in runs]
    metrics = {known["metric"]: None for known in values if known["metric"] is not None}
    digits = {
        name: digits_of(
            known[s] for known in values for s in _SPLITS if known["metric"] == name and known[s] is not None
        )
        for name in metrics
    }
    one = next(iter(metrics)) if len(metrics) == 1 else None
    lines = []
    for run, known in zip(runs, values, strict=True):
        name = known["metric"]
        lines.append(
            Line(
                (
                    run.identity[:digits_of_identity],
                    plain(", ".join(run.sweeps), LONGEST_NAME) or DASH,
                    settings_told(run, keys) or DASH,
                    run.state,
                    *(() if one else (name or DASH,)),
                    *(number(known[split], digits.get(name, 3)) for split in _SPLITS),
                    seconds(known["seconds"]),
                    run.date[:10] or DASH,
                )
            )
        )
    scores = [f"{split} {plain(one)}" for split in _SPLITS] if one else ["metric", *_SPLITS]
    headings = ("run", "sweep", "settings", "state", *scores, "seconds", "date")
    return Table(columns(*headings, left=(0, 1, 2, 3, *(() if one else (4,)), len(headings) - 1)), tuple(lines))


def settings_told(run: KnownRun, keys: Sequence[str]) -> str:
    """The run's values of `keys` on one line: ``last_k k=3 seed=0``."""
    ends = [key.rpartition(".")[2] for key in keys]
    told = []
    for key, end in zip(keys, ends, strict=True):
        if key in run.settings:
            text = _text(run.settings[key])
            # The option of a group speaks for itself, a number does not.
            bare = key == end and natural(text)[0] == 1
            told.append(text if bare else f"{end if ends.count(end) == 1 else key}={text}")
    return plain(" ".join(told))


def keys_with_room(runs: Sequence[KnownRun], keys: Sequence[str], room: int) -> list[str]:
    """Those of `keys`, one at least, that `settings_told` tells of every run in `room` characters, in their order.

    What runs are compared by (strategy, k, seed, ...) is given its room first, then the others as they come.
    """
    ranked = sorted(keys, key=lambda key: _COMPARED_BY.index(key) if key in _COMPARED_BY else len(_COMPARED_BY))
    kept: list[str] = []
    for key in ranked:
        wider = [each for each in keys if each in (*kept, key)]
        if max(len(settings_told(run, wider)) for run in runs) <= room:
            kept = wider
    return kept or ranked[:1]


def values_told(runs: Sequence[KnownRun], key: str, metric: str | None) -> str:
    """Which values of `key` there are, the most frequent first, for who has asked for another one."""
    counts: dict[str, int] = {}
    for run in runs:
        found = values_of(run, metric).get(key)
        for value in found if isinstance(found, tuple) else (found,):
            counts[_text(value)] = counts.get(_text(value), 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    few = ", ".join(f"{plain(text, LONGEST_NAME)} ({count})" for text, count in ordered[:8])
    return few + (", ..." if len(ordered) > 8 else "")


def digits_that_differ(identities: Sequence[str]) -> int:
    """The fewest digits, eight at least, that tell the identities apart."""
    longest = max(map(len, identities), default=_SHORTEST_IDENTITY)
    return next(
        (
            length
            for length in range(_SHORTEST_IDENTITY, longest)
            if len({identity[:length] for identity in identities}) == len(set(identities))
        ),
        longest,
    )


def same_types(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with each column of one type, as columnar files want it: where types differ, as text."""
    mixed = (
        {
            key
            for key in rows[0]
            if len({float if type(row[key]) is int else type(row[key]) for row in rows if row[key] is not None}) > 1
            or any(isinstance(row[key], dict) for row in rows)
        }
        if rows
        else set()
    )
    return [
        {key: _text(value) if key in mixed and value is not None else value for key, value in row.items()}
        for row in rows
    ]


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
