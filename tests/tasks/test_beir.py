from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.errors import DataError
from toolchain.tasks import beir


def folder(tmp_path: Path, **parts: list[str]) -> beir.Config:
    """Thirty passages, ten queries, and the judgements of each part."""
    (tmp_path / "qrels").mkdir(exist_ok=True)
    for name, count in (("corpus", 30), ("queries", 10)):
        lines = [json.dumps({"_id": f"{name[0]}{i}", "title": "", "text": f"{name} {i}"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    for name, rows in parts.items():
        lines = ["query-id\tcorpus-id\tscore", *(row.replace(" ", "\t") for row in rows)]
        (tmp_path / "qrels" / f"{name}.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    return beir.Config(folder=str(tmp_path), negatives=4)


def test_judged_passages_stand_beside_drawn_ones_that_are_not(tmp_path: Path) -> None:
    config = folder(tmp_path, train=["q0 c0 2", "q0 c1 0", "q1 c5 1"], dev=["q2 c2 1"], test=["q3 c3 1"])
    data = beir.load(config)
    assert (data.kind, data.labels) == ("reranking", ("score",))
    assert list(data.train.groups) == [0] * 6 + [1] * 5
    assert data.train.labels[:3] == [(2.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    assert data.train.texts[0] == ("queries 0", "corpus 0")
    assert len(set(data.train.texts[:6])) == 6
    assert beir.load(config) == data
    other = beir.Config(folder=config.folder, negatives=4, seed=18)
    assert beir.load(other).train.texts != data.train.texts
    assert beir.identity(other) != beir.identity(config)


def test_parts_that_are_missing_are_whole_queries_of_the_one_that_is_there(tmp_path: Path) -> None:
    data = beir.load(folder(tmp_path, test=[f"q{i} c{i} 1" for i in range(10)]))
    parts = [set(split.groups) for split in (data.train, data.dev, data.test)]
    assert list(map(len, parts)) == [6, 2, 2]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert data.notes[0] == "qrels has no train.tsv: test.tsv is taken as it"


def test_passages_without_text_are_left_out_and_so_are_their_judgements(tmp_path: Path) -> None:
    config = folder(tmp_path, train=["q0 c0 1", "q0 c99 1"], dev=["q2 c2 1"], test=["q3 c3 1"])
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "c99", "text": ""}\n')
    data = beir.load(config)
    assert data.notes == ("1 of the 31 passages have no text: they are left out",)
    assert len(data.train) == 5
    assert all(passage for _, passage in data.train.texts)


@pytest.mark.parametrize(
    ("row", "message"),
    [("q99 c1 1", "train.tsv:3: query-id 'q99' is not in queries.jsonl"),
     ("q1 d1 1", "train.tsv:3: corpus-id 'd1' is not in corpus.jsonl"),
     ("q1 c1 -1", "train.tsv:3: the relevance is '-1'"), ("q1 c1", "train.tsv:3: 2 columns instead of 3")],
)  # fmt: skip
def test_what_is_wrong_with_a_judgement_is_said_with_file_and_line(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        beir.load(folder(tmp_path, train=["q0 c0 1", row]))
    assert message in str(caught.value)


def test_what_is_wrong_with_texts_and_a_folder_without_judgements_are_said(tmp_path: Path) -> None:
    def refused(config: Any) -> str:
        with pytest.raises(DataError) as caught:
            beir.load(config)
        return str(caught.value)

    assert "no train.tsv, dev.tsv or test.tsv" in refused(folder(tmp_path))
    config = folder(tmp_path, train=["q0 c0 1"])
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "c0", "text": "again"}\n{"_id": "c99", "text": " "}\n')
    message = refused(config)
    assert "corpus.jsonl:31: _id 'c0' stands twice" in message
    assert "corpus.jsonl:32: empty text in 'text'" in message
    (tmp_path / "corpus.jsonl").unlink()
    assert "corpus.jsonl: no such file" in refused(config)
