"""What is to be known of the precision of runs on this CPU before they start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from thawline.commands.console import console, errors
from thawline.records import RECORD_FILE

if TYPE_CHECKING:
    from thawline.planning.plan import Plan
    from thawline.planning.session import Session


def print_precision(plans: Sequence[Plan], session: Session) -> None:
    """Print where bfloat16 would pay, and warn where it does not; of runs that are to come, and each text once."""
    from thawline.planning.half_precision import advice, caution
    from thawline.runtime.bfloat16 import bfloat16_instructions

    has = bfloat16_instructions()
    to_come = [
        (plan, session.networks.skeleton(plan.settings).module)
        for plan in plans
        if not (plan.folder / RECORD_FILE).is_file()
    ]
    for text in dict.fromkeys(caution(*each, has) for each in to_come):
        if text:
            errors.print(f"[yellow]warning[/]: {escape(text)}", highlight=False, soft_wrap=True)
    for text in dict.fromkeys(advice(*each, has) for each in to_come):
        if text:
            console.print(f"[cyan]faster[/]: {escape(text)}", highlight=False, soft_wrap=True)
