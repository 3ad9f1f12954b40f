"""How the runs were trained: their recipe, whether they were trained to the end, and the versions that trained them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from thawline.errors import counted
from thawline.reports.axes import setting_labels
from thawline.reports.choosing import best_of
from thawline.reports.escaping import plain
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.rows import Row, grouped
from thawline.reports.study import Study
from thawline.statistics import end_of

_RATE = "optimizer.lr"
_MOST_NAMED = 8
_LONGEST_NAME = 40


def training_warnings(study: Study) -> list[str]:
    """What the course of training says against the numbers, and versions that differ."""
    return [
        *version_warnings(run.version for run in study.sweep.runs),
        *_learned_nothing(study),
        *_still_better(study),
        *_loss_rose(study),
        *_best_rate_at_edge(study),
    ]


def ended_too_early(run: LoadedRun) -> bool:
    """Whether the last epoch was the best by validation: more epochs may have been better still."""
    return len(run.train_loss) > 1 and run.is_validated and run.chosen_epoch == len(run.train_loss) - 1


def training_loss_rose(run: LoadedRun) -> bool:
    """Whether the training loss of the last phase was higher at its end than after its first epoch."""
    last = [loss for loss, phase in zip(run.train_loss, run.phase_of_epoch, strict=True) if phase == run.last_phase]
    return len(last) > 1 and last[-1] > last[0]


def version_warnings(versions: Iterable[str]) -> list[str]:
    """What is said of runs that different versions of thawline made; `versions` has one for each run."""
    told = Counter(versions)
    if len(told) < 2:
        return []
    most = told.most_common(_MOST_NAMED)
    listed = ", ".join(f"{plain(version, 80)} ({counted(count, 'run')})" for version, count in most)
    return [f"The runs were made by {len(told)} versions of thawline, which may give other numbers: {listed}."]


def _learned_nothing(study: Study) -> list[str]:
    """The rows of which no run is better than a constant predictor: that such rows are equal is no finding."""
    rows = [(row, list(row.usable.values())) for row in study.rows]
    found = [(row, len(runs)) for row, runs in rows if runs and all(run.learned_nothing(study.split) for run in runs)]
    if not found:
        return []
    text = f"No better on {study.split_label} than a constant predictor ({_listed(found)}): these runs learned nothing"
    compared = ", so that whether they are equal says nothing about their settings" if len(found) > 1 else ""
    return [f"{text}{compared}."]


def _still_better(study: Study) -> list[str]:
    rows = [(row, sum(map(ended_too_early, row.runs.values()))) for row in study.rows]
    found = [(row, count) for row, count in rows if 2 * count > len(row.runs)]
    if not found:
        return []
    text = (
        f"The last epoch was the best one by validation ({_listed(found)}): these runs may not have been trained to "
        "the end."
    )
    if any(row.is_full for row, _ in found) and (rates := _one_rate(study)):
        text += (
            f" Full fine-tuning is among them, and every run was trained at the same learning rate ({rates}): how it "
            "compares with the others here is no finding about the strategies. Train longer, and tune each one's rate."
        )
    return [text]


def _loss_rose(study: Study) -> list[str]:
    rows = [(row, sum(map(training_loss_rose, row.runs.values()))) for row in study.rows]
    found = [(row, count) for row, count in rows if count]
    if not found:
        return []
    return [f"The training loss rose from the first epoch to the last ({_listed(found)}): the rate may be too high."]


def _best_rate_at_edge(study: Study) -> list[str]:
    """Where a sweep over learning rates ends at its best one: what else is compared was not tuned to the end."""
    found = [told for rows in _by_all_but_rate(study) if (told := _edge(study, rows))]
    if not found:
        return []
    more = [f"and {len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    listed = "; ".join([*found[:_MOST_NAMED], *more])
    told = f"The best learning rate by validation is at the edge of those tried ({listed})"
    return [f"{told}: a better one may lie beyond."]


def _by_all_but_rate(study: Study) -> Iterable[list[Row]]:
    """The rows that differ in their learning rate alone, where the sweep has an axis of it."""
    axes = study.axes
    if _RATE not in (*axes.choices, axes.depth):
        return []
    return grouped(study.rows, lambda row: tuple(_all_but_rate(study, row))).values()


def _all_but_rate(study: Study, row: Row) -> list[str]:
    axes = study.axes
    placed = [*zip(axes.conditions, row.condition, strict=True), *zip(axes.choices, row.choice, strict=True)]
    if axes.depth:
        placed.append((axes.depth, row.depth_value or ""))
    kept = [(axis, value) for axis, value in placed if axis != _RATE]
    return setting_labels([axis for axis, _ in kept], [value for _, value in kept])


def _edge(study: Study, rows: Sequence[Row]) -> str:
    """The best rate of `rows` and which end it is, in words; empty where it lies between others that were tried."""
    tried = {float(rate) for row in rows if (rate := row.common(_rate)) is not None}
    best, _ = best_of(rows, study.rule)
    rate = best.common(_rate) if best is not None else None
    end = end_of(float(rate), tried) if rate is not None else None
    if best is None or end is None:
        return ""
    settings = ", ".join(plain(label, _LONGEST_NAME) for label in _all_but_rate(study, best))
    return f"{settings}{': ' if settings else ''}{rate}, the {end} of {len(tried)}"


def _rate(run: LoadedRun) -> str | None:
    return dict(run.recipe).get("lr")


def _one_rate(study: Study) -> str:
    """The learning rate, where all runs have one and the same and there are several strategies."""
    rates = {_rate(run) for run in study.sweep.runs}
    return rates.pop() or "" if len(rates) == 1 and len(study.rows) > 1 else ""


def _listed(found: Sequence[tuple[Row, int]]) -> str:
    named = [f"{plain(row.label, _LONGEST_NAME)}: {count} of {len(row.runs)}" for row, count in found[:_MOST_NAMED]]
    rest = len(found) - len(named)
    return "; ".join(named) + (f"; and {rest} more {'row' if rest == 1 else 'rows'}" if rest else "")


def recipe_rows(study: Study) -> Iterable[tuple[str, str]]:
    """The recipe of the sweep, a line per setting; where the runs differ, each value with the number of its runs."""
    names = list(dict.fromkeys(name for run in study.sweep.runs for name, _ in run.recipe))
    for name in names:
        told = Counter(dict(run.recipe).get(name, "not recorded") for run in study.sweep.runs)
        if len(told) == 1:
            yield name, next(iter(told))
        else:
            listed = [f"{plain(value, 40)} ({count})" for value, count in told.most_common(_MOST_NAMED)]
            yield name, ", ".join(listed) + (", ..." if len(told) > _MOST_NAMED else "")
