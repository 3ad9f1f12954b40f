"""How the runs were trained: their recipe, whether they were trained to the end, and the versions that trained them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from thawline.reports.escaping import plain
from thawline.reports.loading import LoadedRun
from thawline.reports.rows import Row
from thawline.reports.study import Study

_MOST_NAMED = 8
_LONGEST_NAME = 40


def training_warnings(study: Study) -> list[str]:
    """What the course of training says against the numbers, and versions that differ."""
    return [*_versions(study), *_still_better(study), *_loss_rose(study)]


def ended_too_early(run: LoadedRun) -> bool:
    """Whether the last epoch was the best by validation: more epochs may have been better still."""
    return len(run.train_loss) > 1 and run.chosen_epoch == len(run.train_loss) - 1


def training_loss_rose(run: LoadedRun) -> bool:
    """Whether the training loss of the last phase was higher at its end than after its first epoch."""
    last = [loss for loss, phase in zip(run.train_loss, run.phase_of_epoch, strict=True) if phase == run.last_phase]
    return len(last) > 1 and last[-1] > last[0]


def _versions(study: Study) -> list[str]:
    told = Counter(run.version for run in study.sweep.runs)
    if len(told) < 2:
        return []
    listed = ", ".join(f"{plain(version, 80)} ({_runs(count)})" for version, count in told.most_common(_MOST_NAMED))
    return [f"The runs were made by {len(told)} versions of thawline, which may give other numbers: {listed}."]


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
    return [
        f"The training loss rose from the first epoch to the last ({_listed(found)}): the learning rate is too high."
    ]


def _one_rate(study: Study) -> str:
    """The learning rate, where all runs have one and the same and there are several strategies."""
    rates = {dict(run.recipe).get("lr") for run in study.sweep.runs}
    return rates.pop() or "" if len(rates) == 1 and len(study.rows) > 1 else ""


def _listed(found: Sequence[tuple[Row, int]]) -> str:
    named = [f"{plain(row.label, _LONGEST_NAME)}: {count} of {len(row.runs)}" for row, count in found[:_MOST_NAMED]]
    rest = len(found) - len(named)
    return "; ".join(named) + (f"; and {rest} more {'row' if rest == 1 else 'rows'}" if rest else "")


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


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
