"""The report's evidence: how far the choice depends on the seed, and how sure its advantage is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from thawline import statistics
from thawline.reports.choosing import Group
from thawline.reports.document import (
    DASH,
    Line,
    Section,
    Table,
    capital,
    columns,
    count,
    interval,
    number,
    p_value,
    signed,
)
from thawline.reports.findings import RowComparison, comparisons, image_comparisons, sample_comparisons
from thawline.reports.limits import smallest_p_in_words
from thawline.reports.rows import Row
from thawline.reports.split_names import TEST
from thawline.reports.study import Study
from thawline.reports.tables import depth_told, mean_sd, short, ties_in_words
from thawline.statistics import TwoWay

_MOST_ROWS = 300
_MOST_VALUES = 4
_MOST_CONDITIONS = 12
# The columns of the choice that hold names.
_CHOICE_NAMES = ("by mean over seeds", "by each seed (how often)", "oracle, most often")
_BOOTSTRAP = (
    "The bootstrap resamples the seeds of both rows jointly. Over few seeds its interval is too short (over 3 it "
    "covers 73 % where it says 95): trust the t interval."
)
_BOTH = (
    "Intervals are over other seeds and other test images. 'Of seeds' is the standard error over other seeds on the "
    "same images, 'of images' that over other images with the same trained models; with three seeds or fewer the "
    "interval is the wider one of this and of the t interval over the seeds."
)


def choice(study: Study) -> Iterable[Section]:
    """Which row each seed would have chosen, what that gives on the test set, and what an oracle would have had."""
    groups = [group for group in (study.series or study.conditions) if len(group.candidates) > 1]
    if not groups or not study.axes.replicates:
        return
    found = [_choice(study, group) for group in groups[:_MOST_ROWS] if group.per_replicate.keys]
    if not found:
        return
    named = {0: "line" if study.series else "condition"} if len(groups) > 1 else {}
    headings = [*named.values(), *(heading for heading, _ in found[0][1])]
    lines = [Line((*(label for _ in named), *(entry for _, entry in entries))) for label, entries in found]
    left = [place for place, heading in enumerate(headings) if heading in (*named.values(), *_CHOICE_NAMES)]
    what = "depth" if study.axes.depth_is_layers else "setting"
    question = f"How much does the chosen {what} depend on the seed?"
    sentences = [f"{question} Each seed chooses by its own validation score; {ties_in_words(study)}."]
    if study.split == TEST:
        note = (
            "The oracle picks the best test score of each seed. It looks at the test set, so it is a bound to compare "
            "with and never a result. The regret is what validation loses against it."
        )
    else:
        note = ""
        sentences.append("What these choices give on test, and their regret, need runs that open the test split.")
    table = Table(columns(*headings, left=left), tuple(lines), note=note)
    yield Section(f"The choice of the {what}", tuple(sentences), (table,))


def _choice(study: Study, group: Group) -> tuple[str, list[tuple[str, str]]]:
    """A group's label, and the headings and entries of its line."""
    choice, digits = group.per_replicate, study.digits
    counts = sorted(choice.counts().items(), key=lambda item: -item[1])
    each = ", ".join(f"{_within(study, group, group.candidates[i])} ({n})" for i, n in counts[:_MOST_VALUES])
    by_mean, by_seed, oracle = _CHOICE_NAMES
    entries = [
        (by_mean, _within(study, group, group.chosen) if group.chosen else DASH),
        (by_seed, each + (", …" if len(counts) > _MOST_VALUES else "")),
    ]
    if study.split == TEST:
        bounds = study.definition.lower, study.definition.upper
        test = statistics.summary(choice.test_of_chosen, bounds=bounds, resolution=study.resolution)
        entries += [
            (f"test {study.metric} of each seed's choice", mean_sd(test, digits)),
            ("95 % t interval", interval(test.interval, digits)),
            (oracle, _within(study, group, group.candidates[_most_common(choice.oracle)])),
            ("regret against the oracle", mean_sd(statistics.summary(choice.regret), digits)),
        ]
    return short(group.label) or "all rows", [*entries, ("seeds", str(len(choice.keys)))]


