"""The result in plain words, and what must be known before believing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thawline import statistics
from thawline.errors import counted
from thawline.reports.axes import setting_labels
from thawline.reports.choosing import Group
from thawline.reports.document import DASH, capital, interval, number, signed
from thawline.reports.escaping import plain
from thawline.reports.findings import compare
from thawline.reports.limits import crossed_seeds
from thawline.reports.per_class import one_class_warnings
from thawline.reports.rows import Row
from thawline.reports.split_names import TEST
from thawline.reports.standing import beaten, best_two, standing
from thawline.reports.study import Study
from thawline.reports.tables import depth_told, short
from thawline.reports.training import training_warnings

_MOST_CONDITIONS = 6
_MOST_NAMED = 8
_MOST_REASONS = 3
_ONLY = "the one setting"


def answer(study: Study) -> tuple[str, ...]:
    """The result in plain words, one paragraph per condition (data set, number of samples)."""
    groups = study.conditions[:_MOST_CONDITIONS]
    told = [_answer(study, group) for group in groups]
    limits = [_limit(study, group) for group in groups]
    if len(set(limits)) == 1:
        # What n allows is the same for all: it is said once, at the end.
        told[-1:] = [f"{told[-1]} {limits[0]}"] if len(told) == 1 else [told[-1], limits[0]]
    else:
        told = [f"{text} {limit}" for text, limit in zip(told, limits, strict=True)]
    left = len(study.conditions) - len(groups)
    if left:
        which = "the other condition" if left == 1 else f"each of the {left} other conditions"
        told.append(f"The choice for {which} is marked in the table.")
    return tuple(text.strip() for text in told if text.strip())


def _answer(study: Study, group: Group) -> str:
    where = f"On {short(group.label)}: " if group.label else ""
    stands = standing(study, group)
    if stands and not where and stands.startswith("with "):
        stands = f"W{stands[1:]}"
    lead, where = (f"{where}{stands} ", "") if stands else ("", where)
    if group.chosen is None and not study.any_validated:
        told = _of_each(study, group)
        return f"{lead}{where}{told if where else capital(told)}"
    if group.chosen is None:
        told = f"no run has a finite validation {study.metric_label}, so nothing can be chosen."
        return f"{where}{told if where else capital(told)}"
    chosen = group.chosen
    references = _references(study, group, chosen)
    name = _named(study, chosen)
    if not where and (study.axes.depth_is_layers or name == _ONLY):
        name = capital(name)
    parts = [f"{lead}{where}{name} was chosen on validation"]
    if not study.axes.depth and len(group.candidates) > 1:
        parts.append(f" among {len(group.candidates)} {study.axes.compared[1]}")
    if group.running is not None and group.running.is_out(chosen):
        parts.append(f", and {beaten(study, group.running, chosen)}")
    lower = f" ({study.direction_note})" if study.direction_note else ""
    parts.append(f"; {study.split_label} {study.metric_label}{lower} {_result(study, chosen, study.split)}")
    if references:
        against = [f"{_result_of_other(study, chosen, other)} for {name}" for other, name in references]
        parts.append(f", against {' and '.join(against)}")
    if study.split != TEST and chosen.scores(TEST, study.metric):
        parts.append(f"; on test it has {_result(study, chosen, TEST)}")
    differences = _differences(study, chosen, references)
    return " ".join(filter(None, ["".join(parts) + ".", differences]))


def _of_each(study: Study, group: Group) -> str:
    """The results of all rows, where none is chosen."""
    rows = [row for row in group.rows if row.runs]
    told = [f"{_result(study, row, study.split)} for {_named(study, row)}" for row in rows[:_MOST_NAMED]]
    more = f"; and {len(rows) - _MOST_NAMED} more in the table" if len(rows) > _MOST_NAMED else ""
    lower = f" ({study.direction_note})" if study.direction_note else ""
    return f"{study.split_label} {study.metric_label}{lower} is {'; '.join(told)}{more}."


def _result(study: Study, row: Row, split: str) -> str:
    summary = row.summary(split, study.metric)
    if summary.mean is None:
        return DASH
    sd = number(summary.sd, study.digits)
    spread = f" ± {sd} (mean ± sd, n = {summary.n}" if summary.sd is not None else f" (n = {summary.n}"
    lost = f"; {summary.diverged} of {summary.count} runs diverged" if summary.diverged else ""
    return f"{number(summary.mean, study.digits)}{spread}{lost})"


def _result_of_other(study: Study, chosen: Row, other: Row) -> str:
    summary = other.summary(study.split, study.metric)
    mean = number(summary.mean, study.digits)
    if summary.diverged:
        return f"{mean} ({summary.diverged} of {summary.count} diverged)"
    same = summary.n == chosen.summary(study.split, study.metric).n
    return mean if same else f"{mean} (n = {summary.n})"


def _named(study: Study, row: Row) -> str:
    if not study.axes.depth_is_layers:
        parts = setting_labels(study.axes.choices, row.choice)
        if study.axes.depth:
            parts += setting_labels([study.axes.depth], [row.depth_value or ""])
        return ", ".join(short(part) for part in parts) or _ONLY
    own = ", ".join(short(part) for part in setting_labels(study.axes.choices, row.choice))
    within = f" with {own}" if own else ""
    total = row.common(lambda run: len(run.groups))
    of = f" of {total} layer groups" if total is not None else " layer groups"
    if row.is_probe:
        return f"the {row.probe_name} (k = 0{of}){within}"
    if row.is_full:
        return f"full fine-tuning (k = {row.depth}{of}){within}"
    reached, end = row.common(lambda run: run.reached), row.common(lambda run: run.counted_from)
    k = depth_told(study, row)
    if end == "input":
        return f"unfreezing the first k = {k}{of}{f' (up to {short(reached)})' if reached else ''}{within}"
    return f"unfreezing k = {k}{of}{f' (from {short(reached)} on)' if reached else ''}{within}"


def _references(study: Study, group: Group, chosen: Row) -> list[tuple[Row, str]]:
    probe, full = study.probe_of(chosen), study.full_of(chosen)
    named = [(probe, f"the {probe.probe_name}" if probe else ""), (full, "full fine-tuning")]
    found = [(row, _reference_named(study, row, name)) for row, name in named if row is not None]
    if found:
        return found
    next_best = _runner_up(study, group, chosen)
    return [] if next_best is None else [(next_best, f"the next by validation, {_named(study, next_best)}")]


def _reference_named(study: Study, row: Row, name: str) -> str:
    """A reference by what it is, by what it adds to that, and by its settings where the sweep has several."""
    alike = (other for other in study.rows if (other.is_probe if row.is_probe else other.is_full))
    if row.is_plain and not all(other.is_plain for other in alike):
        name = name.replace("the ", "the plain ") if name.startswith("the ") else f"plain {name}"
    added = row.common(lambda run: run.additions) or ()
    settings = setting_labels(study.axes.choices, row.choice)
    # A setting such as ``linear_probe`` says nothing that the name does not.
    details = [short(part) for part in dict.fromkeys([*added, *settings]) if not _words(part) <= _words(name)]
    return f"{name} ({', '.join(details)})" if details else name


def _words(text: str) -> set[str]:
    return set(text.replace("_", " ").replace("-", " ").split())


def _runner_up(study: Study, group: Group, chosen: Row) -> Row | None:
    return next(iter(study.best_first(row for row in group.candidates if row is not chosen)), None)


def _differences(study: Study, chosen: Row, references: Sequence[tuple[Row, str]]) -> str:
    told, by_images, seeds = [], False, 0
    for other, name in references:
        item = compare(study, chosen, other)
        if item.interval is not None:
            bounds = interval(item.interval, study.digits, with_sign=True)
            told.append(f"{signed(item.difference, study.digits)} {bounds} against {name}")
            by_images, seeds = by_images or item.both is not None, max(seeds, item.n)
    if not told:
        return ""
    kind = f"{'' if by_images else 't '}{'intervals' if len(told) > 1 else 'interval'}"
    over = f" over {'seeds and ' if seeds > 1 else ''}test images" if by_images else ""
    return f"Paired by seed that is {' and '.join(told)} (95 % {kind}{over})."


def _limit(study: Study, group: Group) -> str:
    """What the seeds do not show, and how many would."""
    chosen = group.chosen
    others = [row for row in group.rows if row is not chosen and row.runs]
    if chosen is None or not others:
        return ""
    pairs = max(len(_common_keys(study, chosen, other)) for other in others)
    if not pairs:
        return (
            "The chosen setting has no seed in common with another, so nothing compares them: give all the same seeds."
        )
    if pairs < 2:
        return "One run of each says nothing about chance: repeat the sweep with more seeds."
    return best_two(study, group)


def _common_keys(study: Study, chosen: Row, other: Row) -> tuple[object, ...]:
    return statistics.paired(chosen.scores(study.split, study.metric), other.scores(study.split, study.metric)).keys


def warnings(study: Study) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    return (
        *_closed(study),
        *_without_validation(study),
        *study.notes,
        *_incomplete(study),
        *_diverged(study),
        *training_warnings(study),
        *one_class_warnings(study),
        *_unequal(study),
        *_repeated(study),
        *crossed_seeds(study),
        *_of_data(study),
    )


def _closed(study: Study) -> list[str]:
    """That results are on validation, where not every run opened the test split."""
    if not study.untested:
        return []
    if not study.any_tested:
        text = (
            "The test split stayed closed in every run (open_test=false). All results are on validation, which also "
            "chose the epochs and the setting: expect less of it on new images."
        )
        return [text]
    runs = sum(len(row.runs) for row in study.rows)
    text = (
        f"The test split stayed closed in {study.untested} of {runs} runs (open_test=false). Results are compared on "
        "validation, which every run has and which also chose the epochs and the setting; test is shown where it was "
        "opened."
    )
    return [text]


def _without_validation(study: Study) -> list[str]:
    """That nothing is chosen among runs that trained on their validation images."""
    if not study.unvalidated:
        return []
    how = "trained on their validation images, too (train_on=train_val), and kept their last epoch"
    if not study.any_validated:
        return [f"The runs {how}. Nothing is chosen among them: that would take images which they have not seen."]
    runs = sum(len(row.runs) for row in study.rows)
    return [f"{study.unvalidated} of {runs} runs {how}: they have no validation score, and are never chosen."]


def _of_data(study: Study) -> list[str]:
    """What the runs themselves warn of."""
    told = Counter(warning for run in study.sweep.runs for warning in run.warnings)
    total = len(study.sweep.runs)
    texts = [
        f"{plain(capital(text), 400)}{'.' if count == total else f' (in {count} of {total} runs).'}"
        for text, count in told.most_common(_MOST_NAMED)
    ]
    more = len(told) - len(texts)
    return [*texts, f"The records have {more} more {'warning' if more == 1 else 'warnings'}."] if more else texts


def _incomplete(study: Study) -> list[str]:
    if not study.missing:
        return []
    kinds = Counter(
        "missing" if cell.problem == "missing" else "damaged" for cell in study.sweep.cells if cell.run is None
    )
    total = len(study.sweep.cells)
    listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    told = (
        f"The sweep is not complete: {study.missing} of {total} cells {'has' if study.missing == 1 else 'have'} no "
        f"valid record ({listed}). Everything here is made of the other {total - study.missing}."
    )
    return [told]


def _diverged(study: Study) -> list[str]:
    rows = [row for row in study.rows if row.diverged or row.summary(study.split, study.metric).diverged]
    if not rows:
        return []
    named = [
        f"{short(row.label)}: {max(row.diverged, row.summary(study.split, study.metric).diverged)} of {len(row.runs)}"
        for row in rows[:_MOST_NAMED]
    ]
    more = f"; and {counted(len(rows) - _MOST_NAMED, 'row')} more" if len(rows) > _MOST_NAMED else ""
    told = (
        f"Runs diverged ({'; '.join(named)}{more}). They are shown and counted, but enter no mean, and the means say "
        f"so.{_reasons(rows)}"
    )
    return [told]


def _reasons(rows: Sequence[Row]) -> str:
    """Why they diverged, the most frequent reason first."""
    found = Counter(run.divergence for row in rows for run in row.runs.values() if run.divergence)
    if not found:
        return ""
    listed = "; ".join(f"{plain(reason, 160)} ({count} x)" for reason, count in found.most_common(_MOST_REASONS))
    return f" Why: {listed}{'; ...' if len(found) > _MOST_REASONS else ''}."


def _unequal(study: Study) -> list[str]:
    told = []
    for group in study.conditions:
        could = (row for row in group.rows if not row.dropped and any(run.is_validated for run in row.runs.values()))
        apart = sum(1 for _ in could) - len(group.candidates)
        if apart and group.candidates:
            where = f"On {short(group.label)}, " if group.label else ""
            rows = "row has" if apart == 1 else "rows have"
            text = (
                f"{where}{apart} {rows} fewer runs that did not diverge than the others: the choice is among the "
                f"{len(group.candidates)} with most, and comparisons are on the common seeds."
            )
            told.append(capital(text))
    return told[:_MOST_CONDITIONS]


def _repeated(study: Study) -> list[str]:
    told = []
    repeated = sum(row.repeated for row in study.rows)
    if repeated:
        cells = "1 cell resolves" if repeated == 1 else f"{repeated} cells resolve"
        told.append(f"{cells} to a run that the row already has (a seed that changes nothing): each run counts once.")
    reopened = sum(row.reopened for row in study.rows)
    if reopened:
        runs = "1 run was" if reopened == 1 else f"{reopened} runs were"
        told.append(f"{runs} made a second time with the test split opened: each counts once.")
    alike = sum(len(key) > len(study.axes.replicates) for row in study.rows for key in row.runs)
    if alike:
        runs = "1 run shares" if alike == 1 else f"{alike} runs share"
        others = "is another one" if alike == 1 else "are other runs"
        told.append(f"{runs} all overrides with another run and yet {others}: each counts.")
    return told
