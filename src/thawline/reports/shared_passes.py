"""What runs cost where one of them has stored values that others read: each pays its share of the pass."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

from thawline.reports.loaded_run import LoadedRun


def with_shares(runs: Mapping[str, LoadedRun]) -> dict[str, LoadedRun]:
    """The runs, by their names, with the cost of passes over the images shared by those that read what these stored.

    The share of each line (`PassedLine.share`) is paid in equal parts by the runs that read its values; where none of
    these runs does, by the run that made the pass. So the sum over the runs stays what it was.
    """
    readers = defaultdict(list)
    for name, run in runs.items():
        for entry in run.entries:
            readers[entry].append(name)
    seconds: dict[str, float] = defaultdict(float)
    cpu_seconds: dict[str, float] = defaultdict(float)
    for name, run in runs.items():
        for made in run.passes:
            for line in made.lines:
                paying = readers[line.entry] or [name]
                for added, cost in ((seconds, made.seconds), (cpu_seconds, made.cpu_seconds)):
                    added[name] -= line.share * cost
                    for each in paying:
                        added[each] += line.share * cost / len(paying)
    return {
        name: dataclasses.replace(
            run,
            total_seconds=run.total_seconds + seconds[name],
            cpu_seconds=None if run.cpu_seconds is None else run.cpu_seconds + cpu_seconds[name],
        )
        for name, run in runs.items()
    }
