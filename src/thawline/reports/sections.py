"""The report's sections: the results, their evidence, what they cost, and how each number is made again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from thawline import statistics
from thawline.reports.contested import hard_images
from thawline.reports.data_set_sections import over_data_sets_sections
from thawline.reports.document import (
    DASH,
    Document,
    Line,
    Section,
    Table,
    capital,
    columns,
    count,
    mebibytes,
    number,
    seconds,
)
from thawline.reports.escaping import EN_DASH, command_line, plain
from thawline.reports.evidence import (
    by_image_score,
    by_sample,
    by_seeds_and_images,
    choice,
    compared,
)
from thawline.reports.figures import draw_changes, draw_curves
from thawline.reports.gallery import galleries
from thawline.reports.per_class import by_class
from thawline.reports.race import race
from thawline.reports.split_names import SPLIT_LABELS, TEST
from thawline.reports.study import Study
from thawline.reports.tables import (
    LONGEST_NAME,
    mean_sd,
    place_told,
    result_table,
    runs_told,
    short,
    ties_in_words,
)
from thawline.reports.training import recipe_rows
from thawline.reports.tuning import tuning
from thawline.reports.wording import answer, warnings

# A page is for reading; the CSV files hold everything, and where a list is cut the page says so.
_MOST_ROWS = 300
_MOST_COMMANDS = 200
_MOST_MISSING = 20
_MOST_VALUES = 4
_MOST_CONDITIONS = 12
_LONGEST_COMMAND = 2_000


def make_document(study: Study, figure_caption: str) -> Document:
    """The whole report of a study."""
    sections = tuple(section for sections_of in SECTIONS for section in sections_of(study))
    title = f"{'Sweep' if len(study.sweep.names) == 1 else 'Sweeps'} {plain(study.sweep.name, 80)}"
    return Document(title, answer(study), warnings(study), figure_caption, sections)


def _results(study: Study) -> Iterable[Section]:
    constant = ", ".join(f"{short(axis)}={short(value)}" for axis, value in study.axes.constant.items())
    told = (f"The same in every run: {constant}.",) if constant else ()
    yield Section("Results", told, (result_table(study, _MOST_ROWS),))


def _further_tests(study: Study) -> Iterable[Section]:
    if not study.further_tests:
        return
    corrupted = study.corrupted_tests
    sides = {split.removeprefix(f"{TEST}/"): (split,) for split in study.side_tests}
    tables = [_tests_table(study, sides)] if sides else []
    names = list(dict.fromkeys(name for name, _ in corrupted.values()))
    by_name = {name: [split for split, which in corrupted.items() if which[0] == name] for name in names}
    strengths = sorted({strength for _, strength in corrupted.values()})
    by_strength = {str(s): [split for split, which in corrupted.items() if which[1] == s] for s in strengths}
    if len(by_name) > 1:
        tables.append(_tests_table(study, by_name, "By corruption, the mean over its strengths"))
    if len(by_strength) > 1:
        tables.append(_tests_table(study, by_strength, "By strength, the mean over the corruptions"))
    told = f"{capital(study.metric_label)} of the same checkpoints on further test sets; nothing was chosen on them."
    yield Section("Further test sets", (told,), tuple(tables))


def _tests_table(study: Study, sets: Mapping[str, Sequence[str]], caption: str = "") -> Table:
    """A column per entry of `sets`, each the mean over its splits, beside the test split."""
    lines = [
        Line(
            (
                short(row.label),
                mean_sd(row.summary(TEST, study.metric), study.digits),
                *(mean_sd(row.summary_over(splits, study.metric), study.digits) for splits in sets.values()),
            ),
            strong=study.is_chosen(row),
        )
        for row in study.rows[:_MOST_ROWS]
    ]
    return Table(columns("setting", TEST, *sets), tuple(lines), caption=caption)


def _training(study: Study) -> Iterable[Section]:
    """The recipe of the runs, and their learning curves."""
    recipe = list(recipe_rows(study))
    curves = draw_curves(study)
    if not recipe and not curves:
        return
    told = (
        "The training recipe of the runs. Where runs differ, each value is followed by its number of runs in brackets."
    )
    tables = (_key_values("", recipe),) if recipe else ()
    yield Section(
        "How the runs were trained",
        (told,) if recipe else (),
        tables,
        drawings=curves,
        chart="curves" if curves else "",
    )


def _changes(study: Study) -> Iterable[Section]:
    drawings = draw_changes(study)
    if drawings:
        told = "How far training moved the weights of each layer group from the source. The numbers are in layers.csv."
        yield Section("What training changed", (told,), drawings=drawings, chart="changes")


def _cost(study: Study) -> Iterable[Section]:
    lines = [
        Line(
            (
                short(row.label),
                count(row.mean_of(lambda run: run.trainable)),
                _span(row.runs[key].epochs for key in row.runs),
                seconds(row.mean_of(lambda run: run.total_seconds)),
                seconds(row.mean_of(lambda run: run.train_seconds)),
                seconds(row.mean_of(lambda run: run.evaluate_seconds)),
                mebibytes(row.mean_of(lambda run: run.peak_memory_bytes)),
                runs_told(row),
            ),
            strong=study.is_chosen(row),
        )
        for row in study.rows[:_MOST_ROWS]
    ]
    runs = study.sweep.runs
    total = sum(run.total_seconds for run in runs)
    epochs = _span(run.epochs for run in runs)
    given = _span(len(row.runs) for row in study.rows)
    took = f"All {len(runs)} runs took {seconds(total)} s together, one after the other."
    if len(runs) == 1:
        took = f"The one run took {seconds(total)} s."
    told = (
        f"{took} The budget of every row: {given} {'run' if given == '1' else 'runs'} of {epochs} "
        f"{'epoch' if epochs == '1' else 'epochs'}."
    )
    headings = ("setting", "trainable", "epochs", "seconds", "training s", "evaluation s", "peak MiB", "runs")
    note = (
        "Means over the runs. Seconds are wall-clock, memory is the peak of the process (CPU) or of the device (GPU). "
        "The cost of a pass over the images is divided among the runs that read its stored values."
    )
    yield Section("Cost", (told,), (Table(columns(*headings), tuple(lines), note=note),), chart="cost")


def _before(study: Study) -> Iterable[Section]:
    splits = sorted({split for run in study.sweep.runs for split in run.metrics if split.startswith("before/")})
    if not splits:
        return
    lines = []
    for group in (study.series or study.conditions)[:_MOST_ROWS]:
        runs = [run for row in group.rows for run in row.runs.values()]
        values = [
            [run.metrics[s][study.metric] for run in runs if study.metric in run.metrics.get(s, {})] for s in splits
        ]
        told = [mean_sd(statistics.summary(sample), study.digits) for sample in values]
        lines.append(Line((short(group.label) or "all runs", *told, str(len(runs)))))
    headings = ("line" if study.series else "condition", *(split.removeprefix("before/") for split in splits), "runs")
    text = f"{capital(study.metric_label)} of the transferred network before any training, over all runs."
    yield Section("Before tuning", (text,), (Table(columns(*headings), tuple(lines)),))


def _every_run(study: Study) -> Iterable[Section]:
    digits = study.digits
    splits = study.splits
    lines = []
    for row in study.rows[:_MOST_ROWS]:
        summary = row.summary(study.split, study.metric)
        finite = [value for value in row.scores(study.split, study.metric).values() if value == value]
        lines.append(
            Line(
                (
                    short(row.label),
                    *(_listed(row.scores(split, study.metric).values(), digits) for split in splits),
                    number(summary.mean, digits),
                    number(summary.sd, digits),
                    number(statistics.interquartile_mean(finite), digits) if finite else DASH,
                    str(summary.n),
                ),
                strong=study.is_chosen(row),
            )
        )
    seeds = ", ".join(axis.rpartition(".")[2] for axis in study.axes.replicates) or "one run"
    note = f"In the order of the sweep ({seeds}). IQM is the interquartile mean; below four runs it is the mean."
    each = (f"{SPLIT_LABELS[split]}, each run" for split in splits)
    headings = ("setting", *each, f"{study.split_label} mean", "sd", "IQM", "n")
    table = Table(columns(*headings, left=range(len(splits) + 1)), tuple(lines), note=note)
    yield Section("Every run", (), (table,), folded=True, chart="runs")


def _missing(study: Study) -> Iterable[Section]:
    missing = [cell for cell in study.sweep.cells if cell.run is None]
    if not missing:
        return
    lines = [
        Line((plain(cell.identity, LONGEST_NAME), place_told(cell.values) or DASH, plain(cell.problem, 120)))
        for cell in missing[:_MOST_MISSING]
    ]
    one = len(study.sweep.commands) < 2
    command = "Repeating the command of the sweep runs" if one else "Repeating the commands of the sweeps runs"
    told = [f"{command} only what is missing."]
    if len(missing) > _MOST_MISSING:
        told.append(f"The first {_MOST_MISSING} of {len(missing)}; all of them are in runs.csv.")
    table = Table(columns("identity", "cell", "problem", left=(0, 1, 2)), tuple(lines))
    yield Section("Not done", tuple(told), (table,), code="\n".join(_sweep_commands(study)))


def _rebuild(study: Study) -> Iterable[Section]:
    told = ["Each run is named by its identity, a hash of everything that affects its numbers. To reproduce a run:"]
    commands = []
    for cell in [cell for cell in study.sweep.cells if cell.run is not None][:_MOST_COMMANDS]:
        commands.append(f"{_cut(command_line(cell.command))}  # {plain(cell.identity, LONGEST_NAME)}")
    done = len(study.sweep.cells) - study.missing
    if done > _MOST_COMMANDS:
        told.append(f"The first {_MOST_COMMANDS} of {done}; all of them are in runs.csv.")
    whole = _sweep_commands(study)
    sweep = [f"# the whole sweep{'s' if len(whole) > 1 else ''}", *whole, ""] if whole else []
    yield Section("How to reproduce each number", tuple(told), code="\n".join([*sweep, *commands]), folded=True)


def _provenance(study: Study) -> Iterable[Section]:
    values: dict[str, dict[str, int]] = {}
    for run in study.sweep.runs:
        splits = [(f"{name} split", f"{samples} samples, sha256 {sha256}") for name, samples, sha256 in run.splits]
        for key, value in (*run.provenance, *splits):
            tally = values.setdefault(key, {})
            tally[value] = tally.get(value, 0) + 1
    if not values:
        return
    runs = len(study.sweep.runs)
    same = [(key, next(iter(tally))) for key, tally in values.items() if list(tally.values()) == [runs]]
    differing = [(key, tally) for key, tally in values.items() if list(tally.values()) != [runs]]
    tables = [_key_values("the same in every run", [(key, value or DASH) for key, value in same])]
    if differing:
        tables.append(_key_values("not the same in every run", [(key, _tally(tally)) for key, tally in differing]))
    counts = Counter(note for run in study.sweep.runs for note in run.notes)
    notes = tuple(f"In {n} of {runs} runs: {plain(note, 300)}" for note, n in list(counts.items())[:_MOST_MISSING])
    yield Section("Where the numbers come from", notes, tuple(table for table in tables if table.lines), folded=True)


def _method(study: Study) -> Iterable[Section]:
    rows = (
        "Each row is a setting of the sweep, over its seeds. k is the number of layer groups that train"
        f"{', ' + study.axes.how_counted if study.axes.how_counted else ''}; k = 0 trains the head alone, 'in part' "
        f"means that only some parameters of these groups train. {_chosen(study)} {_kept(study)}; {_opened(study)}."
    )
    numbers = (
        f"Standard deviations have n - 1 in the denominator. The interval of a mean is the {study.interval_label}, cut "
        "off at the metric's bounds. Rows share their seeds, so differences are paired. A "
        "missing number is a dash, never zero. docs/statistics.md explains each number with its source."
    )
    yield Section("How this is computed", (rows, numbers), folded=True)


def _opened(study: Study) -> str:
    if not study.any_tested:
        return "no run opened the test set"
    which = "per run" if not study.untested else "by the runs that open it at all"
    return f"the test set is opened once {which}, after that"


def _chosen(study: Study) -> str:
    """How a row is chosen."""
    if not study.any_validated:
        return "No row is chosen: no run has validation images."
    best = "largest" if study.mode == "max" else "smallest"
    by = f"{best} {study.metric_label} on validation, a mean over its runs; {ties_in_words(study)}"
    return f"A row is chosen by the {by}."


def _kept(study: Study) -> str:
    """Which epoch of a run is kept."""
    last = "keeps its last epoch: it trained on its validation images, too"
    if not study.any_validated:
        return f"A run {last}"
    told = f"A run's checkpoint is selected on validation by {_selected(study)}"
    return f"{told}, and a run without validation images {last}" if study.unvalidated else told


def _selected(study: Study) -> str:
    """What the runs selected their checkpoint by, and how they told equals apart."""
    rules: dict[str, None] = {}
    for run in study.sweep.runs:
        if not run.is_validated:
            continue
        monitor = run.definitions[run.monitor.removeprefix("val/")].label
        tie_break = run.selection_tie_break and run.definitions[run.selection_tie_break.removeprefix("val/")].label
        rules[f"{monitor}, ties by {tie_break}" if tie_break else f"{monitor}, of equals the first"] = None
    return " or ".join(rules)


def _listed(values: Iterable[float], digits: int) -> str:
    told = [number(value, digits) if value == value else "diverged" for value in values]
    return " ".join(told[:10]) + (f" … ({len(told)})" if len(told) > 10 else "") if told else DASH


def _span(values: Iterable[int]) -> str:
    seen = sorted(set(values))
    if not seen:
        return DASH
    return str(seen[0]) if len(seen) == 1 else f"{seen[0]}{EN_DASH}{seen[-1]}"


def _sweep_commands(study: Study) -> list[str]:
    """The commands of the sweeps, with every word as it was given."""
    told = []
    for command in study.sweep.commands:
        try:
            told.append(_cut(command_line(shlex.split(command))))
        except ValueError:
            told.append(_cut(plain(command)))
    return told


def _cut(command: str) -> str:
    return command if len(command) <= _LONGEST_COMMAND else "# too long to show here: see runs.csv"


def _key_values(caption: str, pairs: Sequence[tuple[str, str]]) -> Table:
    lines = tuple(Line((short(key), plain(value, 160))) for key, value in pairs)
    return Table(columns("what", "value", left=(0, 1)), lines, caption=capital(caption))


def _tally(tally: Mapping[str, int]) -> str:
    told = [f"{plain(value, 60) or DASH} ({n})" for value, n in list(tally.items())[:_MOST_VALUES]]
    return ", ".join(told) if len(tally) <= _MOST_VALUES else f"{len(tally)} values, among them {', '.join(told[:2])}"


SECTIONS: tuple[Callable[[Study], Iterable[Section]], ...] = (
    _results,
    choice,
    compared,
    by_seeds_and_images,
    by_sample,
    by_image_score,
    over_data_sets_sections,
    race,
    tuning,
    _further_tests,
    _training,
    _changes,
    _cost,
    _before,
    by_class,
    galleries,
    hard_images,
    _every_run,
    _missing,
    _rebuild,
    _provenance,
    _method,
)
"""The sections of a report in their order: each gives what it has to show of a study, or nothing."""
