"""What is to be known of the data of runs before they start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from thawline.commands.console import console, errors

if TYPE_CHECKING:
    from thawline.planning.plan import Plan
    from thawline.sweeps.known import KnownPlan


def print_data(plans: Sequence[Plan] | Sequence[KnownPlan]) -> None:
    """Print the files left out of the data and the warnings of these runs, each once."""
    for left_out in dict.fromkeys(tuple(plan.splits.left_out.items()) for plan in plans):
        if left_out:
            listed = ", ".join(f"{count} {kind}" for kind, count in left_out)
            console.print(f"left out of the data: {escape(listed)}", highlight=False, soft_wrap=True)
    counts = Counter(warning for plan in plans for warning in plan.warnings)
    for warning, count in counts.items():
        where = "" if count == len(plans) else f" (in {count} of {len(plans)} runs)"
        errors.print(f"[yellow]warning[/]: {escape(warning)}{where}", highlight=False, soft_wrap=True)
