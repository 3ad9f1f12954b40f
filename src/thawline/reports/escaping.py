"""Names from outside made inert: whatever a class, a sweep or an override is called, it is shown as text, no more."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

EN_DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\`{}",
    "[": r"{[}",  # at the start of a row a bare bracket would be an argument of the \\ before it
    "]": r"{]}",
    "*": r"{*}",
    "-": "-{}",  # no ligature into a dash
    EN_DASH: "--",
    MINUS: "$-$",
    "±": r"$\pm$",
    TIMES: r"$\times$",
    "★": r"$\star$",
    "○": r"$\circ$",
    "…": r"\ldots{}",
    "²": r"\textsuperscript{2}",
}
_MARKDOWN_SPECIAL = re.compile(r"([\\`*\[\]{}#!~|$])")
_MARKDOWN_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Letters of the Latin-1 and Latin Extended-A blocks that the T1 encoding lacks.
_LATIN_WITHOUT_GLYPH = "ĦħĸŉŦŧſ"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "|", "%")


def plain(text: object, most: int | None = None) -> str:
    """`text` on one line, without control or invisible characters, shortened in the middle to `most` characters."""
    shown = str(text)
    if not shown.isprintable():
        shown = "".join(_visible(character) for character in shown)
    shown = " ".join(shown.split())
    if most is None or len(shown) <= most:
        return shown
    kept = most - 1
    return f"{shown[: kept - kept // 3]}…{shown[len(shown) - kept // 3 :]}"


def markdown(text: object) -> str:
    """`text` as Markdown that shows it literally, also inside a table."""
    shown = "".join(_MARKDOWN_ENTITIES.get(character, character) for character in plain(text))
    shown = _MARKDOWN_SPECIAL.sub(r"\\\1", shown)
    # An underscore inside a word does not emphasise, and names are full of them.
    shown = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", shown)
    shown = re.sub(r"^(\s*)([-+]|\d+[.)])(?=\s|$)", _first_escaped, shown)
    return shown.replace("://", "&#58;//").replace("www.", "www&#46;")


def latex(text: object) -> str:
    """`text` as LaTeX (T1 encoding) that prints it literally; a character without a glyph there becomes its number."""
    return "".join(_latex_character(character) for character in plain(text))


def csv_field(value: object) -> object:
    """`value` as a CSV field that no spreadsheet takes for a formula: text that starts like one gets a quote before."""
    if not isinstance(value, str):
        return value
    # Line ends inside a field are legal CSV that many readers get wrong.
    text = value.replace("\x00", "�").replace("\r", " ").replace("\n", " ")
    if value.startswith(_FORMULA_STARTS) or value.lstrip().startswith(_FORMULA_STARTS):
        return text if _is_number(text) else f"'{text}"
    return text


def command_line(words: Sequence[str]) -> str:
    """`words` as one line for a POSIX shell, with control characters spelt out."""
    return " ".join(_shell_word(word) for word in words)


def code_fence(text: str) -> str:
    """A fence that the Markdown code `text` cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def _visible(character: str) -> str:
    # Control, format (bidirectional overrides), surrogate and private characters change what is seen around them.
    category = unicodedata.category(character)
    if character in "\t\n\r":
        return " "
    return "�" if category.startswith("C") else character


def _first_escaped(match: re.Match[str]) -> str:
    mark = match.group(2)
    return f"{match.group(1)}{mark[:-1]}\\{mark[-1]}"


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    latin = character.isalpha() and ord(character) <= 0x17F and character not in _LATIN_WITHOUT_GLYPH
    known = character.isascii() or latin
    return character if known else f"{{[}}U+{ord(character):04X}{{]}}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    spelt = "".join(escapes.get(character, character) for character in word)
    spelt = "".join(c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(c)) for c in spelt)
    return f"$'{spelt}'"


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", errors="surrogateescape")
