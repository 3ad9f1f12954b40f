"""What an entry of the store holds, and how ``entry.json`` describes it."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from thawline.records import identity_of
from thawline.store.refusals import DamagedEntryError

METADATA_FILE, MARKER_FILE = "entry.json", "used"
_SCHEMA_VERSION: Literal[1] = 1
_CHUNK_BYTES = 2**20
_FLOATS = ("bfloat16", "float16", "float32", "float64")

_ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class ArraySpec:
    """One array of an entry: `shape` of one sample, `dtype` of what is read, `stored_as` of what lies on disk.

    `stored_as` defaults to `dtype` (exact); a narrower float takes fewer bytes and rounds the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_as: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "stored_as", self.stored_as or self.dtype)
        for dtype in (self.dtype, self.stored_as):
            if dtype not in _ITEM_BYTES:
                raise ValueError(f"{self.name}: dtype {dtype!r} is none of {', '.join(_ITEM_BYTES)}")
        if self.stored_as != self.dtype and not {self.dtype, self.stored_as} <= set(_FLOATS):
            raise ValueError(f"{self.name}: {self.dtype} cannot be stored as {self.stored_as}")

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample on disk."""
        return math.prod(self.shape) * _ITEM_BYTES[self.stored_as]

    @property
    def rows_per_chunk(self) -> int:
        """Samples that share one checksum."""
        return max(1, _CHUNK_BYTES // max(1, self.row_bytes))


@dataclass(frozen=True)
class EntrySpec:
    """What an entry holds: `samples` rows of each of the aligned `arrays`.

    `key` is everything else that decides the values (JSON-able). `title` says in a few words what they are; it is not
    part of the identity.
    """

    key: dict[str, Any]
    arrays: tuple[ArraySpec, ...]
    samples: int
    title: str = ""

    @cached_property
    def identity(self) -> str:
        """The name of the entry: a hash of the key, the arrays and the number of samples."""
        arrays = [[array.name, list(array.shape), array.dtype, array.stored_as] for array in self.arrays]
        return identity_of(
            {"schema_version": _SCHEMA_VERSION, "key": self.key, "arrays": arrays, "samples": self.samples}
        )

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample on disk, over all arrays."""
        return sum(array.row_bytes for array in self.arrays)

    @property
    def array_bytes(self) -> int:
        """Bytes of all arrays on disk."""
        return self.samples * self.bytes_per_sample

    @property
    def total_bytes(self) -> int:
        """An upper bound of the bytes of the entry's folder."""
        widest = [[2**32 - 1] * chunk_count(self.samples, array) for array in self.arrays]
        return self.array_bytes + len(Metadata.of(self, widest).to_bytes())


class _ArrayMetadata(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_as: str
    checksums: list[int]


class Metadata(BaseModel):
    """What ``entry.json`` holds. `generation` tells two builds of the same entry apart."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1]
    generation: str
    title: str
    key: dict[str, Any]
    samples: int
    arrays: list[_ArrayMetadata]

    @classmethod
    def of(cls, spec: EntrySpec, checksums: Sequence[list[int]]) -> Metadata:
        """The metadata of a new build of `spec`, with the checksums of each array's chunks."""
        arrays = [
            _ArrayMetadata(name=a.name, shape=a.shape, dtype=a.dtype, stored_as=a.stored_as, checksums=sums)
            for a, sums in zip(spec.arrays, checksums, strict=True)
        ]
        generation = uuid.uuid4().hex
        return cls(
            schema_version=_SCHEMA_VERSION,
            generation=generation,
            title=spec.title,
            key=spec.key,
            samples=spec.samples,
            arrays=arrays,
        )

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """The metadata of the entry in the folder `path`.

        Raises:
            FileNotFoundError: there is no such folder.
            DamagedEntryError: the metadata are missing, of another version, or not of this entry.
        """
        try:
            metadata = cls.model_validate(json.loads((path / METADATA_FILE).read_bytes()))
            identity = metadata.spec().identity
        except FileNotFoundError:
            if not path.is_dir():
                raise
            raise DamagedEntryError(f"{METADATA_FILE} is missing") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DamagedEntryError(f"{METADATA_FILE}: {where}: {first['msg']}") from error
        except ValueError as error:
            raise DamagedEntryError(f"{METADATA_FILE}: {error}") from error
        if identity != path.name:
            raise DamagedEntryError(f"{METADATA_FILE} describes another entry, {identity}")
        return metadata

    def to_bytes(self) -> bytes:
        """The content of ``entry.json``."""
        return json.dumps(self.model_dump()).encode()

    def spec(self) -> EntrySpec:
        """What the entry holds."""
        arrays = tuple(ArraySpec(a.name, a.shape, a.dtype, a.stored_as) for a in self.arrays)
        return EntrySpec(self.key, arrays, self.samples, self.title)


def chunk_count(samples: int, spec: ArraySpec) -> int:
    """How many checksums an array of so many samples has."""
    return -(-samples // spec.rows_per_chunk)


def array_file(folder: Path, number: int) -> Path:
    """The file of an entry's array. Its name holds nothing of the array's, which may be anything."""
    return folder / f"{number}.bin"


def check_sizes(folder: Path, spec: EntrySpec) -> None:
    """Compare the sizes of the files of an entry.

    Raises:
        DamagedEntryError: one differs, or is missing.
    """
    for number, array in enumerate(spec.arrays):
        path, expected = array_file(folder, number), spec.samples * array.row_bytes
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            raise DamagedEntryError(f"{path.name} has {size:,} bytes instead of {expected:,}")
