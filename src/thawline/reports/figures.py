"""The figure of a sweep, for a paper's column: the metric against depth, or strategies side by side."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from thawline.reports.change_figure import change_figure
from thawline.reports.changes import networks
from thawline.reports.curve_figure import curve_figure
from thawline.reports.data_set_figures import matrix_figure, profile_figure
from thawline.reports.depth_figure import depth_figure
from thawline.reports.document import Drawing
from thawline.reports.figure_style import STYLE
from thawline.reports.over_data_sets import OverDataSets
from thawline.reports.race_figure import race_figure
from thawline.reports.strategy_figure import strategy_figure
from thawline.reports.study import Study
from thawline.reports.tuning_figure import tuning_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure

    from thawline.reports.races import RaceOf
    from thawline.reports.tuning_curves import TunedGroup

PNG_DPI = 300
_MOST_NETWORKS = 3
_MOST_RACES = 3
_LAYERS = "layers"


def draw(study: Study) -> Drawing:
    """The figure of a study in its formats."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return _drawing("figure", *main_figure(study))


def main_figure(study: Study) -> tuple[Figure, str]:
    """The figure of a study: lines along the depth axis where there is one, strategies side by side where not."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return depth_figure(study) if study.axes.depth else strategy_figure(study)


def draw_changes(study: Study) -> tuple[Drawing, ...]:
    """Heat maps of what training changed in each layer group, one for each kind of network that the runs tell of."""
    import matplotlib as mpl

    found = list(networks(study).items())[:_MOST_NETWORKS]
    drawings = []
    with mpl.rc_context(STYLE):
        for place, (groups, rows) in enumerate(found):
            drawn = change_figure(study, groups, rows)
            if drawn is not None:
                drawings.append(_drawing(_LAYERS if len(found) == 1 else f"{_LAYERS}-{place + 1}", *drawn))
    return tuple(drawings)


def shows_layers(drawing: Drawing) -> bool:
    """Whether a drawing is one of `draw_changes`, whose numbers are in ``layers.csv``."""
    return drawing.name.startswith(_LAYERS)


def draw_curves(study: Study) -> tuple[Drawing, ...]:
    """The learning curves of every run; none where nothing was trained epoch by epoch."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = curve_figure(study)
        return (_drawing("curves", *drawn),) if drawn is not None else ()


def draw_tuning(study: Study, groups: Sequence[TunedGroup]) -> tuple[Drawing, ...]:
    """The tuning curves of each condition."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        names = ["tuning"] if len(groups) == 1 else [f"tuning-{place}" for place in range(1, len(groups) + 1)]
        return tuple(_drawing(name, *tuning_figure(study, group)) for name, group in zip(names, groups, strict=True))


def draw_over_data_sets(study: Study, found: OverDataSets) -> tuple[Drawing, ...]:
    """The matrix of pairs, and the performance profiles where there are differences to normalise."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        matrix = _drawing("matrix", *matrix_figure(study, found))
        return (matrix, _drawing("profiles", *profile_figure(study, found))) if found.normalised else (matrix,)


def draw_races(study: Study, races: Sequence[RaceOf]) -> tuple[Drawing, ...]:
    """How each race went."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        drawn = races[:_MOST_RACES]
        names = ["race"] if len(drawn) == 1 else [f"race-{place}" for place in range(1, len(drawn) + 1)]
        return tuple(_drawing(name, *race_figure(study, race)) for name, race in zip(names, drawn, strict=True))


def _drawing(name: str, figure: Figure, caption: str) -> Drawing:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # The layout is the same in every format: it is found once. Letters are as wide in it as in the image: at a coarse
    # resolution long labels would be cut off.
    figure.set_dpi(PNG_DPI)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    return Drawing(
        name=name,
        png=_printed(figure, FigureCanvasAgg(figure).print_png, {"Software": None}),
        # Without dates the same records give the same bytes.
        pdf=_printed(
            figure, FigureCanvasPdf(figure).print_pdf, {"CreationDate": None, "Creator": None, "Producer": None}
        ),
        svg=_printed(figure, FigureCanvasSVG(figure).print_svg, {"Date": None, "Creator": None}),
        caption=caption,
        width_inches=float(figure.get_figwidth()),
    )


def _printed(figure: Figure, print_to: Callable[..., Any], metadata: Mapping[str, None]) -> bytes:
    """The file that a canvas prints. `Figure.savefig` would lay the figure out again for each format."""
    stream = io.BytesIO()
    figure.set_dpi(PNG_DPI)  # printing as vectors leaves another
    print_to(stream, metadata=metadata)
    return stream.getvalue()
