"""How well settings tuned at one depth carry over to another: ``python rank_correlation.py outputs/sweeps/NAME``.

It reads the records of the tune stage of a protocol whose candidates are depths: all of them tried the same settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from thawline.records import load_record
from thawline.records.protocol import load_protocol

PROMOTED = 3


def values(folder: Path) -> tuple[list[str], NDArray[np.float64]]:
    """The names of the depths, and what every setting reached on validation at each: (depths, trials)."""
    protocol = load_protocol(folder)
    if protocol is None:
        raise SystemExit(f"{folder} holds no protocol")
    found = np.full((len(protocol.candidates), protocol.candidates[0].trials), np.nan)
    for stage in (stage for stage in protocol.stages if stage.purpose == "tune"):
        for point in stage.points:
            record = load_record(folder.parent.parent / "runs" / point.identity)
            found[point.candidate, point.trial or 0] = record.metrics["val"][record.headline]
    return [candidate.values["freeze_policy.k"] for candidate in protocol.candidates], found


def main() -> None:
    """Print the rank correlations, and what is lost where the best settings of one depth alone are tried at another."""
    depths, reached = values(Path(sys.argv[1]))
    heads = " | ".join(f"k = {k}" for k in depths)
    rule = " | ".join(["---:"] * len(depths))
    print(f"Spearman's rank correlation of the settings\n\n| | {heads} |\n| ---: | {rule} |")
    for k, row in zip(depths, reached, strict=True):
        print(f"| k = {k} | {' | '.join(f'{spearmanr(row, other).statistic:.2f}' for other in reached)} |")
    best = [", ".join(str(trial) for trial in np.argsort(-row, kind="stable")[:PROMOTED]) for row in reached]
    print(
        f"\nLost on validation at the depth of the column, if the {PROMOTED} best settings of the row alone are tried\n"
    )
    print(f"| tuned at | best trials | {heads} |\n| ---: | :--- | {rule} |")
    for k, row, names in zip(depths, reached, best, strict=True):
        promoted = np.argsort(-row, kind="stable")[:PROMOTED]
        lost = [other.max() - other[promoted].max() for other in reached]
        print(f"| k = {k} | {names} | {' | '.join(f'{value:.3f}' for value in lost)} |")


if __name__ == "__main__":
    main()
