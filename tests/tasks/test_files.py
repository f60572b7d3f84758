from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.command import ROOT
from toolchain.core.data import Dataset
from toolchain.tasks import files

PAIR = "sentence,label\nfine,1\nbad,0\n"


def load(**settings: Any) -> Dataset:
    return files.load(TypeAdapter(files.Config).validate_python(settings))


def three(
    folder: Path, train: str, suffix: str = ".csv", dev: str | None = None, test: str | None = None
) -> dict[str, str]:
    """Writes train, dev and test; what is not given is a small valid CSV or the same text as train."""
    paths = {}
    for name, text in (("train", train), ("dev", dev or train), ("test", test or train)):
        path = folder / f"{name}{suffix}"
        path.write_text(text, encoding="utf-8", newline="")
        paths[name] = str(path)
    return paths


def test_csv_with_bom_crlf_quoted_newline_and_doubled_quotes(tmp_path: Path) -> None:
    text = '\ufeffsentence,label\r\n"He said ""no"",\r\ntwice",0\r\nplain,1\r\n\r\n'
    data = load(files=three(tmp_path, text), drop_overlaps=False)
    assert list(data.dev.texts) == [('He said "no",\r\ntwice',), ("plain",)]
    assert list(data.dev.labels) == [0, 1]
    assert data.labels == ("0", "1")


def test_tsv_is_read_without_quoting(tmp_path: Path) -> None:
    data = load(
        files=three(tmp_path, 'sentence\tlabel\n"quoted" start\t1\na 5" disk\t0\n', ".tsv"), drop_overlaps=False
    )
    assert [text[0] for text in data.train.texts] == ['"quoted" start', 'a 5" disk']


def test_plain_two_columns_without_header_are_text_and_label(tmp_path: Path) -> None:
    data = load(files=three(tmp_path, "good film\tpos\nbad film\tneg\nfine film\tpos\n", ".tsv"), drop_overlaps=False)
    assert data.labels == ("neg", "pos")
    assert list(data.train.labels) == [1, 0, 1]
    assert data.notes[0] == f"{tmp_path / 'train.tsv'} has no header: its columns are taken as sentence, label"


def test_pairs_and_three_classes(tmp_path: Path) -> None:
    text = "id,premise,hypothesis,relation\n1,a man sleeps,he rests,yes\n2,it rains,it is dry,no\n3,x,y,maybe\n"
    data = load(files=three(tmp_path, text), text=["premise", "hypothesis"], label="relation", drop_overlaps=False)
    assert data.pairs
    assert data.train.texts[0] == ("a man sleeps", "he rests")
    assert data.labels == ("maybe", "no", "yes")
    assert list(data.train.labels) == [2, 1, 0]


def test_numeric_labels_sort_as_numbers(tmp_path: Path) -> None:
    huge = "9" * 5000  # longer than Python makes numbers of
    rows = "".join(f"text {index},{number}\n" for index, number in enumerate((10, huge, 9, 2)))
    assert load(files=three(tmp_path, "sentence,label\n" + rows), drop_overlaps=False).labels == ("2", "9", "10", huge)


def test_labels_setting_orders_classes_or_names_indices(tmp_path: Path) -> None:
    named = load(files=three(tmp_path, "sentence,label\na,x\nb,y\n"), labels=["y", "x"], drop_overlaps=False)
    assert (named.labels, list(named.train.labels)) == (("y", "x"), [1, 0])
    indexed = load(files=three(tmp_path, PAIR), labels=["negative", "positive"], drop_overlaps=False)
    assert (indexed.labels, list(indexed.train.labels)) == (("negative", "positive"), [1, 0])


def test_delimiter_and_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("sentence;label\ntrès bien;1\nnul;0\n".encode("cp1252"))
    data = load(
        files=dict.fromkeys(("train", "dev", "test"), str(path)), delimiter=";", encoding="cp1252", drop_overlaps=False
    )
    assert data.train.texts[0] == ("très bien",)


