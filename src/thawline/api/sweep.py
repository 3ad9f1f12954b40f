"""A sweep in Python: its runs and results as tables, the best run, the figure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.api.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from thawline.records.protocol import ProtocolManifest
    from thawline.reports import loading
    from thawline.reports.study import Study


class Sweep:
    """A sweep, as it was on disk when it was first looked at; only finished runs have results.

    Args:
        folder: the sweep's folder, or a folder of runs.
        allow: packages of your own that the runs' classes are from.

    Attributes:
        folder: the sweep's folder.
    """

    def __init__(self, folder: Path, *, allow: Sequence[str] = ()) -> None:
        self.folder = folder
        self._allow = tuple(allow)

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._loaded.name

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run, also for one that is not done: swept values, metrics, costs; the index is the identity.

        These are the columns of the report's ``runs.csv``.
        """
        import pandas as pd

        return pd.DataFrame(self._run_rows()).set_index("identity")

    @property
    def table(self) -> pd.DataFrame:
        """A row for each setting: mean, standard deviation and 95 % interval over its seeds, parameters and costs.

        These are the columns of the report's ``table.csv``.

        Raises:
            UsageError: no run is done.
        """
        import pandas as pd

        from thawline.reports.tables import table_rows

        return pd.DataFrame(table_rows(self._study))

    @property
    def best(self) -> Run:
        """The run that is best on validation, by the metric that its checkpoint was selected by.

        Where runs tie, the metric that the records name decides, and then the fewest trained parameters.

        Raises:
            UsageError: no run is done, or all of them diverged.
        """
        return Run(self._study.best_run.folder, allow=self._allow)

    def predict(self, images: Any) -> pd.DataFrame:
        """What the best run's model says of images; see `Run.predict`."""
        return self.best.predict(images)

    def export(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        format: str | None = None,  # noqa: A002
        force: bool = False,
    ) -> Path:
        """Write the best run's model, whose card says how it was chosen; see `Run.export`."""
        from thawline.commands.finding import best_run

        found = best_run(self._study)
        return Run(found.folder, allow=self._allow)._exported(output, format, force=force, chosen=found.why)

    @property
    def protocol(self) -> ProtocolManifest | None:
        """The protocol whose test stage this sweep is: its stages, what was compared and what was chosen; or None.

        Raises:
            UsageError: its file is damaged.
        """
        from thawline.sweeps.manifest import read_protocol

        return read_protocol(self.folder)

    def figure(self) -> Figure:
        """The figure of the report, as a matplotlib figure.

        Raises:
            UsageError: no run is done.
        """
        from thawline.reports.figures import main_figure

        return main_figure(self._study)[0]

    def __len__(self) -> int:
        return len(self._loaded.cells)

    def __iter__(self) -> Iterator[Run]:
        """The runs that are done, in the order of the grid."""
        for run in self._loaded.runs:
            yield Run(run.folder, allow=self._allow)

    def __repr__(self) -> str:
        return f"<Sweep {self.name}: {len(self._loaded.runs)} of {len(self)} runs done>"

    @cached_property
    def _loaded(self) -> loading.LoadedSweep:
        from thawline.reports.loading import load_sweep

        return load_sweep(self.folder)

    @cached_property
    def _study(self) -> Study:
        from thawline.reports.study import make_study

        return make_study(self._loaded)

    def _run_rows(self) -> list[dict[str, object]]:
        from thawline.reports.tables import run_rows

        return run_rows(self._loaded)
