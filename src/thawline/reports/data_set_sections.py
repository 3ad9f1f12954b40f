"""The report's sections on strategies over several data sets and networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from thawline.reports.data_set_figures import pair_entries
from thawline.reports.document import DASH, Line, Section, Table, columns, interval, number, p_value
from thawline.reports.figures import draw_over_data_sets
from thawline.reports.over_data_sets import OverDataSets, over_data_sets
from thawline.reports.study import Study
from thawline.reports.tables import short
from thawline.statistics import iqm_over_data_sets, smallest_p, tally

_MOST_PAIRS = 300
_MOST_NAMED = 20
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def over_data_sets_sections(study: Study) -> Iterable[Section]:
    """Ranks, pairs, normalised scores and profiles over data sets, where the study has them."""
    found = over_data_sets(study)
    if found is None:
        return
    drawings = draw_over_data_sets(study, found)
    told = (_ranked(study, found), _floor(found), *_normalised(found), *_left_out(found))
    yield Section(f"Over the {found.what}", told, (_strategies(found),), drawings=drawings)
    yield Section(f"Every pair over the {found.what}", (), (_pairs(study, found),), folded=True)


def _ranked(study: Study, found: OverDataSets) -> str:
    text = (
        f"{len(found.strategies)} strategies ranked on each of {len(found.blocks)} {found.what} by their mean "
        f"{study.split_label} {study.metric_label} (1 is best); scores of different {found.what} are never averaged. "
    )
    if found.friedman is not None:
        text += (
            f"Friedman's chi-square is {number(found.friedman.statistic, 2)}, p = {p_value(found.friedman.p)} "
            "(approximate). "
        )
    return text + (
        "Strategies that share a letter are not told apart by Wilcoxon's test over the "
        f"{found.what}, Holm-corrected at 0.05; that depends on which strategies are compared, the p of a pair alone "
        "does not."
    )


def _floor(found: OverDataSets) -> str:
    blocks, pairs = len(found.blocks), len(found.strategies) * (len(found.strategies) - 1) // 2
    corrected = f", before the correction over {pairs} pairs" if pairs > 1 else ""
    return (
        f"Over {blocks} {found.what} the smallest two-sided p of a pair is {smallest_p(blocks):.3g} (2/2^{blocks})"
        f"{corrected}."
    )


def _normalised(found: OverDataSets) -> Iterable[str]:
    if not found.normalised:
        return
    flat = len(found.scores) - len(found.normalised)
    text = (
        "IQM is the interquartile mean of all runs' normalised scores: on each of them 0 is the mean of the worst "
        "strategy and 1 that of the best. Its interval draws seeds within each, the same for all strategies; over few "
        f"seeds it is too short, and it says nothing about other {found.what}."
    )
    if flat:
        verbs = ("has", "is") if flat == 1 else ("have", "are")
        text += f" {flat} of the {found.what} {verbs[0]} no difference to normalise and {verbs[1]} left out of it."
    if len({one.shape[1] for one in found.scores}) > 1:
        text += f" Not all {found.what} have as many seeds; those with more count for more."
    yield text


def _left_out(found: OverDataSets) -> Iterable[str]:
    if found.left_out:
        named = ", ".join(map(short, found.left_out[:_MOST_NAMED]))
        yield f"Not ranked, for want of a result on every one of the {found.what}: {named}."


def _strategies(found: OverDataSets) -> Table:
    letters = _shared_letters(found)
    estimates = iqm_over_data_sets(found.normalised) if found.normalised else None
    lines = []
    for place in found.order:
        wins, ties, losses = tally(found.means, place, found.mode)
        iqm = (
            (DASH, DASH) if estimates is None else (number(estimates[place].value), interval(estimates[place].interval))
        )
        lines.append(
            Line(
                (
                    short(found.strategies[place]),
                    number(found.mean_ranks[place], 2),
                    letters[place],
                    f"{wins} / {ties} / {losses}",
                    *iqm,
                )
            )
        )
    headings = ("strategy", "mean rank", "not told apart", "win / tie / loss", "IQM", "95 % interval")
    note = f"Wins, ties and losses count every other strategy on every one of the {found.what}."
    return Table(columns(*headings, left=(0, 2)), tuple(lines), note=note)


def _shared_letters(found: OverDataSets) -> dict[int, str]:
    bars = [set(clique) for clique in found.cliques if len(clique) > 1]
    return {
        place: " ".join(_letter(bar) for bar, members in enumerate(bars) if place in members) or DASH
        for place in found.order
    }


def _letter(index: int) -> str:
    return _LETTERS[index % 26] * (1 + index // 26)


def _pairs(study: Study, found: OverDataSets) -> Table:
    pairs = list(itertools.combinations(found.order, 2))
    lines = [
        Line(
            (
                short(found.strategies[first]),
                short(found.strategies[second]),
                *pair_entries(found, found.pair(first, second), study.digits),
            )
        )
        for first, second in pairs[:_MOST_PAIRS]
    ]
    what = "mean ratio less 1" if found.relative else "mean difference"
    note = "The first strategy less the second. p is Wilcoxon's, exact, not corrected for other pairs."
    if len(pairs) > _MOST_PAIRS:
        note += f" The first {_MOST_PAIRS} of {len(pairs)} pairs, by mean rank."
    return Table(columns("first", "second", what, "win / tie / loss", "p", left=(0, 1)), tuple(lines), note=note)
