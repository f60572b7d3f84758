"""Every way a file can be broken, and the message that it gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from toolchain.core.errors import DataError
from toolchain.tasks import files
from toolchain.tasks.shared.reading import FORMATS

GOOD = "sentence,label\nfine,1\nbad,0\n"


def error_of(**settings: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        files.load(TypeAdapter(files.Config).validate_python(settings))
    return caught.value


def train_error(folder: Path, name: str, content: str | bytes, **settings: Any) -> tuple[str, str]:
    """The message, with the folder cut off, and the hint for a broken training file."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    error = error_of(files={"train": str(path)}, **settings)
    return error.message.replace(f"{folder}/", ""), error.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "sentence,label\nfine,1\nbroken\nbad,0\n", "a.csv:3: 1 column instead of 2"),
        ("a.csv", 'sentence,label\n"two\nlines",1\na,b,c\n', "a.csv:4: 3 columns instead of 2"),
        ("a.csv", 'sentence,label\nfine,1\n"never closed,0\nbad,0\n', "a.csv:3: unexpected end of data"),
        ("a.csv", 'sentence,label\n"a"b,1\n', "a.csv:2: ',' expected after '\"'"),
        ("a.csv", "sentence,label\n", "a.csv: has a header and no rows"),
        ("a.csv", "", "a.csv: is empty (0 bytes)"),
        ("a.csv", "\n \n", "a.csv: is empty (nothing but white space)"),
        ("a.csv", "sentence,label\nfine,1\n ,0\n", "a.csv:3: empty text in 'sentence'"),
        ("a.csv", "sentence,label\nfine,1\nbad,\nworse,0\n", "a.csv:3: empty label"),
        ("a.csv", "sentence,label,label\nfine,1,1\n", "a.csv:1: two columns are named 'label'"),
        ("a.csv", "sentence,label\nfine,1\ngood,1\n", "a.csv: one class only, '1', in 2 rows; two at least are needed"),
        ("a.csv", b"sentence,label\nfine,1\nb\x00d,0\n", "a.csv:3: NUL byte; the file holds 1 and is not plain text"),
        ("a.tsv", "sentence\tlabel\na\tb\t1\n", "a.tsv:2: 3 columns instead of 2"),
        ("a.parquet", b"PAR1 but not really", None),
        ("a.xlsx", "x", "a.xlsx: the extension '.xlsx' is not read; allowed: " + ", ".join(FORMATS)),
    ],
)
def test_broken_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str | None
) -> None:
    found, _ = train_error(tmp_path, name, content)
    assert found.startswith(name)
    if message is not None:
        assert found == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence": }', "not JSON: Expecting value at column 14"),
        ("7", "an object with sentence, label is expected; this is a number"),
        ('{"sentence": "a"}', "no 'label'; known: sentence"),
        ('{"sentence": 3, "label": 1}', "'sentence' is 3; text is expected"),
        ('{"sentence": null, "label": 1}', "empty text in 'sentence'"),
        ('{"sentence": "a", "label": null}', "empty label"),
        ('{"sentence": "a", "label": NaN}', "empty label"),
        ('{"sentence": "a", "label": [1]}', "the label is [1]; a name or a number is expected"),
        (r'{"sentence": "\ud800", "label": 1}', "'sentence' holds half of a surrogate pair, which is no character"),
    ],
)
def test_broken_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = '{"sentence": "b", "label": 0}\n{"sentence": "c", "label": 1}\n'
    assert train_error(tmp_path, "a.jsonl", good + line + "\n")[0] == f"a.jsonl:3: {message}"


def test_json_array_is_recognized(tmp_path: Path) -> None:
    message, hint = train_error(tmp_path, "a.jsonl", '[\n{"sentence": "a"},\n{"sentence": "b"}\n]\n')
    assert message == "a.jsonl:1: a JSON array; one object per line is expected"
    assert hint == "write it as JSON lines"


def test_missing_column_suggests_what_is_there(tmp_path: Path) -> None:
    message, hint = train_error(tmp_path, "a.csv", "sentense,label\nfine,1\nbad,0\n")
    assert message == "a.csv:1: no column 'sentence'; columns present: 'sentense', 'label'"
    assert hint == "did you mean 'sentense'? known: label, sentense"


def test_unnamed_header_is_not_taken_for_data(tmp_path: Path) -> None:
    message, _ = train_error(tmp_path, "a.tsv", "review\tstars\nfine\t1\nbad\t0\n")
    assert message == "a.tsv:1: no column 'sentence', 'label'; columns present: 'review', 'stars'"


