"""One run on several devices of this machine: one process a device, the run's whole course in each.

The processes are those of ``torchrun``: started from outside, with their rank in the environment. So a multirun, a
launcher's job or a phase change need no special care, and a process that dies takes only its run with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thawline.files import open_to_write, write_json
from thawline.invocation import Invocation
from thawline.planning.plan import Plan
from thawline.records import Record, load_record
from thawline.runtime import signals
from thawline.runtime.cores import available_cores
from thawline.training.batches import Shard

JOB_FILE = "job.json"
EPOCHS_FILE = "epochs.jsonl"
_POLL_SECONDS = 0.05
_STOPPED = {128 + number: number for number in signals.STOPPING} | {-number: number for number in signals.STOPPING}


class RankFailed(RuntimeError):
    """One of a run's processes ended with an error."""


@dataclass(frozen=True)
class _Rank:
    process: subprocess.Popen[bytes]
    log: Path


def shard() -> Shard:
    """This process's rank among those of its run."""
    return Shard(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def is_first() -> bool:
    """Whether this process is the one of its run that writes."""
    return shard().rank == 0


def wanted(plan: Plan) -> bool:
    """Whether the run asks for several processes and this is not one of them."""
    return plan.settings.trainer.devices > 1 and "RANK" not in os.environ


def notes(plan: Plan, statistics: Sequence[str]) -> list[str]:
    """What a reader of the record has to know: `statistics` are the buffers that training updated."""
    devices = plan.settings.trainer.devices
    norms = {name.rpartition(".")[0] for name in statistics}
    if devices == 1 or not norms:
        return []
    share = f"{len(norms)} batch norms trained on {devices} devices, each with its share of a batch"
    return [f"{share}: the numbers are not those of one device"]


def execute_on_all(plan: Plan, group: str | None, on_epoch: Callable[[Mapping[str, Any]], None]) -> Record:
    """Run `plan` in one process a device and return the record that the first one wrote.

    Args:
        plan: the run.
        group: the sweep that the run belongs to, for loggers.
        on_epoch: called with each epoch's row of the history.

    Raises:
        RankFailed: one of them failed; the others have been ended.
    """
    job = {
        "identity": plan.identity,
        "config": dict(plan.config),
        "overrides": list(plan.overrides),
        "label": plan.label,
        "group": group,
        "invocation": asdict(Invocation.current()),
    }
    write_json(plan.folder / JOB_FILE, job)
    world_size = plan.settings.trainer.devices
    port = _free_port()
    epochs = _Epochs(plan.folder / EPOCHS_FILE, on_epoch)
    ranks: list[_Rank] = []
    try:
        for number in range(world_size):
            ranks.append(_start(plan, number, world_size, port))
        _wait(ranks, epochs)
    except signals.Interrupted as interruption:
        _pass_on(interruption, ranks)
        raise
    finally:
        for rank in ranks:
            if rank.process.poll() is None:
                rank.process.kill()
            rank.process.wait()
        for name in (JOB_FILE, EPOCHS_FILE):
            (plan.folder / name).unlink(missing_ok=True)
    return load_record(plan.folder)


def tell_epoch(file: Path, row: Mapping[str, Any]) -> None:
    """Tell the starting process of an epoch, from the first of the run's processes."""
    if is_first():
        with open_to_write(file, "ab") as stream:
            stream.write(f"{json.dumps(row)}\n".encode())


class _Epochs:
    """Passes on the rows of the history as the first process writes them."""

    def __init__(self, file: Path, on_epoch: Callable[[Mapping[str, Any]], None]) -> None:
        self._file, self._on_epoch, self._read = file, on_epoch, 0
        file.unlink(missing_ok=True)

    def pass_on(self) -> None:
        """Pass on what has been written since the last time; a line that is not whole yet waits."""
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if line.endswith(b"\n"):
                    self._read += len(line)
                    self._on_epoch(json.loads(line))


def _start(plan: Plan, rank: int, world_size: int, port: int) -> _Rank:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": plan.identity,
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // world_size)))
    log = plan.folder / f"rank-{rank}.log"
    # A Ctrl-C at the terminal reaches this process alone, which passes it on: a second signal would stop them at once.
    with open_to_write(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "thawline.execution.rank", str(plan.folder / JOB_FILE), str(os.getpid())],
            env=environment, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    return _Rank(process, log)


def _wait(ranks: list[_Rank], epochs: _Epochs) -> None:
    while True:
        codes = [rank.process.poll() for rank in ranks]
        epochs.pass_on()
        for index, code in enumerate(codes):
            if code in _STOPPED:
                raise signals.Interrupted(_STOPPED[code])
            if code not in (None, 0):
                tail = ranks[index].log.read_text(errors="backslashreplace").strip().splitlines()
                last = re.sub(r"^\[rank\d+\]: ", "", tail[-1]) if tail else "no output"
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                raise RankFailed(f"rank {index} {how}: {last} (log: {ranks[index].log})")
        if all(code == 0 for code in codes):
            return
        time.sleep(_POLL_SECONDS)


def _pass_on(interruption: signals.Interrupted, ranks: list[_Rank]) -> None:
    """Let the processes leave at the end of their epoch, as a run on one device does."""
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(interruption.number)
    deadline = time.monotonic() + signals.GRACE_SECONDS + _POLL_SECONDS
    while time.monotonic() < deadline and any(rank.process.poll() is None for rank in ranks):
        time.sleep(_POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def gathered(value: Any) -> list[Any]:
    """The value of every process of the run, in the order of ranks."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