def compared(study: Study) -> Iterable[Section]:
    """The chosen row against the others: paired differences, intervals, tests, and what n allows at all."""
    tables = []
    unpaired = by_images = False
    floors = []
    for group in study.conditions[:_MOST_CONDITIONS]:
        found = comparisons(study, group)
        if group.chosen is None or not any(item.n > 1 for item in found):
            continue
        pairs = max(item.n for item in found)
        jointly = any(item.jointly for item in found)
        floors.append((group.label, smallest_p_in_words(pairs, 1 if jointly else len(found))))
        by_images = by_images or any(item.both for item in found)
        unpaired = unpaired or any(item.unpaired for item in found)
        tables.append(_comparison_table(study, group, group.chosen, found))
    if not tables:
        return
    paragraphs = [_how_compared(study), _BOTH if by_images else _BOOTSTRAP]
    if study.split == TEST:
        alone = any(len(table.lines) == 1 for table in tables)
        paragraphs += [_verdicts(study, by_images=by_images, alone=alone), *_said_once(floors)]
    if unpaired:
        paragraphs.append("Where the rows do not have the same seeds only the common ones are compared ('pairs').")
    yield Section("How sure is that?", tuple(paragraphs), tuple(tables))


def _how_compared(study: Study) -> str:
    text = f"{study.split_label.capitalize()} scores, paired by seed: the chosen row less the other"
    text += ", so below zero it is the better one." if study.mode == "min" else "."
    if study.split != TEST:
        return (
            f"{text} There are no p values: the chosen row was chosen by these very scores, which favours it, and a "
            "test would find a difference where there is none. Run the chosen setting and its rivals with "
            "open_test=true for that."
        )
    return (
        f"{text} P(better) is the probability that a run of the chosen row beats one of the other (Agarwal et al. "
        "2021). p values are two-sided and exact: sign flips of the paired differences, Wilcoxon's signed ranks, and "
        "the sign-flip p corrected for all comparisons of the table: jointly, by the largest |t| when a seed's "
        "differences change their signs together (max-T, stepped down), or by Holm's method where not every row has "
        "every seed."
    )


def _verdicts(study: Study, *, by_images: bool, alone: bool) -> str:
    """What the words of the last column stand for, where a table may have one comparison alone."""
    margin = "" if study.margin is None else f"'equivalent': the 90 % interval lies within ±{study.margin:g}. "
    holds = ""
    if by_images:
        holds = " It is about other seeds on these images, so an interval that also covers other images may contain 0."
    elif alone:
        # The limit of two rows is that of a one-sided test at 5 %; of three it is that of the interval.
        holds = " Of two rows the limit is one-sided, so the 95 % interval may still contain 0."
    return (
        f"{margin}'better' and 'worse': the paired t over the seeds is beyond its limit for all rows of the table "
        f"together; unlike the exact p it takes the differences as normal, and so can decide with fewer seeds."
        f"{holds} All else is 'not told apart', which is no proof that there is no difference."
    )


def _said_once(floors: Sequence[tuple[str, str]]) -> list[str]:
    """What n allows, by condition, or once where all say the same."""
    if len({words for _, words in floors}) == 1:
        floors = [("", floors[0][1])]
    sentences = [f"On {short(where)}, {words}." if where else f"{words}." for where, words in floors]
    return [capital(text) for text in sentences]


def _comparison_table(study: Study, group: Group, chosen: Row, found: Sequence[RowComparison]) -> Table:
    by_images = any(item.both for item in found)
    headings = ["against", "difference", "95 % interval" if by_images else "95 % t interval"]
    headings += ["of seeds", "of images"] if by_images else ["95 % bootstrap"]
    if study.split == TEST:
        jointly = any(item.jointly for item in found)
        headings += ["P(better)", "p sign flip", "p Wilcoxon", "p joint" if jointly else "p Holm"]
    headings.append("pairs")
    if study.split == TEST:
        headings.append("verdict")
    left = (0, len(headings) - 1) if study.split == TEST else (0,)
    return Table(
        columns(*headings, left=left),
        tuple(_comparison_line(study, group, item, by_images=by_images) for item in found[:_MOST_ROWS]),
        caption=f"{_named(group, chosen)} against the others" + (f" on {short(group.label)}" if group.label else ""),
    )


