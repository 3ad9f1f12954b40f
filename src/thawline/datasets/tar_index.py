"""Where the samples of a tar archive lie in it, so that each can be read by itself, in any order."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thawline.datasets.ignored import HIDDEN, is_system
from thawline.datasets.image_files import EXTENSIONS
from thawline.errors import nearest

_LARGEST_LABEL = 2**20
"""In bytes."""


@dataclass(frozen=True)
class Wanted:
    """Which members of a sample are its image and its label.

    Attributes:
        image: The ending of the image, without its first dot; None: any ending of an image.
        label: The ending of the label.
        field: Of a label that is JSON, its field; None: the member's whole text is the label.
    """

    image: str | None
    label: str
    field: str | None

    def is_image(self, ending: str) -> bool:
        """Whether the member of a sample that ends so is its image."""
        return f".{ending.lower()}" in EXTENSIONS if self.image is None else ending == self.image


@dataclass
class Shard:
    """What was found in one archive.

    Attributes:
        names: The image of each sample: its name in the archive.
        starts: Where its bytes begin.
        sizes: How many there are.
        labels: Its label.
        left_out: How many members are not used, by ending.
        problems: What is wrong with the archive or its samples.
    """

    names: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def read_shard(path: Path, wanted: Wanted) -> Shard:
    """What is in an archive; what is wrong with it is in the shard, too."""
    shard = Shard()
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            samples = _samples(archive, path.stat().st_size, shard)
            for key, sample in samples.items():
                problem = _add(archive, sample, wanted, shard)
                if problem:
                    shard.problems.append(f"sample {key!r} {problem}")
    except (tarfile.TarError, EOFError) as error:
        shard.problems.insert(0, f"not a whole tar archive: {error}")
    except OSError as error:
        shard.problems.insert(0, f"cannot be read: {error.strerror or error}")
    return shard


def _samples(archive: tarfile.TarFile, size: int, shard: Shard) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members of each sample by their ending; raises TarError where the archive is damaged.

    Args:
        archive: The archive.
        size: Its bytes.
        shard: Counts what belongs to no sample.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for name, member in _files(archive, shard.left_out):
        if member.offset_data + member.size > size:
            raise tarfile.ReadError(f"{name} is cut off")
        folder, slash, file = name.rpartition("/")
        key, _, ending = file.partition(".")
        sample = samples.setdefault(folder + slash + key, {})
        if ending in sample:
            shard.problems.append(f"{name} is there twice")
        sample[ending] = member
    return samples


def _files(archive: tarfile.TarFile, left_out: Counter[str]) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The files in an archive by name, without those that systems leave behind."""
    for member in archive:
        name = _name(member)
        if not member.isreg() or member.issparse():
            if not member.isdir():
                left_out["links and special files"] += 1
        elif any(map(is_system, name.split("/"))):
            left_out[HIDDEN] += 1
        else:
            yield name, member


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _add(archive: tarfile.TarFile, sample: Mapping[str, tarfile.TarInfo], wanted: Wanted, shard: Shard) -> str:
    """Add a sample to the shard; what is wrong with it, if anything is."""
    images = [ending for ending in sample if wanted.is_image(ending)]
    if not images:
        shard.left_out.update(f".{ending}" for ending in sample)
        return ""
    if len(images) > 1:
        return f"has several images ({', '.join(images)}): name one of them in dataset.image"
    if wanted.label not in sample:
        return f"has no label .{wanted.label} (dataset.label); it has {', '.join(sample)}"
    try:
        label = _label(archive, sample[wanted.label], wanted)
    except ValueError as error:
        return f"has no usable label in .{wanted.label}: {error}"
    member = sample[images[0]]
    shard.names.append(_name(member))
    shard.starts.append(member.offset_data)
    shard.sizes.append(member.size)
    shard.labels.append(label)
    shard.left_out.update(f".{ending}" for ending in sample if ending not in (images[0], wanted.label))
    return ""


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, wanted: Wanted) -> str:
    """The label in a member; raises ValueError."""
    stream = archive.extractfile(member)
    if stream is None or member.size > _LARGEST_LABEL:
        raise ValueError(f"{member.size:,} bytes")
    text = stream.read().decode()
    label = text.strip() if wanted.field is None else _of_json(json.loads(text), wanted.field)
    if not label:
        raise ValueError("it is empty")
    return label


def _of_json(value: Any, name: str) -> str:
    """The label in a field; raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if name not in value:
        raise ValueError(f"no field {name!r}{nearest(name, value)}; it has {', '.join(value) or 'none'}")
    label = value[name]
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise ValueError(f"field {name!r} is neither a text nor a whole number")
    return str(label).strip()
