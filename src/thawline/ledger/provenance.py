"""Where a number comes from: software, commit, hardware."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from thawline.records import Commit, Hardware, Software
from thawline.runtime.cores import available_cores

_PACKAGES = (
    "thawline", "torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
    "scikit-learn", "pillow", "wandb",
)  # fmt: skip


@functools.cache
def software() -> Software:
    """Versions of Python and of every package that touches a number, and the source commit where there is one."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "absent"
    return Software(python=platform.python_version(), packages=packages, commit=_commit())


@functools.cache
def hardware() -> Hardware:
    """The processor, the cores that this process may use, and the GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Hardware(
        platform=platform.platform(),
        processor=_processor(),
        cores=available_cores(),
        gpus=gpus,
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> Commit:
    """The commit of thawline's own checkout, and a hash of what is not committed (null where nothing is)."""
    folder = Path(__file__).resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    if not commit or not tracked:
        return Commit()
    changes = _git(folder, "diff", "HEAD") or ""
    return Commit(sha=commit, dirty_sha256=hashlib.sha256(changes.encode()).hexdigest() if changes else None)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
