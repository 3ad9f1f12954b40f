"""A real SLURM on this one machine: munged, slurmctld and slurmd, started here and ended here; it takes root.

Two partitions share the node; what is submitted to ``urgent`` preempts ``work``, whose jobs are put back in the queue.
A short life of credentials lets a job that was put back start again soon.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_DAEMONS = ("munged", "slurmctld", "slurmd")
_START_SECONDS = 60
CONFIGURATION = """
ClusterName=thawline
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
MinJobAge=10
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=work Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={host} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


class NoSlurm(Exception):
    """SLURM cannot be started here, and why."""


@contextlib.contextmanager
def one_node_slurm(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Start SLURM with its files in `folder` and give the environment in which its commands find it.

    Raises:
        NoSlurm: it is not installed, this process is not root, or it does not come up.
    """
    missing = [name for name in _DAEMONS if shutil.which(name, path=_path()) is None]
    if missing:
        raise NoSlurm(f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        raise NoSlurm("the daemons have to be started as root")
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder, cpus)
        for command in _commands(folder):
            with (folder / f"{command[0]}.out").open("wb") as stream:
                daemons.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=stream))
            if command[0] == "munged":
                _wait_for(lambda: (folder / "munge.socket").exists(), "munged's socket", daemons)
        _wait_for(lambda: "idle" in _output(["sinfo", "-h", "-o", "%T"], environment), "an idle node", daemons)
        yield environment
    finally:
        if daemons:
            _output(["scancel", "--signal=KILL", "--full", "--user=root"], environment)
            _output(["scancel", "--user=root"], environment)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


def _configure(folder: Path, cpus: int) -> None:
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    # munge refuses a socket in a folder that others may not enter, and a key that others may read.
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "munge").chmod(0o700)
    values = {"host": socket.gethostname().partition(".")[0], "controller": _port(), "daemon": _port(), "cpus": cpus}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, **values).lstrip())


def _commands(folder: Path) -> list[list[str]]:
    munge = [f"--key-file={folder}/munge/key", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge/pid"]
    munge += [f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed", "--foreground", "--force"]
    return [["munged", *munge], ["slurmctld", "-D", "-i"], ["slurmd", "-D"]]


def _wait_for(condition, what: str, daemons: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        ended = [f"{daemon.args[0]} ended with {daemon.returncode}" for daemon in daemons if daemon.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise NoSlurm(f"waited for {what}: {', '.join(ended) or 'it did not come'}")
        time.sleep(0.1)


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
