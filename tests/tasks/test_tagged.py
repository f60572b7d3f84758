"""Files of tagged words: columns, lists and spans, and what is wrong with them, by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.data import Dataset
from toolchain.core.errors import DataError, RecipeError
from toolchain.pipeline.recipe import load
from toolchain.tasks import tagged

COLUMNS = "Ada\tB-person\nLovelace\tI-person\nwrote\tO\n\nin\tO\nNew\tB-place\nYork\tI-place\n.\tO\n"


def loaded(folder: Path, content: str, name: str = "a.conll", **settings: Any) -> Dataset:
    """The data of one file that is all three parts."""
    (folder / name).write_text(content, "utf-8")
    files: Any = dict.fromkeys(("train", "dev", "test"), str(folder / name))
    return tagged.load(tagged.Config(files=files, drop_overlaps=False, **settings))


def named(data: Dataset) -> list[list[tuple[str, str]]]:
    """Words and the names of their tags."""
    return [
        [(text[start:end], data.labels[tag]) for start, end, tag in words]
        for (text,), words in zip(data.train.texts, data.train.labels, strict=True)
    ]


EXPECTED = [
    [("Ada", "B-person"), ("Lovelace", "I-person"), ("wrote", "O")],
    [("in", "O"), ("New", "B-place"), ("York", "I-place"), (".", "O")],
]


def test_columns_are_words_and_tags_with_a_blank_line_between_sentences(tmp_path: Path) -> None:
    data = loaded(tmp_path, COLUMNS)
    assert data.kind == "token_classification"
    assert data.labels == ("O", "B-person", "I-person", "B-place", "I-place")
    assert data.train.texts == [("Ada Lovelace wrote",), ("in New York .",)]
    assert named(data) == EXPECTED
    four = "-DOCSTART- -X- O O\n\n# a comment\n" + COLUMNS.replace("\t", " NN X ")
    assert named(loaded(tmp_path, four)) == EXPECTED


def test_lists_of_words_and_tags_are_rows(tmp_path: Path) -> None:
    rows = [{"tokens": [word for word, _ in row], "tags": [tag for _, tag in row]} for row in EXPECTED]
    assert named(loaded(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl")) == EXPECTED
    names = ("O", "B-person", "I-person", "B-place", "I-place")
    numbers = [row | {"tags": [names.index(tag) for tag in row["tags"]]} for row in rows]
    content = "\n".join(map(json.dumps, numbers))
    assert named(loaded(tmp_path, content, "a.jsonl", labels=names)) == EXPECTED
    with pytest.raises(DataError, match=r"a\.jsonl:1: the tag of word 0 is the number 1; name them in their order"):
        loaded(tmp_path, content.splitlines()[0], "a.jsonl")


def test_parquet_has_lists_too(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"tokens": [word for word, _ in row], "tags": [tag for _, tag in row]} for row in EXPECTED]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    files: Any = dict.fromkeys(("train", "dev", "test"), str(tmp_path / "a.parquet"))
    assert named(tagged.load(tagged.Config(files=files, drop_overlaps=False))) == EXPECTED


def test_spans_of_characters_tag_the_words_inside(tmp_path: Path) -> None:
    row = {
        "text": "  Ada Lovelace-King wrote.",
        "ents": [[15, 19, "place"], {"start": 2, "end": 14, "label": "person"}],
    }
    data = loaded(tmp_path, json.dumps(row), "a.jsonl", spans="ents")
    assert named(data) == [
        [("Ada", "B-person"), ("Lovelace", "I-person"), ("-", "O"), ("King", "B-place"), ("wrote", "O"), (".", "O")]
    ]
    bilou = loaded(tmp_path, json.dumps(row), "a.jsonl", spans="ents", scheme="bilou")
    assert [tag for _, tag in named(bilou)[0]] == ["B-person", "L-person", "O", "U-place", "O", "O"]
    assert bilou.notes[0] == "tags are read as BILOU"


def test_a_part_that_is_not_named_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("".join(f"word{k}\tO\nAda\tB-person\n\n" for k in range(40)), "utf-8")
    data = tagged.load(tagged.Config(files={"train": str(tmp_path / "a.conll")}))
    assert (len(data.train), len(data.dev), len(data.test)) == (32, 4, 4)
    assert data.notes[0] == "dev is 4 of the 40 texts of a.conll, held out (seed 17)"


@pytest.mark.parametrize(
    ("content", "says", "settings"),
    [
        ("Ada\tB-person\nwrote\n", r"a\.conll:2: 1 column instead of 2", {}),
        ("Ada\tB-person\n\tO\n", r"a\.conll:2: empty word", {}),
        ("Ada\tB-person\nwrote\t\n", r"a\.conll:2: the word 'wrote' has no tag", {}),
        ("Ada\tX-person\n", r"a\.conll:1: word 0, 'Ada': the tag 'X-person' is none of IOB2; allowed are O, B", {}),
        ("Ada\tperson\n", r"the tag 'person' is none of IOB2", {}),
        ("Ada\tI-person\n", r"a\.conll:1: .*I-person follows O; in IOB2 an entity begins with B-", {}),
        ("Ada\tB-person\nYork\tI-place\n", r"a\.conll:2: .*I-place follows B-person", {}),
        ("Ada\tB-person\nwrote\tO\nit\tU-thing\n", r"a\.conll:2: .*O follows B-person; in BILOU .* ends with L-", {}),
        ("it\tU-thing\nAda\tB-person\n", r"a\.conll:2: at the end of the sentence: O follows B-person", {}),
        ("Ada\tO\n", r"no word has another tag than O in 1 texts", {}),
        ("Ada\tB-person\n", r"a\.conll:1: unknown tag .B-person.; did you", {"labels": ("O", "B-persons")}),
    ],
)  # fmt: skip
def test_what_is_wrong_with_columns_is_said_with_its_line(
    tmp_path: Path, content: str, says: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=says):
        loaded(tmp_path, content, **settings)


def test_entities_of_iob1_begin_with_i(tmp_path: Path) -> None:
    content = "Ada\tI-person\nLovelace\tB-person\n"
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, content)
    assert caught.value.hint == "data that begin entities with I- are scheme: iob1"
    assert [tag for _, tag in named(loaded(tmp_path, content, scheme="iob1"))[0]] == ["I-person", "B-person"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "Ada", "ents": [[0, 9, "person"]]}, r"a\.jsonl:1: the span 0 to 9 \(person\) is out of range; .* 3 "),
        ({"text": "Ada wrote", "ents": [[0, 3, "a"], [2, 5, "b"]]}, r"the span 2 to 5 \(b\) overlaps .* ends at 3"),
        ({"text": "Ada  wrote", "ents": [[3, 5, "a"]]}, "holds white space alone"),
        ({"text": "Ada", "ents": [["0", 3, "a"]]}, r"the span is \['0', 3, 'a'\]; expected is \{start: 0"),
        ({"text": "Ada", "ents": "person"}, "'ents' is 'person'; a list of spans is expected"),
        ({"text": "", "ents": []}, "empty text in 'text'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_spans_is_said_with_its_line(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        loaded(tmp_path, json.dumps(row), "a.jsonl", spans="ents")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tokens": ["Ada", "wrote"], "tags": ["O"]}, r"a\.jsonl:1: 2 words and 1 tags"),
        ({"tokens": ["Ada", " "], "tags": ["B-x", "O"]}, r"empty text in 'tokens\[1\]'"),
        ({"tokens": "Ada", "tags": ["O"]}, "'tokens' is 'Ada'; a list is expected"),
        ({"tokens": [], "tags": []}, "'tokens' has no words"),
        ({"tokens": ["Ada"], "tags": [None]}, "the tag of word 0, 'Ada', is None; a name is expected"),
    ],
)
def test_what_is_wrong_with_lists_is_said_with_its_line(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        loaded(tmp_path, json.dumps(row), "a.jsonl")


def test_data_names_the_folder_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.conll").write_text(COLUMNS, "utf-8")
    recipe = (
        "task: {tagged: {files: {train: a.conll}}}\nmodel: scratch:bert-1x32\nvariants: {base: [finetune, export]}\n"
    )
    (tmp_path / "r.yaml").write_text(recipe, "utf-8")
    found = load(tmp_path / "r.yaml", data=str(tmp_path / "data")).task
    assert found.config.files == {"train": str(tmp_path / "data/a.conll")}
    with pytest.raises(RecipeError, match="not a folder"):
        load(tmp_path / "r.yaml", data=str(tmp_path / "r.yaml"))
