"""Apply each breakage to a copy of the checkout and run the tests that must turn red.

A warm process imports the libraries but nothing of this project; each breakage then runs in a fork of it, which imports
the broken copy in about a second. Exit status 1 if a breakage survives or cannot be applied.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import compileall
import contextlib
import importlib
import json
import multiprocessing
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.breakages.breakage import Breakage, NotApplied, load

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NOT_COPIED = (
    ".git", ".venv*", "outputs", "dist", "build", "__pycache__", ".*_cache", "*.egg-info", "wandb", "multirun",
)  # fmt: skip
LIBRARIES = (
    "hydra", "matplotlib.pyplot", "pandas", "PIL.Image", "psutil", "pydantic", "pytorch_lightning", "rich.progress",
    "safetensors.torch", "scipy.stats", "sklearn.linear_model", "sklearn.metrics", "timm", "torch", "torch.fx",
    "torchmetrics.classification", "torchvision.transforms.v2", "wandb",
)  # fmt: skip
LIMIT_SECONDS = 120.0
MOST_PROCESSES = 40
"""A fault may take away what bounds them."""
Outcomes = dict[str, str]
UNBROKEN = "the tests without a breakage"


@dataclass
class Copy:
    """A copy of the checkout that one breakage at a time is applied to."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Copy:
        """Copy the checkout to `root` and compile it.

        The compiled files are checked against a hash of their source: times are too coarse where a file is broken and
        mended within a second.
        """
        shutil.copytree(REPOSITORY, root, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        checked = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(root / "src", quiet=1, invalidation_mode=checked)
        return cls(root)

    def outcomes(self, tests: Sequence[str], breakage: Breakage | None = None) -> Outcomes:
        """What each test of `tests` ends with, with the breakage in place: passed, failed or skipped."""
        if breakage is None:
            return self._run(tests)
        file = self.root / breakage.file
        whole = file.read_text()
        file.write_text(breakage.broken(whole))
        try:
            return self._run(tests)
        finally:
            file.write_text(whole)

    def _run(self, tests: Sequence[str]) -> Outcomes:
        with tempfile.TemporaryDirectory(dir=self.root.parent) as folder:
            answer, printed = Path(folder) / "outcomes.json", Path(folder) / "printed"
            limit = LIMIT_SECONDS + 10 * len(tests)
            status = in_fork(lambda: self._test(tests, answer, Path(folder) / "tests"), printed, limit)
            if not answer.exists():
                raise RuntimeError(f"no outcome (status {status}):\n{printed.read_text()[-2000:]}")
            return json.loads(answer.read_text())

    def _test(self, tests: Sequence[str], answer: Path, folder: Path) -> None:
        os.chdir(self.root)
        ours = [str(self.root / "src"), str(self.root)]
        libraries = [path for path in sys.path if path and Path(path) not in (REPOSITORY, REPOSITORY / "src")]
        sys.path[:] = [*ours, *libraries]
        os.environ["PYTHONPATH"] = os.pathsep.join(ours)
        os.environ.setdefault("THAWLINE_SHARED_DATA", str(REPOSITORY.parent / "shared" / "data"))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        seen = Seen()
        pytest.main(["-q", "-p", "no:cacheprovider", f"--basetemp={folder}", *tests], plugins=[seen])
        import thawline

        if not Path(thawline.__file__).is_relative_to(self.root):
            raise RuntimeError(f"the tests ran {thawline.__file__}, not the copy")
        if seen.outcomes or not tests:
            answer.write_text(json.dumps(seen.outcomes))


class Seen:
    """The outcome of every test of a session, by its name."""

    def __init__(self) -> None:
        self.outcomes: Outcomes = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failure before, in or after the test counts; so does a skip."""
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome


def in_fork(work: Callable[[], None], printed: Path, limit_seconds: float) -> int:
    """Do `work` in a fork with a process group of its own, and return its exit status."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for stream in (1, 2):
                os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            work()
        except BaseException as error:  # noqa: BLE001 - nothing of the parent may run in the fork
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    deadline = time.monotonic() + limit_seconds
    looks = 0
    try:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the tests did not end within {limit_seconds:.0f} s")
            looks += 1
            if looks % 20 == 0 and len(_descendants(child)) > MOST_PROCESSES:
                raise TimeoutError(f"the tests started more than {MOST_PROCESSES} processes")
            time.sleep(0.02)
    finally:
        _end(child)


def _descendants(process: int) -> list[psutil.Process]:
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(child: int) -> None:
    """End the fork and all that it has started, whatever groups they are in."""
    left = _descendants(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def survives(breakage: Breakage, outcomes: Outcomes) -> list[str]:
    """The tests of `breakage` that did not turn red."""
    return [test for test in breakage.tests if "failed" not in _of(test, outcomes)]


def not_green(tests: Iterable[str], outcomes: Outcomes) -> list[str]:
    """The tests that do not pass even without a breakage, and so prove nothing."""
    return [test for test in tests if set(_of(test, outcomes)) != {"passed"}]


def _of(test: str, outcomes: Outcomes) -> list[str]:
    return [outcome for name, outcome in outcomes.items() if name == test or name.startswith(f"{test}[")]


COPY: list[Copy] = []  # of this worker


def _begin(folder: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the forks are ended too
    COPY.append(Copy.make(folder / str(os.getpid()) / "checkout"))


Checked = tuple[str, str | None, float]
"""What was looked at, what is wrong with it (None: nothing), and the seconds that took."""


def check(task: Breakage | tuple[str, ...]) -> Checked:
    """Run what must fail with a breakage, or what must pass without one."""
    start, (copy,) = time.monotonic(), COPY
    name = task.name if isinstance(task, Breakage) else UNBROKEN
    try:
        if isinstance(task, Breakage):
            green = survives(task, copy.outcomes(task.tests, task))
            wrong = f"survives {', '.join(green)}" if green else None
        else:
            red = not_green(task, copy.outcomes(task))
            wrong = f"not passed: {', '.join(red)}" if red else None
    except (NotApplied, RuntimeError, TimeoutError) as error:
        wrong = str(error)
    return name, wrong, time.monotonic() - start


def check_all(tasks: Iterable[Breakage | tuple[str, ...]], jobs: int, folder: Path) -> Iterator[Checked]:
    """What each check found, as they end, `jobs` at a time.

    The workers are no daemons, as those of `multiprocessing.Pool` are: a daemon may not start processes, and tests do.
    """
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=fork, initializer=_begin, initargs=(folder,)) as pool:
        try:
            for checked in as_completed([pool.submit(check, task) for task in tasks]):
                yield checked.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the breakages that are asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.breakages", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="breakages whose name holds TEXT")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (2)")
    chosen = parser.parse_args(arguments)
    breakages = [b for b in load() if not chosen.only or any(text in b.name for text in chosen.only)]
    if not breakages:
        parser.error("no breakage has such a name")
    for library in LIBRARIES:
        importlib.import_module(library)
    tests = sorted({test for breakage in breakages for test in breakage.tests})
    unbroken = [tuple(tests[job :: chosen.jobs]) for job in range(chosen.jobs)]
    wrong = {}
    with tempfile.TemporaryDirectory(prefix="breakages-") as folder:
        for name, fault, seconds in check_all([*filter(None, unbroken), *breakages], chosen.jobs, Path(folder)):
            print(f"{seconds:6.1f} s  {name}: {fault or ('passed' if name == UNBROKEN else 'noticed')}", flush=True)
            if fault:
                wrong[name] = fault
    print(f"{len(breakages)} breakages, {len(wrong)} faults")
    for name, fault in wrong.items():
        print(f"  {name}: {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
