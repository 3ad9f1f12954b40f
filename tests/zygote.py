"""A warm process that runs each command of the tests in a fork of its own.

The forks are real processes, with signals, exit statuses and files of their own; what they share are the seconds that
importing torch takes. Nothing has computed before the fork, so no library's threads are lost in it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
}
PATIENCE_SECONDS = 120.0


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` returns once it is true; fails after `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS:.0f} s for {what}")
        time.sleep(0.01)


@dataclass
class Program:
    """A running command."""

    pid: int
    zygote: Zygote
    folder: Path
    ended: int | None = None

    def poll(self) -> int | None:
        """The exit status once it has ended; minus the signal's number where one killed it."""
        if self.ended is None:
            self.ended = self.zygote.ask({"poll": self.pid})
        return self.ended

    def wait(self) -> int:
        """The exit status."""
        wait_for(lambda: self.poll() is not None, "the command's end")
        assert self.ended is not None
        return self.ended

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._printed("out")

    @property
    def err(self) -> str:
        """What it has printed as errors."""
        return self._printed("err")

    def _printed(self, suffix: str) -> str:
        file = self.folder / f"{self.pid}.{suffix}"
        return file.read_text() if file.exists() else ""


class Zygote:
    """The warm process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", str(folder)],
            cwd=REPOSITORY, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Program:
        """Start ``thawline ARGUMENTS`` in `folder`."""
        order = {"arguments": arguments, "folder": str(folder), "environment": dict(environment or {})}
        return Program(self.ask(order), self, self._folder)

    def run(self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Program:
        """Run it to its end."""
        program = self.start(*arguments, folder=folder, environment=environment)
        program.wait()
        return program

    def ask(self, order: dict[str, Any]) -> Any:
        """The process's answer."""
        stdin, stdout = _pipes(self._process)
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def close(self) -> None:
        """End it."""
        _pipes(self._process)[0].close()
        self._process.wait()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def serve(folder: Path) -> None:
    """Answer orders until the input ends."""
    import timm  # noqa: F401 - to be there in every fork

    import thawline.commands.training
    import thawline.execution.run
    import thawline.sweeps.local  # noqa: F401 - the same

    running: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            done, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if done else None
            running -= {done}
        else:
            answer = os.fork()
            if answer == 0:
                _become(folder, order)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    # What a failed test has left on its way.
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _become(folder: Path, order: dict[str, Any]) -> None:
    from thawline.cli import main

    status = 70
    try:
        os.setsid()
        # A shell starts what runs in the background, or under nohup, with these ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(order["folder"])
        os.environ.update(order["environment"])
        for stream, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{os.getpid()}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["thawline", *order["arguments"]]
        status = main(order["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - what would end an interpreter ends the fork
        traceback.print_exception(error)
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
