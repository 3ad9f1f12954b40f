"""One process of a run on several devices: ``python -m thawline.execution.rank JOB_FILE PARENT``."""

from __future__ import annotations

import sys
from pathlib import Path

from thawline.runtime.processes import end_with_parent


def main(job_file: Path, parent: int) -> int:
    """Run the job that the process `parent` left in `job_file`, and return the exit status."""
    # Before the imports, which take seconds: a parent that is killed meanwhile must not leave anything behind.
    end_with_parent(parent)
    from thawline.errors import usage_error
    from thawline.execution.distributed import EPOCHS_FILE, tell_epoch
    from thawline.execution.run import execute
    from thawline.files import read_json
    from thawline.invocation import Invocation
    from thawline.planning.context import RunContext
    from thawline.planning.plan import plan_run
    from thawline.planning.session import Session
    from thawline.runtime.signals import Interrupted, listening
    from thawline.runtime.streams import show_everything

    job = read_json(job_file)
    show_everything()
    Invocation(**job["invocation"]).adopt()
    try:
        with listening():
            session = Session()
            plan = plan_run(job["config"], job["overrides"], session, job["label"])
            if plan.identity != job["identity"]:
                raise usage_error("", "the run's data, source weights or own code have changed since it was planned")
            rows = job_file.with_name(EPOCHS_FILE)
            execute(RunContext(plan, session), group=job["group"], on_epoch=lambda row: tell_epoch(rows, row))
    except Interrupted as interruption:
        return interruption.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
