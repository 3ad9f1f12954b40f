"""thawline against two peers that people use: features and scikit-learn, and Lightning's ``BackboneFinetuning``.

Each comparison is made three times, the two one after the other and in turn first, so that what else the machine does
meets both.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.images import REPOSITORY, shared_data, small_images
from benchmarks.jobs import Setup, command, records
from benchmarks.measure import Cost, cost_of

TITLE = "scikit-learn's logistic regression, and BackboneFinetuning"
PAIRS, SEEDS = 3, 3
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
_FROZEN_EPOCHS = 2
_NOTE = """Costs are CPU seconds of whole processes. Each ratio is the median of {pairs} paired runs, which take turns
in being first; in brackets the least and the greatest. *Probe*: features of a frozen network once, then scikit-learn's
`LogisticRegression` for {strengths} strengths (`benchmarks/peer_probe.py`), and `probe=lbfgs_path` for the same ones;
{same} *Fine-tuning*: Lightning's `BackboneFinetuning` as its documentation writes it (`benchmarks/peer_finetuning.py`),
the backbone frozen for {frozen} of {epochs} epochs, one job counted for each of {seeds} seeds; and
`freeze_policy=lp_ft` for as many epochs and seeds in one command. These are not the same numbers: the callback lets
the batch norms of the frozen backbone train, so that there is no frozen side to be stored, and raises the backbone's
learning rate by half in each epoch, where here it stays a tenth of the head's. Accuracies are those of the best epoch
on validation, the range over the runs."""


@dataclass
class _Row:
    name: str
    peer: list[float]
    ours: list[float]
    numbers: tuple[str, str] = ("-", "-")


def peers_section(place: Path, *, smoke: bool = False) -> list[str]:
    """Measure both; the lines of the section. With `smoke` one pair and two epochs: whether it runs."""
    folder, images = place / "peers", place / "small"
    folder.mkdir()
    said = small_images(images) if not images.is_dir() else "The same images"
    setup = Setup("mobilenetv2_100", "mobilenetv2", 64, epochs=2 if smoke else 5)
    weights = _weights(folder)
    pairs = range(1 if smoke else PAIRS)
    probe, again, differing = _probe(setup, images, folder, pairs)
    frozen = min(_FROZEN_EPOCHS, setup.epochs - 1)
    rows = [probe, again, _finetuning(setup, images, folder, pairs, frozen)]
    of = f"of the {len(STRENGTHS) * len(pairs)} accuracies on validation"
    about = {"pairs": len(pairs), "strengths": len(STRENGTHS), "frozen": frozen}
    about |= {"epochs": setup.epochs, "seeds": SEEDS}
    text = _NOTE.format(**about, same=f"{differing} {of} differ." if differing else f"none {of} differs.")
    columns = ("task", "peer, CPU s", "thawline, CPU s", "ratio", "accuracy (peer)", "accuracy (thawline)")
    return [
        f"{setup.title}, {weights}. {said}.",
        "",
        *textwrap.wrap(text.replace("\n", " "), 120, break_on_hyphens=False),
        "",
        f"| {' | '.join(columns)} |",
        "|---|" + "---:|" * (len(columns) - 1),
        *map(_line, rows),
    ]


def _weights(folder: Path) -> str:
    """ImageNet's weights where they are there; random ones are made otherwise."""
    shared = shared_data()
    if shared is None:
        return "random weights"
    import torch
    from safetensors.torch import save_file

    state = torch.load(shared / "weights" / "mobilenetv2_100.imagenet1k.pth", weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "weights.safetensors")
    return "ImageNet weights"


def _probe(setup: Setup, images: Path, folder: Path, pairs: Sequence[int]) -> tuple[_Row, _Row, int]:
    """The probe from nothing, the same with other strengths on the store, and how many accuracies differ."""
    path = (f"probe.c_min={min(STRENGTHS)}", f"probe.c_max={max(STRENGTHS)}", f"probe.steps={len(STRENGTHS)}")
    fixed = ("freeze_policy=linear_probe", "probe=lbfgs_path")
    first, again = _Row("probe", [], []), _Row("probe, other strengths on the store", [], [])
    differing, best = 0, list[tuple[float, float]]()
    for pair in pairs:
        store = (f"output_dir=probe{pair}", f"cache.dir=probe{pair}/cache")
        script = [_script("peer_probe.py"), *_about(setup, images), "--strengths", *map(str, STRENGTHS)]
        ours = command(setup, images, folder, *fixed, *path, *store)
        peer, own = _pair(pair, script, ours, folder)
        (record,) = records(folder, f"probe{pair}").values()
        accuracies = [row["val/top1"] for row in record["history"]]
        theirs = json.loads(peer.output)
        differing += sum(abs(one - other) > 1e-6 for one, other in zip(theirs, accuracies, strict=True))
        best.append((max(theirs), max(accuracies)))
        first.peer.append(peer.seconds)
        first.ours.append(own.seconds)
        other = cost_of(command(setup, images, folder, *fixed, "probe.steps=7", *path[:2], *store), folder)
        again.peer.append(peer.seconds)
        again.ours.append(other.seconds)
    first.numbers = _range([one for one, _ in best]), _range([other for _, other in best])
    return first, again, differing


def _finetuning(setup: Setup, images: Path, folder: Path, pairs: Sequence[int], frozen: int) -> _Row:
    row, theirs, accuracies = _Row(f"fine-tuning, {SEEDS} seeds", [], []), list[float](), list[float]()
    for pair in pairs:
        seeds = f"seed=range({SEEDS * pair},{SEEDS * (pair + 1)})"
        store = (f"output_dir=tuned{pair}", f"cache.dir=tuned{pair}/cache")
        script = [
            _script("peer_finetuning.py"), *_about(setup, images), "--epochs", str(setup.epochs),
            "--unfreeze-at", str(frozen), "--seed", str(pair),
        ]  # fmt: skip
        rates = ("optimizer=adamw", "optimizer.weight_decay=0", "optimizer.lr=1e-4", "learning_rates.head=10")
        policy = ("freeze_policy=lp_ft", f"freeze_policy.probe.epochs={frozen}", "scheduler=constant")
        peer, own = _pair(pair, script, command(setup, images, folder, *policy, *rates, seeds, *store), folder)
        row.peer.append(SEEDS * peer.seconds)
        row.ours.append(own.seconds)
        theirs.append(max(json.loads(peer.output)))
        found = records(folder, f"tuned{pair}").values()
        accuracies += [max(line["val/top1"] for line in record["history"]) for record in found]
    row.numbers = _range(theirs), _range(accuracies)
    return row


def _pair(number: int, peer: list[str], ours: list[str], folder: Path) -> tuple[Cost, Cost]:
    """What both cost; the first pair begins with the peer, the next one with thawline."""
    if number % 2:
        own = cost_of(ours, folder)
        return cost_of(peer, folder), own
    return cost_of(peer, folder), cost_of(ours, folder)


def _about(setup: Setup, images: Path) -> list[str]:
    return [
        "--root",
        str(images),
        "--model",
        setup.model,
        "--weights",
        "weights.safetensors",
        "--size",
        str(setup.size),
    ]


def _script(name: str) -> str:
    return str(REPOSITORY / "benchmarks" / name)


def _line(row: _Row) -> str:
    ratios = [peer / ours for peer, ours in zip(row.peer, row.ours, strict=True)]
    ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    cells = [row.name, f"{median(row.peer):.1f}", f"{median(row.ours):.1f}", ratio, *row.numbers]
    return f"| {' | '.join(cells)} |"


def _range(values: Sequence[float]) -> str:
    low, high = (f"{bound:.3f}" for bound in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
