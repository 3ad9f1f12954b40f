"""What was measured of one network on a GPU, and its table: of everything, or of what there was time for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.jobs import DEPTHS, Setup, depth_of, least_flops

PACKED = 64
COLUMNS = (
    "k", "plain, files, s", "plain, memory, s", "in the sweep, s", "ratio (files / memory)", "limit, s",
    "images/s (files / memory / thawline)", "share of the rate (memory / thawline)", "feature pass, s",
    "peak memory, MB (plain / thawline)",
)  # fmt: skip
_NONE = float("nan")


@dataclass
class Figures:
    """One network in one precision.

    Attributes:
        setup: what is compared.
        seeds: of each depth.
        kind: of the products whose rate is the limit.
        rate: measured FLOPs of a second of such products.
        images: what they are, in words.
        plain: what the jobs of the plain way printed.
        records: those of the sweep.
        ahead: those of runs whose images processes augment.
        sweep_seconds: wall seconds of the sweep.
        packed_seconds: wall seconds of a command of `PACKED` probes on the store.
        failed: what went wrong, in words.
    """

    setup: Setup
    seeds: int
    kind: str
    rate: float
    images: str = ""
    plain: Sequence[dict[str, Any]] = ()
    records: Sequence[dict[str, Any]] = ()
    ahead: Sequence[dict[str, Any]] = ()
    sweep_seconds: float = _NONE
    packed_seconds: float = _NONE
    failed: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Network, size and precision."""
        layout = ", channels last" if self.setup.channels_last else ""
        return f"{self.setup.title}, {self.setup.precision}{layout}"

    def lines(self) -> list[str]:
        """The section of the page."""
        setup = self.setup
        work = f"{setup.epochs} epochs, batch {setup.batch}, {self.seeds} seeds"
        rate = f"{self.rate / 1e12:.3g} TFLOP/s in {self.kind} products"
        return [
            f"{self.images}, for training and validation. {work}. {rate}.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---|" + "---:|" * (len(COLUMNS) - 1),
            *(f"| {' | '.join(row)} |" for row in self._rows()),
            *(f"\n{failure}" for failure in self.failed),
        ]

    def as_json(self) -> dict[str, Any]:
        """The numbers behind the table."""
        return {
            "rate": self.rate,
            "sweep_seconds": _or_none(self.sweep_seconds),
            "packed_seconds": _or_none(self.packed_seconds),
            "plain": list(self.plain),
            "thawline": [_kept(record) for record in self.records],
            "ahead": [_kept(record) for record in self.ahead],
        }

    def _rows(self) -> Iterator[list[str]]:
        for k in DEPTHS:
            yield self._row(k)
        plain = [sum(self._plain_seconds(k, read) for k in DEPTHS) for read in ("files", "memory")]
        yield _filled("all of these, the sweep", *_compared(plain, self.sweep_seconds))
        one = [self._plain_seconds("0", read) / self.seeds for read in ("files", "memory")]
        seconds = [record["cost"]["total_seconds"] for record in self._of("0")][1:]
        yield _filled("0, each further job", *_compared(one, median(seconds) if seconds else _NONE))
        if not math.isnan(self.packed_seconds):
            name = f"0, {PACKED} rates and decays on the store"
            yield _filled(name, *_compared([PACKED * each for each in one], self.packed_seconds))
        if self.ahead:
            row = _filled("all, augmented by processes")
            row[6] = f"- / - / {_number(self._images_per_second(self.ahead))}"
            yield row

    def _row(self, k: str) -> list[str]:
        plain = [self._plain_seconds(k, read) for read in ("files", "memory")]
        jobs, runs = [self._job(k, read) for read in ("files", "memory")], self._of(k)
        limit = self.seeds * least_flops(self.setup, runs[0], self.seeds) / self.rate if runs else _NONE
        speeds = [self._images_per_second([job] if job else []) for job in jobs] + [self._images_per_second(runs)]
        shares = (self._share(jobs[1], runs, stored=False), self._share(runs[-1] if runs else None, runs, stored=True))
        peaks = [max((job["peak_memory_bytes"] for job in jobs if job), default=_NONE)]
        peaks.append(max((record["cost"]["peak_memory_bytes"] for record in runs), default=_NONE))
        return [
            k,
            *_compared(plain, self._in_sweep(k)),
            _number(limit),
            " / ".join(map(_number, speeds)),
            " / ".join("-" if math.isnan(share) else f"{100 * share:.2g} %" for share in shares),
            _number(self._feature_pass(k)),
            " / ".join(_number(peak / 1e6) for peak in peaks),
        ]

    def _of(self, k: str) -> list[dict[str, Any]]:
        return [record for record in self.records if depth_of(record) == k]

    def _job(self, k: str, read: str) -> dict[str, Any] | None:
        place = DEPTHS.index(k)
        return next((job for job in self.plain if job["job"] == place and job["read"] == read), None)

    def _plain_seconds(self, k: str, read: str) -> float:
        """All seeds of a depth, each a process of its own."""
        job = self._job(k, read)
        parts = ("start_seconds", "read_seconds", "fit_seconds")
        return self.seeds * sum(job[part] for part in parts) if job else _NONE

    def _in_sweep(self, k: str) -> float:
        """A depth's share of the sweep: its own runs, its share of passes, an equal part of what belongs to no run."""
        seconds = {depth: sum(map(_without_passes, self._of(depth))) for depth in DEPTHS}
        passes = {depth: self._feature_pass(depth) for depth in DEPTHS}
        known = sum(seconds.values()) + sum(each for each in passes.values() if not math.isnan(each))
        own = seconds[k] + (0.0 if math.isnan(passes[k]) else passes[k])
        return own + (self.sweep_seconds - known) / len(DEPTHS)

    def _feature_pass(self, k: str) -> float:
        """The depth's shares of the passes that stored what its runs read."""
        entries = {entry for record in self._of(k) for entry in _line(record)["entries"]}
        passes = [each for record in self.records for each in _line(record)["passes"]]
        shares = [
            each["seconds"] * line["share"] for each in passes for line in each["lines"] if line["entry"] in entries
        ]
        return float(sum(shares)) if shares else _NONE

    def _images_per_second(self, done: Sequence[Mapping[str, Any]]) -> float:
        """Images of training and validation over the seconds of an epoch after the first."""
        seconds = [each for one in done for each in _epochs(one)]
        return self._passes() / median(seconds) if seconds else _NONE

    def _passes(self) -> float:
        splits = self.records[0]["splits"] if self.records else {}
        return float(sum(splits[part]["samples"] for part in ("train", "val"))) if splits else _NONE

    def _share(self, one: Mapping[str, Any] | None, runs: Sequence[Mapping[str, Any]], *, stored: bool) -> float:
        """What an epoch computes in a second, over what the device does in large products."""
        if one is None or not runs or not (seconds := _epochs(one)):
            return _NONE
        line = _line(runs[0])
        suffix, prefix = line.get("suffix_flops_per_sample"), line.get("prefix_flops_per_sample")
        if suffix is None:
            return _NONE
        train, val = (runs[0]["splits"][part]["samples"] for part in ("train", "val"))
        again = 0.0 if stored and line["stored"] else (train + val) * prefix
        return float(((3 * train + val) * suffix + again) / median(seconds) / self.rate)


