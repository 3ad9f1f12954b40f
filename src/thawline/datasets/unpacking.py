"""Archives are unpacked inside their folder, or not at all."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def inside_its_folder() -> Iterator[None]:
    """While it lasts, no tar archive is unpacked that has a member outside of its folder, a link or a device.

    New versions of torchvision on Python 3.11.4 and later see to that themselves (PEP 706); others unpack whatever they
    are sent.

    Raises:
        tarfile.TarError: an archive is refused; it names the member. Nothing of it was unpacked.
    """
    unpack = tarfile.TarFile.extractall

    def checked(archive: tarfile.TarFile, path: Any = ".", *arguments: Any, **given: Any) -> None:
        folder = Path(path).resolve()
        for member in archive.getmembers():
            inside = (folder / member.name).resolve().is_relative_to(folder)
            if not inside or not (member.isfile() or member.isdir()):
                raise tarfile.TarError(f"{member.name!r} would be unpacked outside of {folder}")
        unpack(archive, path, *arguments, **given)

    tarfile.TarFile.extractall = checked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        tarfile.TarFile.extractall = unpack  # type: ignore[method-assign]
