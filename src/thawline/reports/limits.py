"""What few seeds can show at all, in words."""

from __future__ import annotations

from thawline.statistics import smallest_p


def smallest_p_in_words(n: int, comparisons: int = 1) -> str:
    """What `n` pairs can show at all, to be said instead of printing stars."""
    floor = smallest_p(n)
    pairs = f"{n} pair" if n == 1 else f"{n} pairs"
    text = f"with {pairs} of seeds no difference can reach p < {floor:.3g} (2/2^{n})"
    if floor >= 0.05:
        return f"{text}, so none can be called significant at 0.05, however large it is"
    if comparisons > 1:
        corrected = min(1.0, floor * comparisons)
        text += f", and after Holm's correction over {comparisons} comparisons none can reach p < {corrected:.3g}"
        if corrected >= 0.05:
            text += ", so none can be called significant at 0.05, however large it is"
    return text
