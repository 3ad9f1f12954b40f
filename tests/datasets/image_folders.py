"""Folders of small images and tables, made for a test."""

from __future__ import annotations

import struct
import zlib

from PIL import Image


def problems(error):
    return [str(problem) for problem in error.value.problems]


def save(path, color=0, size=(4, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color % 256, color // 256, 7)).save(path, **options)


def class_folders(root, classes=("cat", "dog"), n=10):
    color = 0
    for name in classes:
        for index in range(n):
            color += 1
            save(root / name / f"{index}.png", color)
    return root


def split_folders(root, parts=("train", "val", "test"), classes=("cat", "dog"), n=4):
    for order, part in enumerate(parts):
        for label, name in enumerate(classes):
            for index in range(n):
                save(root / part / name / f"{index}.png", 1 + index + n * (label + len(classes) * order))
    return root


def table(root, rows, header="path,label,split", encoding="utf-8"):
    (root / "splits.csv").write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return root


def assert_apart(splits):
    keys = [set(split.keys) for split in (splits.train, splits.val, splits.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def a_bomb(path):
    """A PNG of a few kilobytes that would unpack to 1 GB."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    side = 18_000
    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(b"\0" * (side * 3 + 1)) for _ in range(200)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
