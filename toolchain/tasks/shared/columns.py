"""Guess which columns of a table hold the text and the answer, for a recipe that the user then reads."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core import documents, registry
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import DataError
from toolchain.tasks.shared import parquet_file
from toolchain.tasks.shared.examples import MANY_CLASSES, label_text
from toolchain.tasks.shared.reading import FORMATS, check_file, decode

#: Usual names of two columns that form a pair.
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
    ("question", "context"), ("question", "passage"), ("query", "passage"), ("query", "document"),
    ("text1", "text2"), ("text_a", "text_b"), ("text", "text_pair"), ("first", "second"),
)  # fmt: skip

#: Usual names of the text, the likeliest first.
TEXTS = (
    "text", "sentence", "review", "message", "utterance", "tweet", "comment", "content", "body", "document", "query",
    "question", "input", "description", "title",
)  # fmt: skip

#: Usual names of the class or of what stands in its place, the likeliest first.
LABELS = (
    "label", "labels", "label_text", "class", "category", "target", "sentiment", "intent", "topic", "gold",
    "gold_label", "y", "tag", "stars", "rating", "tags", "categories", "topics", "emotions", "score", "similarity",
    "similarity_score", "relatedness_score",
)  # fmt: skip

#: Rows that are read of a Parquet file.
ROWS = 100_000


@dataclass(frozen=True)
class Sheet:
    """A table as it is in its file.

    Attributes:
        path: The file.
        columns: Values by column name; ``0`` and ``1`` where the file has no header.
        header: Whether the file names its columns.
        settings: What the files task must be told to read it: ``delimiter``, ``encoding``.
    """

    path: Path
    columns: Mapping[str, Sequence[Any]]
    header: bool
    settings: Mapping[str, str]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(next(iter(self.columns.values()), ()))

    def classes(self, column: str, kind: str = CLASSIFICATION) -> tuple[str, ...]:
        """The distinct labels of a column as a kind of task reads it, sorted: numbers as numbers."""
        parts = kinds.get(kind).cell_labels
        found = {text for value in self.columns[column] for part in parts(value) if (text := label_text(part))}
        return tuple(sorted(found, key=_place))


def _place(label: str) -> tuple[bool, int, str]:
    """What labels are sorted by: numbers by their value, whatever their length, and before other texts."""
    digits = label.lstrip("0") if label.isdecimal() else ""
    return not label.isdecimal(), len(digits), digits or label


@dataclass(frozen=True)
class Guess:
    """Which columns hold what: one column of text, or the two of a pair, and the class; and the kind of task."""

    text: tuple[str, ...]
    label: str
    kind: str = CLASSIFICATION


def read_sheet(path: Path) -> Sheet:
    """Read a table with all of its columns, its delimiter and encoding found out.

    Raises:
        DataError: The file cannot be read as a table of its kind.
    """
    check_file(path)
    kind = FORMATS[path.suffix.lower()]
    if kind == "parquet":
        return Sheet(path, _parquet(path), True, {})
    text, encoding = _text(path)
    if kind == "jsonl":
        return Sheet(path, _jsonl(path, text), True, encoding)
    usual = "," if kind == "csv" else "\t"
    delimiter = usual if kind == "tsv" else _delimiter(text)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter,
        quoting=csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL,
    )  # fmt: skip
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}", "correct that row") from error
    finally:
        csv.field_size_limit(limit)
    first = [name.strip() for name in rows[0]]
    header = not _begins_with_data(rows)
    names = first if header else [str(number) for number in range(len(first))]
    whole = [row for row in rows[1 if header else 0 :] if len(row) == len(names)]
    if not whole:
        raise DataError(f"{path}: has a header and no rows")
    columns = {name: [row[place] for row in whole] for place, name in enumerate(names)}
    settings = {**({"delimiter": delimiter} if delimiter != usual else {}), **encoding}
    return Sheet(path, columns, header, settings)


def guess(
    sheet: Sheet, known: Sequence[str] = (), text: Sequence[str] = (), label: str | None = None, kind: str = ""
) -> Guess:
    """Find the text and the class among the columns of a sheet.

    Args:
        sheet: The table.
        known: The labels of a model that was trained for this task; a column that holds just these is the class.
        text: Columns that the user named as the text.
        label: The column that the user named as the class.
        kind: The kind of task; where none is named, the one that recognizes the column, or else classification.

    Raises:
        DataError: A named column is absent, the class column holds one class only, or the columns do not tell.
    """
    missing = [name for name in (*text, *([label] if label else [])) if name not in sheet.columns]
    if missing:
        close = difflib.get_close_matches(missing[0], sheet.columns, n=1)
        raise DataError(
            f"{sheet.path}: no column {missing[0]!r}; columns: {', '.join(sheet.columns)}",
            f"did you mean {close[0]!r}?" if close else "name one of these",
        )
    if not sheet.header:
        return Guess(("0",), "1", kind or _kind(sheet, "1"))
    label = label or _label(sheet, known, text, kind)
    chosen = tuple(text) or _texts(sheet, label)
    if label is None or not chosen:
        what = "the class" if label is None else "the text"
        raise DataError(
            f"{sheet.path}: which column holds {what}? columns: {', '.join(sheet.columns)}",
            "name them, for example: --text COLUMN --label COLUMN",
        )
    kind = kind or _kind(sheet, label)
    if not kinds.get(kind).NAMES and len(classes := sheet.classes(label, kind)) < 2:
        raise DataError(
            f"{sheet.path}: {label!r} holds one class only: {', '.join(classes) or 'every row is empty'}",
            "name a file with examples of every class, or another class column: --label COLUMN",
        )
    return Guess(chosen, label, kind)


def _kind(sheet: Sheet, column: str) -> str:
    """Return the kind of task that recognizes a column, or else classification."""
    names = registry.names("kinds")
    return next((name for name in names if kinds.get(name).recognizes(sheet.columns[column])), CLASSIFICATION)


def _label(sheet: Sheet, known: Sequence[str], text: Sequence[str], kind: str) -> str | None:
    wanted = {name.casefold() for name in known}
    free = [name for name in sheet.columns if name not in text]
    by_name = [name for usual in LABELS for name in free if name.casefold() == usual]
    for name in [*by_name, *free]:
        classes = {value.casefold() for value in sheet.classes(name, kind or CLASSIFICATION)}
        if len(classes) > 1 and classes <= wanted:
            return name
    if by_name:
        return by_name[0]
    recognized = [name for name in free if kind and kinds.get(kind).recognizes(sheet.columns[name])]
    if len(recognized) == 1:
        return recognized[0]
    few = [
        name for name in free if 2 <= len(sheet.classes(name)) <= min(MANY_CLASSES, sheet.rows // 3)
        and _words(sheet, name) < 3
    ]  # fmt: skip
    if len(few) == 1:
        return few[0]
    alone = [name for name in free if {value.casefold() for value in sheet.classes(name)} & wanted]
    return alone[0] if len(alone) == 1 else None


def _texts(sheet: Sheet, label: str | None) -> tuple[str, ...]:
    free = {name.casefold(): name for name in sheet.columns if name != label}
    for first, second in PAIRS:
        if first in free and second in free:
            return free[first], free[second]
    named = next((free[name] for name in TEXTS if name in free), None)
    if named is not None:
        return (named,)
    prose = [name for name in free.values() if _words(sheet, name) >= 3]
    return tuple(prose) if len(prose) == 1 else ()


def _words(sheet: Sheet, column: str) -> float:
    """Mean number of words of a column's first values; 0 where they are not text."""
    values = [value for value in sheet.columns[column][:200] if value is not None]
    texts = [value for value in values if isinstance(value, str)]
    return sum(len(text.split()) for text in texts) / len(values) if values and len(texts) == len(values) else 0.0


