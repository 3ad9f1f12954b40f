"""Output that ends no run: what a terminal or a log cannot show is written with the signs that it has."""

from __future__ import annotations

import codecs
import io
import sys

_INSTEAD = {
    "★": "*", "○": "o", "±": "+/-", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "²": "^2", "‖": "||",  # noqa: RUF001
    "→": "->", "·": ".", "“": '"', "”": '"', "‘": "'", "’": "'",  # noqa: RUF001
}  # fmt: skip


def _nearest_sign(error: UnicodeError) -> tuple[str, int]:
    """The nearest ASCII for what an encoding lacks, and the code of a character that has none."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = (_INSTEAD.get(sign) or sign.encode("ascii", errors="backslashreplace").decode() for sign in text)
    return "".join(shown), error.end


codecs.register_error("thawline.nearest", _nearest_sign)


def show_everything() -> None:
    """Let standard output and error take any text, in whatever encoding they are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="thawline.nearest")