def _comparison_line(study: Study, group: Group, item: RowComparison, *, by_images: bool) -> Line:
    entries = [
        _named(group, item.other),
        signed(item.difference, study.digits),
        interval(item.interval, study.digits, with_sign=True),
        *(_parts(item.both, study.digits) if by_images else (interval(item.bootstrap, study.digits, with_sign=True),)),
    ]
    if study.split == TEST:
        entries += [
            number(item.improvement, 2),
            *((p_value(item.sign_flip.p), p_value(item.wilcoxon.p)) if item.n > 1 else (DASH, DASH)),
            DASH if item.corrected is None else p_value(item.corrected),
        ]
    verdict = (item.verdict or DASH,) if study.split == TEST else ()
    return Line((*entries, str(item.n), *verdict))


def _parts(both: TwoWay | None, digits: int) -> tuple[str, str]:
    """The standard errors over other seeds and over other images, with a digit more than the metric has."""
    if both is None:
        return DASH, DASH
    seeds = DASH if both.of_seeds is None else number(math.sqrt(both.of_seeds), digits + 1)
    return seeds, number(math.sqrt(both.of_images), digits + 1)


def by_seeds_and_images(study: Study) -> Iterable[Section]:
    """How far each row's mean may be off, with other seeds and with other test images."""
    lines = []
    for row in study.rows[:_MOST_ROWS]:
        both = study.evidence.of(row)
        if both is None:
            continue
        lines.append(
            Line(
                (
                    short(row.label),
                    number(both.mean, study.digits),
                    *_parts(both, study.digits),
                    interval(study.interval(row), study.digits),
                    interval(study.interval_over_seeds(row), study.digits),
                    count(both.images),
                    str(both.seeds),
                ),
                strong=study.is_chosen(row),
            )
        )
    if not lines:
        return
    told = (
        "How far each mean may be off: 'of seeds' is its standard error with other seeds on the same test images, 'of "
        "images' that with other images and the same trained models. The interval is over both; the t interval over "
        "the seeds alone says nothing about other images, and one seed says nothing about other seeds."
    )
    headings = ("setting", "mean", "of seeds", "of images", "95 % interval", "95 % t over seeds", "images", "seeds")
    yield Section("Other seeds, other images", (told,), (Table(columns(*headings), tuple(lines)),), folded=True)


def by_sample(study: Study) -> Iterable[Section]:
    """McNemar's test of the chosen row's models against the references', where predictions are right or wrong."""
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
    sentences = (
        "McNemar's exact test on the test samples that only one of two models gets right. It speaks about these "
        "trained models, seed by seed, not about the strategies that made them."
    )
    headings = ("chosen", "other", "seed", "only chosen right", "only other right", "samples", "p")
    yield Section(
        "Sample by sample", (sentences,), (Table(columns(*headings, left=(0, 1)), tuple(lines)),), folded=True
    )


def by_image_score(study: Study) -> Iterable[Section]:
    """The chosen row's scores of the test images against the references', where an image has a score."""
    lines, of = [], ""
    for group in study.conditions[:_MOST_CONDITIONS]:
        if group.chosen is None:
            continue
        references = (study.probe_of(group.chosen), study.full_of(group.chosen))
        others = [row for row in references if row is not None and row is not group.chosen]
        for item in image_comparisons(study, group.chosen, others):
            of = of or next((run.image_score for run in group.chosen.runs.values()), "")
            lines.append(
                Line(
                    (
                        short(group.chosen.label),
                        short(item.other.label),
                        signed(item.result.mean, study.digits),
                        interval(item.result.interval, study.digits, with_sign=True),
                        p_value(item.result.p),
                        count(item.result.images),
                        str(item.seeds),
                    )
                )
            )
    if not lines:
        return
    about = (
        f"The score of a test image: {of}. Differences are chosen less other, of each image's mean over the common "
        "seeds; the interval resamples images, and p is Wilcoxon's signed-rank test. Both speak about these trained "
        "models on other images, not about other seeds."
    )
    headings = ("chosen", "other", "mean difference", "95 % bootstrap", "p", "images", "seeds")
    yield Section("Image by image", (about,), (Table(columns(*headings, left=(0, 1)), tuple(lines)),), folded=True)


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
