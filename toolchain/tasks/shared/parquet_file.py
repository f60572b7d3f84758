"""Reads Parquet files in pieces, so that a small file of many equal rows is refused before it fills the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.core import limits
from toolchain.core.errors import DataError, require
from toolchain.core.vendor import vendor

#: Rows that are unpacked at a time.
PIECE = 4096

_WHAT = "is not a readable Parquet file"


def names(path: Path) -> tuple[list[str], Mapping[bytes, bytes]]:
    """Return the columns of a file and what its schema says beside them.

    Raises:
        DataError: It is no Parquet file.
    """
    parquet = require("pyarrow.parquet", "parquet")
    with vendor(_WHAT, path, DataError):
        schema = parquet.read_schema(path)
        return list(schema.names), dict(schema.metadata or {})


def pieces(path: Path, columns: Sequence[str] | None) -> Iterator[dict[str, list[Any]]]:
    """Yield the values of columns, some rows at a time.

    Args:
        path: The file.
        columns: Their names; None is all.

    Raises:
        DataError: It is no Parquet file, or holds more rows or bytes than the limits allow.
    """
    pyarrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    most, rows, size = limits.limit("data_bytes"), 0, 0
    with vendor(_WHAT, path, DataError):
        about = parquet.read_metadata(path)
        check_rows(path, about.num_rows)
        _check_bytes(path, sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups)))
        schema = parquet.read_schema(path)
        wanted = [field.name for field in schema if columns is None or field.name in columns]
        kinds = {pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.large_binary()}
        texts = [name for name in wanted if schema.field(name).type in kinds]
        # As dictionaries, equal texts are one: what they take when unpacked is known before it is taken.
        file = parquet.ParquetFile(path, read_dictionary=texts)
        batches = iter(file.iter_batches(batch_size=PIECE, columns=wanted))
    while True:
        with vendor(_WHAT, path, DataError):
            batch = next(batches, None)
            if batch is None:
                return
            rows += batch.num_rows
            check_rows(path, rows)
            size += sum(_unpacked(column) for column in batch.columns)
            if size > most:
                _check_bytes(path, size)
            piece = {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        yield piece


def check_rows(path: Path, rows: int) -> None:
    """Refuse a file of more rows than the limit.

    Raises:
        DataError: It has more.
    """
    if rows > limits.limit("rows"):
        raise DataError(
            f"{path}: has {rows:,} rows or more; at most {limits.limit('rows'):,} are read", limits.way_out("rows")
        )


def _check_bytes(path: Path, size: int) -> None:
    if size > limits.limit("data_bytes"):
        raise DataError(
            f"{path}: unpacked, it has {size:,} bytes or more; at most {limits.limit('data_bytes'):,} are read",
            limits.way_out("data_bytes"),
        )


def _unpacked(column: Any) -> int:
    """Return the bytes of a column's values, those of equal texts each time."""
    compute = require("pyarrow.compute", "parquet")
    if not hasattr(column, "dictionary"):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary)
    return int(compute.sum(lengths.cast("int64").take(column.indices)).as_py() or 0)
