"""``thawline`` and ``python -m thawline``."""

import atexit
import os
import sys
from typing import NoReturn

from thawline.cli import main


def run() -> NoReturn:
    """Run the command line and end the process, with its exit handlers run and its output written.

    Python would then take a million imported objects apart, one by one, for a second; the system needs no such thing.
    """
    status = main()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = status or 1
    os._exit(status)


if __name__ == "__main__":
    run()
