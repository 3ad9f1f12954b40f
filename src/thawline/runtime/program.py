"""The program that this process is: thawline and its libraries, by their versions and their files, as they are now."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil

_PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pydantic", "hydra-core", "omegaconf",
    "safetensors", "huggingface-hub", "peft", "segmentation-models-pytorch", "matplotlib", "fonttools", "jinja2",
    "itables", "vl-convert-python",
)  # fmt: skip
_SOURCES = ("thawline", "timm", "torchvision", "segmentation_models_pytorch")
"""Packages whose files count, too: where they are checkouts, they change and keep their version."""
_CLOCKS_DIFFER_BY = 2.0


@functools.cache
def program() -> str | None:
    """A digest of Python, of the versions of what makes plans and reports, and of its files by size and times.

    None where a file was changed since this process began: what it has imported may be another state of it.
    """
    began = psutil.Process().create_time() - _CLOCKS_DIFFER_BY
    stamps: dict[str, list[tuple[str, int, int, int, int]]] = {}
    for package in _SOURCES:
        stamps[package] = []
        for file, status in _files_of(package):
            if status.st_ctime >= began:
                return None
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            stamps[package].append((file, *stamp))
    versions = {name: _version(name) for name in _PACKAGES}
    content = json.dumps([sys.version, sys.prefix, versions, stamps], sort_keys=True)
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _files_of(package: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files of a package, which is not imported, in order: its code, and what that reads, such as a template."""
    found = find_spec(package)
    for root in (found.submodule_search_locations or ()) if found is not None else ():
        for folder, below, names in os.walk(root):
            below[:] = sorted(name for name in below if name != "__pycache__")
            for name in sorted(names):
                file = Path(folder, name)
                yield str(file), file.stat()
