"""Data files of strangers: many rows in a small file, pipes, and files of other kinds are refused in time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.errors import DataError, ToolchainError
from toolchain.tasks.shared.columns import read_sheet
from toolchain.tasks.shared.reading import file_digest, read_table


def _equal_rows(path: Path, text: str, rows: int) -> Path:
    """Write a Parquet file of equal rows, which are stored once."""
    numpy, pyarrow = pytest.importorskip("numpy"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    index = pyarrow.array(numpy.zeros(rows, dtype="int32"))
    columns = {"text": text, "label": "pos"}
    table = pyarrow.table(
        {n: pyarrow.DictionaryArray.from_arrays(index, pyarrow.array([t])) for n, t in columns.items()}
    )
    parquet.write_table(table, path, compression="zstd", store_schema=False)
    return path


@pytest.mark.parametrize("read", [lambda path: read_table(path, ["text", "label"]), read_sheet])
def test_a_small_parquet_file_of_many_or_of_long_equal_rows_is_refused(read: Any, tmp_path: Path) -> None:
    many = _equal_rows(tmp_path / "many.parquet", "good movie", 2_000_000)
    assert many.stat().st_size < 40_000
    with pytest.raises(DataError, match="2,000,000 rows or more; at most 1,000,000 are read") as caught:
        read(many)
    assert "TOOLCHAIN_LIMIT_ROWS" in caught.value.hint
    long = _equal_rows(tmp_path / "long.parquet", "x" * 5_000_000, 2_000)
    with pytest.raises(DataError, match="unpacked, it has 10,000,006,000 bytes or more") as caught:
        read(long)
    assert "TOOLCHAIN_LIMIT_DATA_BYTES" in caught.value.hint


def test_a_parquet_file_within_the_limits_is_read_whole(tmp_path: Path) -> None:
    path = _equal_rows(tmp_path / "a.parquet", "good movie", 9_000)
    table = read_table(path, ["text", "label"])
    assert (len(table), table.columns["text"][8_999], table.places[8_999]) == (9_000, "good movie", f"{path}: row 9000")
    path.write_bytes(path.read_bytes()[:-30] + b"\0" * 30)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(path, ["text", "label"])


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("a.csv", "text,label\n", "good,pos\n"),
        ("a.tsv", "text\tlabel\n", "good\tpos\n"),
        ("a.jsonl", "", '{"text": "good", "label": "pos"}\n'),
    ],
)
def test_more_rows_than_the_limit_are_refused(
    name: str, header: str, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN_LIMIT_ROWS", "3")
    (tmp_path / name).write_text(header + 5 * row, "utf-8")
    with pytest.raises(DataError, match="4 rows or more; at most 3 are read"):
        read_table(tmp_path / name, ["text", "label"])


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    for read in (lambda path: read_table(path, ["text"]), read_sheet, file_digest):
        with pytest.raises(ToolchainError, match="is a pipe, not a file"):
            read(tmp_path / "a.csv")


def test_a_file_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLCHAIN_LIMIT_DATA_BYTES", "10")
    (tmp_path / "a.csv").write_text("text,label\ngood,pos\n", "utf-8")
    with pytest.raises(DataError, match="has 20 bytes; at most 10 are read"):
        read_table(tmp_path / "a.csv", ["text", "label"])
