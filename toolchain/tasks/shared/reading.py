"""Reads tables of text from CSV, TSV, JSONL and Parquet files; what is broken is named by file and line."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.core import disk, documents, limits
from toolchain.core.errors import DataError
from toolchain.core.registry import suggest
from toolchain.tasks.shared import parquet_file

#: Extensions that are read, and how.
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}

#: Row errors of one file that are shown; the others are counted.
SHOWN = 5


@dataclass(frozen=True)
class Table:
    """Columns of one source, all of one length.

    Attributes:
        source: What it was read from: a path, or a hub name.
        columns: Values by column name.
        places: Where each row stands: ``data/a.csv:7`` (the line it begins on) or ``data/a.parquet: row 7``.
        classes: Class names that the source itself gives to integer labels, by column.
        header: Whether column names were read, rather than supplied for a file without a header.
    """

    source: str
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    header: bool = True

    def __len__(self) -> int:
        return len(self.places)

    def need(self, names: Sequence[str]) -> None:
        """Checks that these columns are there.

        Raises:
            DataError: One is not.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise missing_columns(self.source, missing, list(self.columns))


class RowErrors:
    """Gathers what is wrong with the rows of one source, to say all of it at once."""

    def __init__(self, source: str, hint: str = "") -> None:
        self.source, self.hint = source, hint
        self.messages: list[str] = []

    def add(self, place: str, message: str) -> None:
        """Notes one broken row."""
        self.messages.append(f"{place}: {message}")

    def check(self) -> None:
        """Raises a DataError with the first few messages and the count of all, if there are any."""
        if not self.messages:
            return
        if len(self.messages) == 1:
            raise DataError(self.messages[0], self.hint)
        lines = self.messages[:SHOWN]
        if len(self.messages) > SHOWN:
            lines.append(f"and {len(self.messages) - SHOWN:,} more")
        raise DataError(
            f"{self.source}: {len(self.messages):,} rows cannot be used:\n    " + "\n    ".join(lines), self.hint
        )


def read_table(
    path: Path,
    needed: Sequence[str],
    *,
    plain: Sequence[str] = (),
    known: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> Table:
    """Reads one file.

    Args:
        path: A file with one of the extensions in FORMATS.
        needed: Columns that it must have.
        plain: Names for the two columns of a file without header (text, label); empty: a header is demanded.
        known: Class names, when they are known: they tell a header from a first row.
        delimiter: Between columns; by default a comma, and a tab in ``.tsv``.
        encoding: Of text formats; a UTF-8 byte order mark is passed over.

    Raises:
        DataError: The file is missing, empty, of another format or encoding, or rows of it are broken.
    """
    check_file(path)
    kind = FORMATS[path.suffix.lower()]
    if kind == "parquet":
        table = _read_parquet(path, needed)
    elif kind == "jsonl":
        table = _read_jsonl(path, decode(path, encoding), needed)
    else:
        rows = _delimited_rows(path, decode(path, encoding), kind, delimiter)
        table = _with_header(path, rows, needed, plain, known, kind)
    if not len(table):
        raise DataError(f"{path}: has a header and no rows" if kind != "parquet" else f"{path}: has no rows")
    return table


def check_file(path: Path, formats: Iterable[str] = FORMATS) -> None:
    """Checks that a file is there, is a file, has content, and has an extension that is read.

    Args:
        path: The file.
        formats: Extensions that are read.

    Raises:
        DataError: One of these does not hold.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; a file is expected", "name the file inside it")
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_file()) if path.parent.is_dir() else []
        where = suggest(path.name, near[:20]) if near else f"the folder {path.parent} is empty or not there"
        raise DataError(f"{path}: no such file", where)
    if path.suffix.lower() not in formats:
        raise DataError(
            f"{path}: the extension {path.suffix!r} is not read; allowed: {', '.join(formats)}",
            "convert the file, or rename it if only its name is wrong",
        )
    try:
        size = path.stat().st_size
        disk.open_regular(path).close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not size:
        raise DataError(f"{path}: is empty (0 bytes)")
    if size > limits.limit("data_bytes"):
        raise DataError(f"{path}: has {size:,} bytes; at most {limits.limit('data_bytes'):,} are read",
                        limits.way_out("data_bytes"))  # fmt: skip


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with disk.open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def missing_columns(source: str, missing: Sequence[str], present: Sequence[str]) -> DataError:
    """The error for columns that a source does not have."""
    named = ", ".join(repr(name) for name in missing)
    hint = suggest(missing[0], present)
    for delimiter, name in ((";", "';'"), ("\t", "a tab"), (",", "','"), ("|", "'|'")):
        if len(present) == 1 and delimiter in present[0]:
            hint = f"its columns seem to be separated by {name}: set delimiter: {json.dumps(delimiter)}"
    return DataError(f"{source}: no column {named}; columns present: {', '.join(map(repr, present))}", hint)


def decode(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file.

    Raises:
        DataError: It is of another encoding, empty, or holds NUL bytes; with the line.
    """
    data = disk.read_bounded(path, name="data_bytes")
    try:
        name = codecs.lookup(encoding).name
        text = data.decode("utf-8-sig" if name == "utf-8" else encoding)
    except LookupError as error:
        raise DataError(
            f"{path}: unknown encoding {encoding!r}", "for example utf-8, latin-1, cp1252, utf-16"
        ) from error
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data.count(b"\n", 0, at) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[at]:02x} is not {encoding}",
            "the file seems to be UTF-16: set encoding: utf-16"
            if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            else "set encoding: to what the file was written in, e.g. latin-1 or cp1252 (or utf-8)",
        ) from error
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise DataError(
            f"{path}:{line}: NUL byte; the file holds {text.count(chr(0)):,} and is not plain text",
            "the file may be UTF-16 (set encoding: utf-16), or damaged",
        )
    if not text.strip():
        raise DataError(f"{path}: is empty (nothing but white space)")
    return text


