"""One process of a run on several devices: ``python -m thawline.runs.rank JOB_FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

from thawline.files import read_json
from thawline.runs.experiment import execute
from thawline.runs.plan import plan_run
from thawline.runs.workbench import Workbench
from thawline.specs import allow_targets


def main(job_file: Path) -> None:
    """Run the job that the starting process left in `job_file`."""
    job = read_json(job_file)
    allow_targets(job["allow"])
    bench = Workbench()
    plan = plan_run(job["config"], job["overrides"], bench)
    execute(plan, bench, group=job["group"], on_epoch=lambda row: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