def _begins_with_data(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a table of two columns has no header: its first class recurs further down."""
    first = [value.strip() for value in rows[0]]
    usual = {name.casefold() for name in first} & {*TEXTS, *LABELS}
    return len(first) == 2 and not usual and any(row[-1].strip() == first[1] for row in rows[1:])


def _text(path: Path) -> tuple[str, dict[str, str]]:
    """Return a file's text, and its encoding where that is not UTF-8."""
    with path.open("rb") as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    for encoding in ("utf-8", "utf-16" if marked else "cp1252"):
        try:
            return decode(path, encoding), {} if encoding == "utf-8" else {"encoding": encoding}
        except DataError:
            continue
    return decode(path), {}  # raises what is wrong with it as UTF-8


def _delimiter(text: str) -> str:
    """Return the character that most evenly separates the first lines."""
    head = text.splitlines()[:20]
    counts = {mark: [line.count(mark) for line in head] for mark in (",", ";", "\t", "|")}
    return next((mark for mark in (",", ";", "\t", "|") if counts[mark][0] and _even(head, mark)), ",")


def _even(lines: Sequence[str], delimiter: str) -> bool:
    widths = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
    return len(widths) == 1 or delimiter == ","


def _jsonl(path: Path, text: str) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = documents.parse_json(line, f"{path}:{number}", DataError, "one JSON object per line is expected")
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object", "one JSON object per line is expected")
        rows.append(row)
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: [row[name] for row in rows] for name in names}


def _parquet(path: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for piece in parquet_file.pieces(path, None):
        for name, values in piece.items():
            columns.setdefault(name, []).extend(values)
        if len(next(iter(columns.values()), ())) >= ROWS:
            break
    if not columns:
        raise DataError(f"{path}: has no rows")
    return columns
