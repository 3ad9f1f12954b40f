"""``thawline cache``: list, verify and prune the store of decoded images and thaw-line values."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thawline.commands.project import outputs
from thawline.errors import usage_error
from thawline.store.store import DEFAULT_MAX_BYTES, EntryStatus, Store, StoreRefusedError, readable_bytes

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_STYLES = {
    "damaged": "red",
    "not readable now": "red",
    "unfinished": "yellow",
    "in use": "green",
    "being built": "green",
    "whole": "",
}


def run(argv: Sequence[str]) -> int:
    """Run one of the verbs; the exit status.

    Raises:
        UsageError: the folder cannot be read or changed.
    """
    arguments = _parser().parse_args(argv)
    store = Store(arguments.dir or Path(os.environ.get("THAWLINE_CACHE") or outputs() / "cache"))
    if store.folder.exists() and not store.folder.is_dir():
        raise usage_error("--dir", f"{store.folder} is not a folder")
    try:
        return int(arguments.verb(store, arguments))
    except StoreRefusedError as refusal:
        raise usage_error("--dir", refusal.reason) from None
    except PermissionError as error:
        raise usage_error("--dir", f"{error.filename or store.folder}: {error.strerror or error}") from None


def _list(store: Store, arguments: argparse.Namespace) -> int:
    _show(f"store {store.folder}", store.entries(), as_json=arguments.json)
    return 0


def _verify(store: Store, arguments: argparse.Namespace) -> int:
    found = store.verify()
    damaged = [status for status in found if status.state == "damaged"]
    if arguments.repair:
        for status in damaged:
            store.discard(status.identity)
    _show(f"verified {store.folder}", found, as_json=arguments.json)
    if damaged and not arguments.json:
        done = "removed; they are built again when they are needed" if arguments.repair else "--repair removes them"
        _console().print(Text(f"{len(damaged)} of {len(found)} entries are damaged: {done}"))
    left = [status for status in found if status.problem and status not in damaged]
    return 1 if left or (damaged and not arguments.repair) else 0


def _prune(store: Store, arguments: argparse.Namespace) -> int:
    removed = store.prune(0 if arguments.all else arguments.max_bytes)
    _show(f"removed from {store.folder}", removed, as_json=arguments.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--dir", type=Path, help="the store's folder (default: $THAWLINE_CACHE, or outputs/cache), as cache.dir"
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="thawline cache", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="list|verify|prune")
    add = verbs.add_parser("list", parents=[common], help="what is stored")
    add.set_defaults(verb=_list)
    add = verbs.add_parser("verify", parents=[common], help="compare every checksum; exit status 1 where one differs")
    add.add_argument("--repair", action="store_true", help="remove what is damaged")
    add.set_defaults(verb=_verify)
    add = verbs.add_parser("prune", parents=[common], help="remove what was left over and what was used least recently")
    amount = add.add_mutually_exclusive_group()
    amount.add_argument(
        "--max-bytes",
        type=_bytes,
        default=DEFAULT_MAX_BYTES,
        help=f"keep at most this much, such as 500MB or 2GiB (default: {readable_bytes(DEFAULT_MAX_BYTES)})",
    )
    amount.add_argument("--all", action="store_true", help="remove everything that is not in use")
    add.set_defaults(verb=_prune)
    return parser


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 500MB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _show(title: str, found: Sequence[EntryStatus], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_plain(status) for status in found], indent=2))
        return
    console = _console()
    if not found:
        console.print(Text(f"{title}: nothing"))
        return
    table = Table(title=Text(_printable(title)))
    for name in ("entry", "what", "samples", "bytes", "last used", "state"):
        table.add_column(name, justify="right" if name in ("samples", "bytes") else "left", overflow="fold")
    for status in found:
        state = f"{status.state}: {status.problem}" if status.problem else status.state
        table.add_row(
            Text(status.identity.split(".")[1] if status.identity.startswith(".") else status.identity),
            Text(_printable(_what(status))),
            f"{status.samples:,}" if status.samples else "",
            readable_bytes(status.bytes),
            f"{_time(status):%Y-%m-%d %H:%M}",
            Text(_printable(state), style=_STYLES[status.state]),
        )
    console.print(table)
    total = readable_bytes(sum(status.bytes for status in found))
    console.print(Text(f"{total} in {len(found)} {'entry' if len(found) == 1 else 'entries'}"))


def _console() -> Console:
    console = Console()
    # Without a terminal rich assumes 80 columns and would fold the names that others search for.
    return console if console.is_terminal else Console(width=200)


def _what(status: EntryStatus) -> str:
    if status.title or not status.key:
        return status.title
    text = ", ".join(f"{key}={value}" for key, value in status.key.items())
    return text if len(text) <= 80 else text[:77] + "..."


def _printable(text: str) -> str:
    """Titles come from names that may hold anything, also what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _plain(status: EntryStatus) -> dict[str, object]:
    return {**asdict(status), "last_used": _time(status).isoformat(timespec="seconds")}


def _time(status: EntryStatus) -> datetime:
    return datetime.fromtimestamp(status.last_used, UTC).astimezone()
