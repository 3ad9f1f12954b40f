"""The figure of a sweep, for a paper's column: accuracy against depth, or strategies side by side."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thawline.reports.depth_figure import depth_figure
from thawline.reports.figure_style import STYLE
from thawline.reports.strategy_figure import strategy_figure
from thawline.reports.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 300


@dataclass(frozen=True)
class Drawing:
    """A figure in its formats, and what is to be seen on it."""

    png: bytes
    pdf: bytes
    svg: bytes
    caption: str
    width_inches: float


def draw(study: Study) -> Drawing:
    """The figure of a study: lines along the depth axis where there is one, strategies side by side where not."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure, caption = depth_figure(study) if study.axes.depth else strategy_figure(study)
        # The layout is the same in every format: it is found once.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return Drawing(
            png=_saved(figure, "png", dpi=PNG_DPI, metadata={"Software": None}),
            # Without dates the same records give the same bytes.
            pdf=_saved(figure, "pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}),
            svg=_saved(figure, "svg", metadata={"Date": None, "Creator": None}),
            caption=caption,
            width_inches=float(figure.get_figwidth()),
        )


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
