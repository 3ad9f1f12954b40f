"""The section on a race: what was dropped and why, what it saved, and what the audited drops say of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from thawline import statistics
from thawline.reports.document import DASH, Line, Section, Table, columns, number, p_value, seconds, signed
from thawline.reports.figures import draw_races
from thawline.reports.races import RaceOf, Racer, races_of
from thawline.reports.study import Study
from thawline.reports.tables import short

TITLE = "The race: what was dropped, and what it cost"
_MOST_NAMED = 8


def race(study: Study) -> Iterable[Section]:
    """The section on a race, where the sweep is the end of one."""
    # One setting alone is in no race: it goes to the fresh seeds at once.
    races = [one for one in races_of(study) if len(one.racers) > 1]
    if not races:
        return
    told = [text for one in races for text in _told(study, one)]
    yield Section(TITLE, tuple(told), tuple(_table(study, one) for one in races), drawings=draw_races(study, races))


def _told(study: Study, race: RaceOf) -> list[str]:
    where = f"On {short(race.label)}: " if race.label else ""
    return [f"{where}{_dropped(race)}{_by_another(study, race)}", _cost(race), _audit(study, race)]


def _dropped(race: RaceOf) -> str:
    looks = statistics.looks_of(race.looks, race.alpha)
    ran = max(len(racer.raced) for racer in race.racers)
    held = [look for look in looks if look.seeds <= ran]
    decisive = [f"{look.seeds} seeds (p of at most {look.level:.3g})" for look in held if look.can_decide]
    idle = [str(look.seeds) for look in held if not look.can_decide]
    count = str(len(race.dropped)) if race.dropped else "none"
    text = (
        f"By validation alone {count} of {len(race.racers)} settings {'were' if len(race.dropped) > 1 else 'was'} "
        f"dropped. {'Looks' if len(decisive) > 1 else 'The look'} after {_and(decisive)} could drop some"
    )
    if idle:
        text += f"; with {_and(idle)} seeds no p is small enough for that"
    if len(held) < len(looks) and len(race.left) == 1:
        text += f"; then one was left, and {_and([str(look.seeds) for look in looks[len(held) :]])} seeds were not run"
    return (
        f"{text}. The chance that one of the best was dropped is at most {100 * race.alpha:g} %, over all looks and "
        f"pairs. Only runs on the {race.fresh_seeds} fresh seeds are in the tables and intervals of this report."
    )


def _by_another(study: Study, race: RaceOf) -> str:
    """What is to be known where the report compares by another metric than the one that dropped settings."""
    if race.decided_by in ("", study.metric):
        return ""
    return f" Drops and their p are by {race.decided_by}; scores, differences and audit below are of {study.metric}."


def _cost(race: RaceOf) -> str:
    """Runs and seconds of the race against those of every setting on every seed of it."""
    ran = sum(len(racer.raced) for racer in race.racers)
    most = race.looks[-1]
    grid = most * len(race.racers)
    took = sum(sum(racer.seconds) for racer in race.racers)
    # What a dropped setting would have taken is known from the seeds that it has run.
    whole = sum(most * fmean(racer.seconds) for racer in race.racers if racer.seconds)
    tested = sum(bool(racer.fresh) for racer in race.racers)
    fresh = race.fresh_seeds
    return (
        f"Cost: {ran} runs and {seconds(took)} s, where every setting on all {most} seeds makes {grid} runs and about "
        f"{seconds(whole)} s ({_percent(1 - took / whole if whole else 0.0)} less). The fresh seeds took "
        f"{tested * fresh} runs in place of {len(race.racers) * fresh}."
    )


def _audit(study: Study, race: RaceOf) -> str:
    """How many audited drops were wrong, as far as their fresh seeds tell."""
    from scipy.stats import binomtest

    audited = [racer for racer in race.dropped if racer.drop is not None and racer.drop.audited]
    share = f"a share of {race.audit:g} of the drops runs on the fresh seeds all the same"
    if not race.dropped:
        return "Nothing was dropped, so nothing was audited."
    if not audited:
        return f"No drop was audited ({share}): how often drops are wrong is not known from this race."
    sign = 1.0 if study.mode == "max" else -1.0
    best = max((_fresh_mean(racer, sign) for racer in race.left), default=-math.inf)
    wrong = [racer for racer in audited if _fresh_mean(racer, sign) > best]
    interval = binomtest(len(wrong), len(audited)).proportion_ci(method="exact")
    names = f" ({_and([short(racer.label) for racer in wrong])})" if wrong else ""
    return (
        f"Audit: {share}. Of {len(audited)} audited, {len(wrong)}{names} had a better mean there than the best of "
        f"those left: the share of drops that end so lies between {_percent(interval.low)} "
        f"and {_percent(interval.high)} (95 %, exact)."
    )


def _fresh_mean(racer: Racer, sign: float) -> float:
    scores = list(racer.fresh.values())
    return sign * fmean(scores) if scores and all(map(math.isfinite, scores)) else -math.inf


def _table(study: Study, race: RaceOf) -> Table:
    lines = []
    for racer in race.racers:
        scores = [score for score in racer.raced.values() if math.isfinite(score)]
        spread = f" ± {number(stdev(scores), study.digits)}" if len(scores) > 1 else ""
        mean = f"{number(fmean(scores), study.digits)}{spread}" if scores else DASH
        drop, winner = racer.drop, race.racers[racer.winner] if racer.winner is not None else None
        if drop is None:
            state = (DASH, DASH, DASH, "in the running")
        else:
            audited = ", audited" if drop.audited else ""
            state = (
                short(winner.label) if winner else DASH,
                signed(_difference(racer, winner), study.digits) if winner else DASH,
                p_value(drop.p),
                f"dropped at {drop.seeds}{audited}",
            )
        lines.append(Line((short(racer.label), str(len(racer.raced)), mean, *state), strong=False))
    headings = ("setting", "seeds", "validation in the race", "beaten by", "difference", "p", "state")
    note = (
        f"Scores are of validation {study.axis_label}. A dropped setting is censored: its mean is over the seeds up to "
        "its drop, and it has no interval. The difference is the mean over the common seeds. p is of joint sign flips "
        "over all pairs of the look, stepped down."
    )
    return Table(columns(*headings, left=(0, 3, 6)), tuple(lines), caption=short(race.label), note=note)


def _difference(racer: Racer, winner: Racer) -> float | None:
    pairs = statistics.paired(racer.raced, winner.raced)
    return float(pairs.differences.mean()) if pairs.differences.size else None


def _and(names: Sequence[str]) -> str:
    listed = list(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        listed.append(f"{len(names) - _MOST_NAMED} more")
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}" if listed else "no"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
