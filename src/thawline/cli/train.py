"""``thawline train``: one run, or with ``-m`` a grid of runs."""

from __future__ import annotations

import sys


def run(argv: list[str]) -> int:
    """Train, and show what was made; see ``thawline train --help``."""
    from thawline.commands.diagnosis import is_override
    from thawline.commands.outcome import FinishedRun, SweepIncomplete
    from thawline.commands.training import train
    from thawline.ledger.runs import RunFailed

    asked = [argument for argument in argv if not argument.startswith("-") and not is_override(argument)]
    if asked and {"--help", "-h"} & set(argv):
        from thawline.cli import explain

        return explain.run(asked)
    try:
        made = train(argv)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SweepIncomplete as error:
        from thawline.cli.reporting import print_sweep

        print_sweep(error.finished)
        return 1
    if made is not None:
        from thawline.cli.reporting import print_run, print_sweep

        if isinstance(made, FinishedRun):
            print_run(made.plan)
        else:
            print_sweep(made)
    return 0
