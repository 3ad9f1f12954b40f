"""One process of a run on several devices: ``python -m thawline.runs.rank JOB_FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

from thawline.files import read_json
from thawline.runs.distributed import EPOCHS_FILE, end_with_parent, tell_epoch
from thawline.runs.experiment import execute
from thawline.runs.plan import plan_run
from thawline.runs.signals import Interrupted, listening
from thawline.runs.workbench import Workbench
from thawline.specs import allow_targets


def main(job_file: Path) -> int:
    """Run the job that the starting process left in `job_file`, and return the exit status."""
    end_with_parent()
    job = read_json(job_file)
    allow_targets(job["allow"])
    sys.argv = job["argv"]
    try:
        with listening():
            bench = Workbench()
            plan = plan_run(job["config"], job["overrides"], bench, job["label"])
            rows = job_file.with_name(EPOCHS_FILE)
            execute(plan, bench, group=job["group"], on_epoch=lambda row: tell_epoch(rows, row))
    except Interrupted as interruption:
        return interruption.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
