"""The report's evidence: how far the choice depends on the seed, and how sure its advantage is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from thawline.reports import statistics
from thawline.reports.document import (
    DASH,
    Line,
    Section,
    Table,
    columns,
    count,
    interval,
    number,
    p_value,
    signed,
)
from thawline.reports.findings import Comparison, comparisons, ranking, sample_comparisons
from thawline.reports.study import Group, Row, Study
from thawline.reports.tables import depth_told, mean_sd, short, ties_in_words

_MOST_ROWS = 300
_MOST_VALUES = 4
_MOST_CONDITIONS = 12


def choice(study: Study) -> Iterable[Section]:
    """Which row each seed would have chosen, what that gives on the test set, and what an oracle would have had."""
    groups = [group for group in (study.series or study.conditions) if len(group.candidates) > 1]
    if not groups or not study.axes.replicates:
        return
    lines = [_choice_line(study, group) for group in groups[:_MOST_ROWS] if group.per_replicate.keys]
    if not lines:
        return
    what = "depth" if study.axes.depth_is_layers else "setting"
    headings = [
        "by mean over seeds",
        "by each seed (how often)",
        f"test {study.metric} of each seed's choice",
        "95 % interval",
        "oracle, most often",
        "regret against the oracle",
        "seeds",
    ]
    if len(groups) > 1:
        headings.insert(0, "line" if study.series else "condition")
    left = (0, 1, 4) if len(groups) == 1 else (0, 1, 2, 5)
    entries = [Line(line.entries[1:]) for line in lines] if len(groups) == 1 else lines
    note = (
        "The oracle picks the best test score of each seed. It looks at the test set, so it is a bound to compare "
        "with and never a result. The regret is what validation loses against it."
    )
    table = Table(columns(*headings, left=left), tuple(entries), note=note)
    told = (
        f"How much does the chosen {what} depend on the seed? Each seed chooses by its own validation score; "
        f"{ties_in_words(study)}."
    )
    yield Section(f"The choice of the {what}", (told,), (table,))


def _choice_line(study: Study, group: Group) -> Line:
    choice = group.per_replicate
    counts = sorted(choice.counts().items(), key=lambda item: -item[1])
    chosen = ", ".join(f"{_within(study, group, group.candidates[i])} ({n})" for i, n in counts[:_MOST_VALUES])
    test = statistics.summary(choice.test_of_chosen)
    return Line(
        (
            short(group.label) or "all rows",
            _within(study, group, group.chosen) if group.chosen else DASH,
            chosen + (", …" if len(counts) > _MOST_VALUES else ""),
            mean_sd(test),
            interval(test.interval),
            _within(study, group, group.candidates[_most_common(choice.oracle)]),
            mean_sd(statistics.summary(choice.regret)),
            str(len(choice.keys)),
        )
    )


def compared(study: Study) -> Iterable[Section]:
    """The chosen row against the others: paired differences, intervals, tests, and what n allows at all."""
    tables = []
    how = (
        "Test scores, paired by seed: the chosen row less the other. P(better) is the probability that a run of the "
        "chosen row beats one of the other (Agarwal et al. 2021). p values are two-sided and exact: sign flips of the "
        "paired differences, Wilcoxon's signed ranks, and the sign-flip p after Holm's correction over the table."
    )
    intervals = (
        "The bootstrap resamples the seeds of both rows jointly. Over few seeds its interval is too short (over 3 it "
        "covers 73 % where it says 95): trust the t interval."
    )
    paragraphs = [how, intervals]
    unpaired = False
    floors = []
    for group in study.conditions[:_MOST_CONDITIONS]:
        found = comparisons(study, group)
        if group.chosen is None or not any(item.n > 1 for item in found):
            continue
        pairs = max(item.n for item in found)
        floors.append((group.label, statistics.smallest_p_in_words(pairs, len(found))))
        unpaired = unpaired or any(item.unpaired for item in found)
        tables.append(_comparison_table(group, group.chosen, found))
    if not tables:
        return
    paragraphs += _said_once(floors)
    if unpaired:
        paragraphs.append("Where the rows do not have the same seeds only the common ones are compared ('pairs').")
    yield Section("How sure is that?", tuple(paragraphs), tuple(tables))


def _said_once(floors: Sequence[tuple[str, str]]) -> list[str]:
    """What n allows, by condition, or once where all say the same."""
    if len({words for _, words in floors}) == 1:
        floors = [("", floors[0][1])]
    told = [f"On {short(where)}, {words}." if where else f"{words}." for where, words in floors]
    return [text[0].upper() + text[1:] for text in told]


def _comparison_table(group: Group, chosen: Row, found: Sequence[Comparison]) -> Table:
    lines = [
        Line(
            (
                _named(group, item.other),
                signed(item.difference),
                interval(item.interval, with_sign=True),
                interval(item.bootstrap, with_sign=True),
                number(item.improvement, 2),
                *((p_value(item.sign_flip.p), p_value(item.wilcoxon.p)) if item.n > 1 else (DASH, DASH)),
                DASH if item.holm is None else p_value(item.holm),
                str(item.n),
            )
        )
        for item in found[:_MOST_ROWS]
    ]
    return Table(
        columns(
            "against",
            "difference",
            "95 % t interval",
            "95 % bootstrap",
            "P(better)",
            "p sign flip",
            "p Wilcoxon",
            "p Holm",
            "pairs",
        ),
        tuple(lines),
        caption=f"{_named(group, chosen)} against the others" + (f" on {short(group.label)}" if group.label else ""),
    )


def by_sample(study: Study) -> Iterable[Section]:
    """McNemar's test of the chosen row's models against the references', where the runs keep their predictions."""
    lines = []
    for group in study.conditions[:_MOST_CONDITIONS]:
        if group.chosen is None:
            continue
        references = (study.probe_of(group.chosen), study.full_of(group.chosen))
        others = [row for row in references if row is not None]
        for item in sample_comparisons(study, group.chosen, others):
            p = p_value(item.result.p)
            seed = short(", ".join(item.replicate)) or DASH
            tally = (count(item.result.only_first), count(item.result.only_second), count(item.result.samples))
            lines.append(Line((short(group.chosen.label), short(item.other.label), seed, *tally, p)))
    if not lines:
        return
    told = (
        "McNemar's exact test on the test samples that only one of two models gets right. It speaks about these "
        "trained models, seed by seed, not about the strategies that made them."
    )
    headings = ("chosen", "other", "seed", "only chosen right", "only other right", "samples", "p")
    yield Section("Sample by sample", (told,), (Table(columns(*headings, left=(0, 1)), tuple(lines)),), folded=True)


