"""A table of paths and what belongs to each, as spreadsheets and programs write it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from thawline.datasets.pools import shortened
from thawline.errors import Problem, UsageError, counted, usage_error

Entry = TypeVar("Entry")

COLUMNS = ("path", "label", "split")
_DELIMITERS = (",", ";", "\t", "|")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_table(
    table: Path, columns: Sequence[str] = COLUMNS, *, others: bool = False, field: str = "dataset.root"
) -> list[tuple[int, dict[str, str] | str]]:
    """The rows of a CSV file by line number: the values of `columns`, or what is wrong with the row.

    It may be separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16, with blanks after the separators, and
    begin with a line such as ``sep=;``. Columns may be in any order, in capital letters, and more than these.

    Args:
        table: The file.
        columns: The columns that it must have, in small letters.
        others: Give the values of all other columns, too, by their names as they are written.
        field: The field of the configuration that names the table.

    Raises:
        UsageError: it cannot be read, is in another encoding, or lacks a column; names the file and the cause.
    """
    try:
        text = _text(table.read_bytes())
        header, _, rest = text.partition("\n")
        # Spreadsheets announce their separator in a line of its own.
        skipped = int(header.lower().startswith("sep="))
        if skipped:
            text, header = rest, rest.partition("\n")[0]
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=_delimiter(header, columns), skipinitialspace=True, strict=True
        )
        written = [name.strip() for name in next(reader, [])]
        names = [name.lower() for name in written]
        _check_columns(table, names, columns, skipped + 1, field)
        places = {name: names.index(name) for name in columns}
        if others:
            places |= {name: place for place, name in enumerate(written) if place not in places.values()}
        return [(skipped + reader.line_num, _row(row, places, len(names))) for row in reader if row]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        message = f"line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x}): save the table as CSV UTF-8"
        raise usage_error(field, f"{table}: {message}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise usage_error(field, f"{table}: not a readable table: {error}") from None


def listed_once(
    table: Path, rows: Iterable[tuple[int, Entry | str]], name: Callable[[Entry], str], field: str = "dataset.root"
) -> dict[str, Entry]:
    """The entries of a table's rows by name.

    Args:
        table: The file, for messages.
        rows: By line, what each was read as, or what is wrong with it.
        name: What an entry is called, which must be there once.
        field: The field of the configuration that names the table.

    Raises:
        UsageError: rows are wrong, or two have one name, or there is none; names the lines.
    """
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for line, entry in rows:
        if isinstance(entry, str):
            problems.append(Problem(field, f"{table}, line {line}: {entry}"))
        elif name(entry) in entries:
            problems.append(Problem(field, f"{table}, line {line}: {name(entry)!r} is listed twice"))
        else:
            entries[name(entry)] = entry
    if problems:
        raise UsageError(shortened(problems))
    if not entries:
        raise usage_error(field, f"{table} lists no images")
    return entries


def _text(content: bytes) -> str:
    if content.startswith(_UTF16):
        return content.decode("utf-16")
    if content[1:2] == b"\0" or content[:1] == b"\0":
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
    return content.decode("utf-8-sig")


def _delimiter(header: str, columns: Sequence[str]) -> str:
    """The separator with which most of the columns are found."""

    def found(delimiter: str) -> int:
        return len({name.strip().strip('"').lower() for name in header.split(delimiter)} & set(columns))

    return max(_DELIMITERS, key=found)


def _check_columns(table: Path, names: Sequence[str], columns: Sequence[str], line: int, field: str) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        there = ", ".join(map(repr, names)) or "nothing"
        message = f"line {line} must name the columns {', '.join(columns)}; it lacks {', '.join(missing)}"
        raise usage_error(field, f"{table}: {message} and has {there}")


def _row(row: Sequence[str], places: dict[str, int], columns: int) -> dict[str, str] | str:
    if len(row) > columns and any(value.strip() for value in row[columns:]):
        there = f"{counted(len(row), 'value')} for {counted(columns, 'column')}"
        return f"{there}: put a value that holds the separator in quotes"
    return {name: row[place] if place < len(row) else "" for name, place in places.items()}
