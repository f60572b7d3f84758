"""What strangers wrote, as people may see it: in a terminal, in Markdown, in a spreadsheet.

Labels, texts, names, keys and vendors' errors come from files of others. In a terminal their control characters would
move the cursor, colour or retitle the window, and their direction marks would turn lines round; in Markdown they would
be links, pictures and elements; in a spreadsheet formulas. The page escapes for itself (``report/page/markup.py``).
"""

from __future__ import annotations

import re
import unicodedata

#: Control characters but tab and newline, marks of direction, other ends of lines, and halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)

#: What begins an element, a comment or an address, and what makes a text in brackets a link or a picture.
_ELEMENT, _LINK = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"\](?=\()")

#: What makes a cell of a spreadsheet a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown(text: object, most: int | None = None) -> str:
    """Return a text as a terminal may have it: characters that are not seen are written as their escapes.

    Args:
        text: Anything; lines stay lines.
        most: Characters at most; the middle of a longer text is left out.
    """
    found = str(text).replace("\r\n", "\n")
    found = _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], found)
    if most is not None and len(found) > most:
        found = f"{found[: most - most // 3 - 1]}…{found[-(most // 3) :]}"
    return found


def same_width(text: str) -> str:
    """Return a text with a sign for each character that is not seen: as many cells as letters, for tables."""
    return _UNSEEN.sub(lambda match: "\ufffd" if unicodedata.category(match[0]) != "Cf" else "", text)


def markdown(text: str) -> str:
    """Return Markdown in which nothing is an element, a link or a picture."""
    return _LINK.sub("]\\\\", _ELEMENT.sub("&lt;", shown(text)))


def cell(value: object) -> object:
    """Return a value for a cell of CSV: a text that a spreadsheet would compute gets an apostrophe before it."""
    if isinstance(value, str) and len(value) > 1 and value.startswith(_FORMULA):
        return f"'{shown(value)}"
    return shown(value) if isinstance(value, str) else value


def json_text(text: str) -> str:
    """Return JSON with the characters that are not seen as its own escapes: to a program it is the same."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}" if match[0] != "\r" else match[0], text)