def test_wrong_delimiter_is_recognized(tmp_path: Path) -> None:
    _, hint = train_error(tmp_path, "a.csv", "sentence;label\nfine;1\nbad;0\n")
    assert hint == "its columns seem to be separated by ';': set delimiter: \";\""


def test_wrong_encoding_names_byte_and_line(tmp_path: Path) -> None:
    message, hint = train_error(tmp_path, "a.csv", "sentence,label\nfine,1\ntrès,0\n".encode("latin-1"))
    assert message == "a.csv:3: byte 0xe8 is not utf-8"
    assert "latin-1 or cp1252" in hint


def test_utf16_is_recognized(tmp_path: Path) -> None:
    message, hint = train_error(tmp_path, "a.csv", GOOD.encode("utf-16"))
    # A UTF-16 byte order mark begins with 0xff or 0xfe, neither of which UTF-8 has.
    assert message in ("a.csv:1: byte 0xff is not utf-8", "a.csv:1: byte 0xfe is not utf-8")
    assert "encoding: utf-16" in hint


def test_unknown_encoding_is_said(tmp_path: Path) -> None:
    message, _ = train_error(tmp_path, "a.csv", GOOD, encoding="utf-9")
    assert message == "a.csv: unknown encoding 'utf-9'"


def test_first_five_of_many_broken_rows_are_shown_and_all_counted(tmp_path: Path) -> None:
    message, _ = train_error(tmp_path, "a.csv", GOOD + "broken\n" * 1200)
    assert message.splitlines() == [
        "a.csv: 1,200 rows cannot be used:",
        *(f"    a.csv:{line}: 1 column instead of 2" for line in range(4, 9)),
        "    and 1,195 more",
    ]


def test_unknown_label_in_dev_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sentence,label\na,negative\nb,neutral\nc,positive\n")
    (tmp_path / "dev.csv").write_text("sentence,label\nd,negative\ne,neutrall\n")
    error = error_of(files={name: str(tmp_path / f"{name}.csv") for name in ("train", "dev")})
    assert error.message == (
        f"{tmp_path}/dev.csv:3: unknown label 'neutrall'; did you mean 'neutral'? known: negative, neutral, positive"
    )


def test_column_of_numbers_is_not_taken_for_classes(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{i / 7:.3f}\n" for i in range(100))
    message, _ = train_error(tmp_path, "a.csv", "sentence,label\n" + rows)
    assert message == "a.csv: 'label' has 100 different values in 100 rows: a number or an id, not a class"


def test_missing_file_folder_and_unreadable_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    error = error_of(files={"train": str(tmp_path / "trian.csv")})
    assert error.message == f"{tmp_path}/trian.csv: no such file"
    assert error.hint == "did you mean 'train.csv'? known: train.csv"
    assert error_of(files={"train": str(tmp_path)}).message == f"{tmp_path}: is a folder; a file is expected"


def test_too_few_rows_to_hold_out(tmp_path: Path) -> None:
    message, hint = train_error(tmp_path, "a.csv", GOOD)
    assert message == "2 training rows are too few to hold out dev"
    assert hint == "name a file for dev"


def test_everything_overlapping_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD)
    error = error_of(files=dict.fromkeys(("train", "dev", "test"), str(path)))
    assert error.message == "every training text is also in test"


def test_parquet_errors_name_the_file_and_the_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"sentence": ["a", None, "c"], "label": [0, 1, 1]}), path)
    assert error_of(files={"train": str(path)}).message == f"{path}: row 2: empty text in 'sentence'"
    missing = error_of(files={"train": str(path)}, label="target")
    assert missing.message == f"{path}: no column 'target'; columns present: 'sentence', 'label'"
    path.write_bytes(path.read_bytes()[:-20])
    assert error_of(files={"train": str(path)}).message.startswith(f"{path} is not a readable Parquet file: ")
    pq.write_table(pa.table({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), path)
    assert error_of(files={"train": str(path)}).message == f"{path}: has no rows"


def test_deeply_nested_json_is_an_error_not_a_crash(tmp_path: Path) -> None:
    message, _ = train_error(tmp_path, "a.jsonl", json.dumps({"sentence": "a", "label": 1}) + "\n" + '{"a":' * 200_000)
    assert message.startswith("a.jsonl:2: not JSON: ")