def way_lines(ways: Sequence[Mapping[str, Any]], runs: Mapping[str, tuple[str, str, float]]) -> list[str]:
    """The table of other ways to take a suffix's steps.

    Args:
        ways: what `benchmarks.suffix_ways` printed.
        runs: folder -> title, depth, and FLOPs of a second in large products.
    """
    lines = [
        "| network | k | way | ms | limit, ms | as it is / this way | ready after, s |",
        "|---|---|---|" + "---:|" * 4,
    ]
    for way in ways:
        title, k, rate = runs[way["run"]]
        if "seconds" not in way:
            lines.append(f"| {title} | {k} | {way['way']} | {way.get('why_not', '-')} | - | - | - |")
            continue
        of_values = way["way"].startswith("values")
        first = "values from the store" if of_values else "as it is"
        base = next((each.get("seconds") for each in ways if (each["run"], each["way"]) == (way["run"], first)), None)
        ratio = way["seeds"] * base / way["seconds"] if base else _NONE
        limit = _NONE if of_values else way["seeds"] * way["flops"] / rate
        shown = [
            f"{1000 * way['seconds']:.3g}",
            _number(1000 * limit),
            f"{ratio:.2f}",
            f"{way['prepared_seconds']:.1f}",
        ]
        lines.append(f"| {title} | {k} | {way['way']} | {' | '.join(shown)} |")
    return lines


def _epochs(one: Mapping[str, Any]) -> list[float]:
    """Seconds of the epochs after the first, of a plain job or a run."""
    seconds: list[float] = one.get("epoch_seconds") or [row["seconds"] for row in one.get("history", ())]
    return seconds[1:] or seconds


def _line(record: Mapping[str, Any]) -> Mapping[str, Any]:
    line: Mapping[str, Any] = record["phases"][0]["thaw_line"]
    return line


def _without_passes(record: Mapping[str, Any]) -> float:
    """Seconds of a run, but for the passes over the images, of which other depths have their shares."""
    return float(record["cost"]["total_seconds"] - sum(each["seconds"] for each in _line(record)["passes"]))


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    line = _line(record)
    flops = {name: line.get(name) for name in ("prefix_flops_per_sample", "suffix_flops_per_sample")}
    return {
        "k": str(record["config"]["freeze_policy"]["k"]),
        "seed": record["config"]["seed"],
        "cost": record["cost"],
        "epoch_seconds": [row["seconds"] for row in record["history"]],
        "val_top1": [row["val/top1"] for row in record["history"]],
        "stored": line["stored"],
        "reason": line["reason"],
        "bytes_per_sample": line.get("bytes_per_sample"),
        "passes": line["passes"],
        **flops,
    }


def _compared(plain: Sequence[float], ours: float) -> list[str]:
    ratios = " / ".join("-" if math.isnan(each / ours) else f"{each / ours:.1f}" for each in plain)
    return [*map(_number, plain), _number(ours), ratios]


def _filled(name: str, *cells: str) -> list[str]:
    row = [name, *cells]
    return row + ["-"] * (len(COLUMNS) - len(row))


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
