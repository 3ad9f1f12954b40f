"""What few seeds can show at all, in words."""

from __future__ import annotations

from thawline.errors import counted
from thawline.reports.study import Study
from thawline.statistics import smallest_p


def smallest_p_in_words(n: int, comparisons: int = 1) -> str:
    """What `n` pairs can show at all, to be said instead of printing stars."""
    floor = smallest_p(n)
    pairs = counted(n, "pair")
    text = f"with {pairs} of seeds no difference can reach p < {floor:.3g} (2/2^{n})"
    if floor >= 0.05:
        return f"{text}, so none is significant at 0.05 by these tests, however large it is"
    if comparisons > 1:
        corrected = min(1.0, floor * comparisons)
        text += f", and after Holm's correction over {comparisons} comparisons none can reach p < {corrected:.3g}"
        if corrected >= 0.05:
            text += ", so none is significant at 0.05 by these tests, however large it is"
    return text


def crossed_seeds(study: Study) -> list[str]:
    """That runs which share a seed of one kind count as independent, where seeds of two kinds are crossed."""
    axes = study.axes.replicates
    keys = {key[: len(axes)] for row in study.rows for key in row.runs}
    values = [len({key[place] for key in keys}) for place in range(len(axes))]
    if len(axes) < 2 or len(keys) <= max(values, default=0):
        return []
    crossed = " with ".join(f"{n} of {axis.rpartition('.')[2]}" for n, axis in zip(values, axes, strict=True))
    text = (
        f"Seeds are crossed, {crossed}: intervals and tests take the {len(keys)} combinations as independent, which "
        "those that share one are not, so they are surer than they should be. A data_seed that is not given follows "
        "the seed, and both vary together."
    )
    return [text]