def test_jsonl_with_typed_labels(tmp_path: Path) -> None:
    rows = [{"sentence": "a\u2028b", "label": 1}, {"sentence": "c", "label": 0.0}, {"sentence": "d", "label": True}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    data = load(files=three(tmp_path, text, ".jsonl"), drop_overlaps=False)
    assert data.train.texts[0] == ("a\u2028b",)
    assert data.labels == ("0", "1", "true")


def test_parquet_with_class_names_of_the_datasets_library(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    features = {"label": {"names": ["entailment", "other"], "_type": "ClassLabel"}}
    table = pa.table({"s1": ["a", "b"], "s2": ["c", "d"], "label": [1, 0], "idx": [0, 1]})
    path = tmp_path / "all.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    data = load(files=dict.fromkeys(("train", "dev", "test"), str(path)), text=["s1", "s2"], drop_overlaps=False)
    assert data.labels == ("entailment", "other")
    assert list(data.train.labels) == [1, 0]
    assert data.train.texts[1] == ("b", "d")


def test_dev_and_test_are_held_out_alike_by_class_and_repeatably(tmp_path: Path) -> None:
    rows = "".join(f"text number {i},{'rare' if i % 5 == 0 else 'common'}\n" for i in range(200))
    path = tmp_path / "all.csv"
    path.write_text("sentence,label\n" + rows)
    data = load(files={"train": str(path)})
    # 160 common and 40 rare rows; a tenth of each is held out, twice.
    assert [len(split) for split in (data.train, data.dev, data.test)] == [160, 20, 20]
    assert [sum(split.labels) for split in (data.train, data.dev, data.test)] == [32, 4, 4]
    assert len({*data.train.texts, *data.dev.texts, *data.test.texts}) == 200
    assert data.notes == (
        "dev is 20 of the 200 rows of all.csv, held out (seed 17, every class alike)",
        "test is 20 of the 200 rows of all.csv, held out (seed 17, every class alike)",
    )
    assert load(files={"train": str(path)}) == data
    assert load(files={"train": str(path)}, seed=18).test != data.test


def test_equal_texts_are_held_out_together(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text(
        "sentence,label\n" + "".join(f"Text  {i // 4},{i // 4 % 2}\ntext {i // 4}.,{i // 4 % 2}\n" for i in range(160))
    )
    data = load(files={"train": str(path)})
    assert not any("also occur" in note for note in data.notes)
    assert len(data.train) + len(data.dev) + len(data.test) == 320


def test_naming_dev_as_test_is_allowed_and_said(tmp_path: Path) -> None:
    paths = three(tmp_path, "sentence,label\na,1\nb,0\n", dev="sentence,label\nc,1\nd,0\n")
    data = load(files=paths | {"test": paths["dev"]})
    assert data.test is data.dev
    assert data.notes == ("test is the same file as dev: what selection reads is also what judges",)


def test_training_rows_that_are_in_test_are_left_out(tmp_path: Path) -> None:
    paths = three(
        tmp_path,
        "sentence,label\nA good  Film !,1\na good film,1\nbad,0\nother,1\n",
        dev="sentence,label\nBAD,0\nunseen,1\n",
        test="sentence,label\na good film,1\nnew,0\n",
    )
    data = load(files=paths)
    assert [text[0] for text in data.train.texts] == ["bad", "other"]
    assert data.notes == (
        "1 of 2 different test texts also occurs in train: 2 training rows left out",
        "1 of 2 different dev texts also occurs in train: kept",
    )
    assert len(load(files=paths, drop_overlaps=False).train) == 4


def test_pairs_overlap_only_as_a_whole(tmp_path: Path) -> None:
    head = "a,b,label\n"
    paths = three(tmp_path, head + "x,y,1\nx,z,0\n", dev=head + "p,q,1\nr,s,0\n", test=head + "X,Y,1\ny,x,0\n")
    data = load(files=paths, text=["a", "b"])
    assert list(data.train.texts) == [("x", "z")]


def test_identity_follows_content_and_settings_not_names(tmp_path: Path) -> None:
    paths = three(tmp_path, PAIR)
    moved = tmp_path / "elsewhere"
    moved.mkdir()

    def identity(**settings: Any) -> dict[str, Any]:
        found = files.identity(TypeAdapter(files.Config).validate_python(settings))
        json.dumps(found)
        return found

    assert identity(files=paths) == identity(files=three(moved, PAIR))
    assert identity(files=paths) != identity(files=three(moved, PAIR + "more,1\n"))
    assert identity(files=paths) != identity(files=paths, labels=["1", "0"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": {"dev": "a.csv"}}, "train is missing"),
        ({"files": {"train": "a.csv", "tset": "b.csv"}}, "'train', 'dev' or 'test'"),
        ({"files": {"train": "a.csv"}, "text": ["a", "b", "c"]}, "3 columns; one, or two different ones"),
        ({"files": {"train": "a.csv"}, "text": ["a", "a"]}, "one, or two different ones"),
        ({"files": {"train": "a.csv"}, "text": "label"}, "'label' is also a text column"),
        ({"files": {"train": "a.csv"}, "delimiter": ";;"}, "';;' is not one character"),
        ({"files": {"train": "a.csv"}, "labels": ["a"]}, "at least 2 items"),
        ({"files": {"train": "a.csv"}, "labels": ["a", "a"]}, "names a class twice"),
        ({"files": {"train": "a.csv"}, "holdout": 0.5}, "less than 0.5"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(files.Config).validate_python(settings)


def test_classes_have_one_order_in_every_process(tmp_path: Path) -> None:
    labels = ["nan", "NaN", "2", "10", "inf", "b", "a"]
    (tmp_path / "a.csv").write_text("sentence,label\n" + "".join(f"text {i},{n}\n" for i, n in enumerate(labels * 20)))
    code = (
        "from toolchain.tasks import files\n"
        f"print(*files.load(files.Config(files={{'train': {str(tmp_path / 'a.csv')!r}}})).labels)"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout.strip()
        for seed in range(3)
    }  # fmt: skip
    assert orders == {"2 10 NaN a b inf nan"}