def _delimited_rows(path: Path, text: str, kind: str, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line each begins on; blank lines are passed over."""
    # TSV as GLUE writes it has no quoting: a quotation mark there is a character of the text.
    lines = io.StringIO(text, newline="")
    if kind == "csv":
        reader = csv.reader(lines, delimiter=delimiter or ",", strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter or "\t", quoting=csv.QUOTE_NONE, strict=True)
    begins, count, most = 1, 0, limits.limit("rows")
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        for row in reader:
            if row:
                count += 1
                if count > most:
                    parquet_file.check_rows(path, count)
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{begins}: {error}",
            'a quotation mark inside a quoted field must be doubled (""), and a quoted field must be closed',
        ) from error
    finally:
        csv.field_size_limit(limit)


def _with_header(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    needed: Sequence[str],
    plain: Sequence[str],
    known: Sequence[str],
    kind: str,
) -> Table:
    """Gives names to columns: the first row's, or those of the plain layout."""
    gathered = list(rows)
    first = [name.strip() for name in gathered[0][1]]
    header = True
    names = first
    if not set(needed) & set(first) and plain and _is_plain([row for _, row in gathered], known):
        names, header = list(plain), False
    else:
        missing = [name for name in needed if name not in first]
        if missing:
            raise missing_columns(f"{path}:{gathered[0][0]}", missing, first)
        twice = sorted({name for name in needed if first.count(name) > 1})
        if twice:
            raise DataError(f"{path}:{gathered[0][0]}: two columns are named {twice[0]!r}", "rename one of them")
        gathered = gathered[1:]
    quoted = kind == "tsv" and any('"' in value for _, row in gathered[:200] for value in row)
    errors = RowErrors(
        str(path), 'TSV is read without quoting; quoted fields are for .csv (with delimiter: "\\t")' if quoted else ""
    )
    good = []
    for line, row in gathered:
        if len(row) == len(names):
            good.append((line, row))
        else:
            errors.add(f"{path}:{line}", f"{_count(len(row), 'column')} instead of {len(names)}")
    errors.check()
    columns = {name: [row[i] for _, row in good] for i, name in enumerate(names)}
    return Table(str(path), columns, [f"{path}:{line}" for line, _ in good], header=header)


def _is_plain(rows: list[list[str]], known: Sequence[str]) -> bool:
    """Whether rows begin with data, ``text, label``: a label recurs further down, a column name does not."""
    if len(rows[0]) != 2:
        return False
    first = rows[0][1].strip()
    return first in known or any(row[-1].strip() == first for row in rows[1:])


def _read_jsonl(path: Path, text: str, needed: Sequence[str]) -> Table:
    errors = RowErrors(str(path))
    columns: dict[str, list[Any]] = {name: [] for name in needed}
    places: list[str] = []
    most = limits.limit("rows")
    # Not splitlines: JSON strings may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = documents.parse_json(line, "not JSON", DataError, halves=True)
        except DataError as error:
            cause = error.__cause__
            if isinstance(cause, json.JSONDecodeError):
                errors.add(place, f"not JSON: {cause.msg} at column {cause.colno}")
            else:
                errors.add(place, error.message)
            continue
        if not isinstance(row, dict):
            errors.add(place, f"an object with {', '.join(needed)} is expected; this is {_json_kind(row)}")
            continue
        missing = [name for name in needed if name not in row]
        if missing:
            errors.add(place, f"no {missing[0]!r}; {suggest(missing[0], list(row))}")
            continue
        places.append(place)
        if len(places) > most:
            parquet_file.check_rows(path, len(places))
        for name in needed:
            columns[name].append(row[name])
    if len(errors.messages) > 1 and text.lstrip().startswith("[") and not places:
        raise DataError(f"{path}:1: a JSON array; one object per line is expected", "write it as JSON lines")
    errors.check()
    return Table(str(path), columns, places)


def _read_parquet(path: Path, needed: Sequence[str]) -> Table:
    present, metadata = parquet_file.names(path)
    missing = [name for name in needed if name not in present]
    if missing:
        raise missing_columns(str(path), missing, present)
    columns: dict[str, list[Any]] = {name: [] for name in needed}
    for piece in parquet_file.pieces(path, needed):
        for name in needed:
            columns[name] += piece[name]
    places = [f"{path}: row {number}" for number in range(1, len(columns[needed[0]]) + 1)]
    return Table(str(path), columns, places, _class_names(metadata))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Class names that the ``datasets`` library left in a Parquet or Arrow schema."""
    try:
        record = documents.parse_json(metadata[b"huggingface"], "the schema", DataError)
        features = record["info"]["features"]
        inner = {name: _of_list(feature) for name, feature in features.items()}
        return {n: tuple(map(str, f["names"])) for n, f in inner.items() if isinstance(f, dict) and "names" in f}
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _of_list(feature: Any) -> Any:
    """Return what a list in a ``datasets`` schema is a list of, or the feature itself."""
    if isinstance(feature, list) and feature:
        return feature[0]
    return feature.get("feature", feature) if isinstance(feature, dict) else feature


def _json_kind(value: object) -> str:
    names = {bool: "true or false", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
