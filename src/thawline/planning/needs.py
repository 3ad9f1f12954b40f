"""What runs that are still to come will need at thaw lines: known early, so that one pass can serve many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LineNeed:
    """A phase that will need the values at its thaw line.

    Attributes:
        alike: equal for runs whose lines differ by what trains alone: same network, images and arithmetic.
        trainable: names of the parameters that train in the phase.
        running_statistics: as in `Phase`.
        trained: what the run's earlier phases train: values past any of it are the run's own.
        epochs: of the phase.
        run_epochs: of all the run's phases.
    """

    alike: str
    trainable: frozenset[str]
    running_statistics: str
    trained: frozenset[str]
    epochs: int
    run_epochs: int


class LineNeeds:
    """The needs of runs that have not ended, as far as this process knows them."""

    def __init__(self) -> None:
        self._of_runs: dict[str, Counter[LineNeed]] = {}

    def expect(self, name: str, needs: Iterable[LineNeed] | Mapping[LineNeed, int]) -> None:
        """A run with these needs is to come; or several, and how many of them have each need."""
        self._of_runs[name] = Counter(needs)

    def drop(self, name: str) -> None:
        """A run that was expected has ended."""
        self._of_runs.pop(name, None)

    def alike(self, key: str) -> Counter[LineNeed]:
        """The needs of runs that are alike (`LineNeed.alike`), and how many runs have each."""
        found = Counter[LineNeed]()
        for needs in self._of_runs.values():
            found.update({need: runs for need, runs in needs.items() if need.alike == key})
        return found