def over_data_sets(study: Study) -> Iterable[Section]:
    """Ranks over several data sets, where the sweep has them."""
    ranked = ranking(study)
    if ranked is None:
        return
    order = sorted(range(len(ranked.labels)), key=lambda index: ranked.friedman.mean_ranks[index])
    bars = [{*clique} for clique in ranked.cliques if len(clique) > 1]
    letters = {
        index: " ".join(_letter(bar) for bar, members in enumerate(bars) if index in members) or DASH for index in order
    }
    lines = [
        Line((short(ranked.labels[index]), number(ranked.friedman.mean_ranks[index], 2), letters[index]))
        for index in order[:_MOST_ROWS]
    ]
    test = ranked.friedman
    pairs = len(ranked.labels) * (len(ranked.labels) - 1) // 2
    how = (
        f"Strategies ranked on each of {test.data_sets} data sets by their mean test {study.metric_label} (1 is best); "
        "scores of different data sets are never averaged. Friedman's chi-square is "
        f"{number(test.statistic, 2)}, p = {p_value(test.p)} (approximate). Strategies that share a letter are not "
        "told apart by Wilcoxon's test over the data sets, Holm-corrected at 0.05."
    )
    floor = (
        f"Over {test.data_sets} data sets the smallest two-sided p of a pair is "
        f"{statistics.smallest_p(test.data_sets):.3g} (2/2^{test.data_sets}), before the correction over {pairs} pairs."
    )
    told = [how, floor]
    if ranked.left_out:
        told.append(
            f"Not ranked, for want of a result on every data set: {', '.join(map(short, ranked.left_out[:20]))}."
        )
    table = Table(columns("strategy", "mean rank", "not told apart", left=(0, 2)), tuple(lines))
    yield Section("Over the data sets", tuple(told), (table,))


def _within(study: Study, group: Group, row: Row) -> str:
    """A row's name among those it is chosen from: in a line of the figure only its depth."""
    if study.axes.depth_is_layers:
        return f"k = {depth_told(study, row)}"
    if study.axes.depth:
        return short(row.depth_value) or "default"
    return _named(group, row)


def _named(group: Group, row: Row) -> str:
    return short(row.label.removeprefix(f"{group.label}, ")) if group.label else short(row.label)


def _most_common(indices: Sequence[int]) -> int:
    return max(dict.fromkeys(indices), key=indices.count)


def _letter(index: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[index % 26] * (1 + index // 26)
