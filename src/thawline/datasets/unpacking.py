"""Archives are unpacked inside their folder, or not at all."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def inside_its_folder() -> Iterator[None]:
    """While it lasts, no tar archive writes outside of the folder that it is unpacked into.

    Since Python 3.11.4 libraries ask for that themselves (``filter="data"``, PEP 706) and nothing is done here. Before,
    they unpack whatever they are sent: then an archive is refused if a member lies outside of the folder or is a link
    or a device.

    Raises:
        tarfile.TarError: an archive is refused; it names the member. Nothing of it was unpacked.
    """
    if hasattr(tarfile, "data_filter"):
        yield
        return
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
