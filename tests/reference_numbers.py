"""The numbers that tiny runs give on a CPU: while they stay, so may `IDENTITY_FORMAT`; see `test_identity_format`.

``python -m tests.reference_numbers`` writes them anew, after the format was raised.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.conftest import TINY
from thawline.cli import main
from thawline.planning.plan import IDENTITY_FORMAT
from thawline.records import Record, load_record

FILE = Path(__file__).with_suffix(".json")
RUNS = {
    "probe": ("freeze_policy=linear_probe", "optimizer.lr=0.5"),
    "last_k": ("freeze_policy.k=2", "scheduler=cosine", "trainer.gradient_clip=1.0", "loss.label_smoothing=0.1"),
    "full": ("freeze_policy=full", "optimizer=adamw", "optimizer.lr=0.001", "learning_rates=layer_decay"),
}


def numbers(record: Record) -> dict[str, float | None]:
    """Training and validation loss of each epoch, and the test loss."""
    losses = {
        f"epoch {row['epoch']} {part}/loss": row[f"{part}/loss"] for row in record.history for part in ("train", "val")
    }
    return losses | {"test/loss": record.metrics["test"]["loss"]}


def _write() -> None:
    found = {}
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            place = (f"output_dir={folder}/out", f"cache.dir={folder}/cache")
            if main(["train", *TINY, *overrides, *place]):
                raise SystemExit(f"{name} failed")
            (run,) = Path(folder, "out", "runs").iterdir()
            found[name] = numbers(load_record(run))
    FILE.write_text(json.dumps({"identity_format": IDENTITY_FORMAT, "runs": found}, indent=2) + "\n")


if __name__ == "__main__":
    _write()
