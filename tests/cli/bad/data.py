"""Bad data files, each named as the training file of a recipe."""

from __future__ import annotations

from pathlib import Path

from tests.cli.bad.case import Case, both, files

GOOD = "sentence,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(20))
RUN = ("run", "r.yaml", "-q")


def _data(what: str, name: str, content: str | bytes, *says: str, settings: str = "") -> Case:
    recipe = (
        f"task: {{files: {{train: {name}}}{settings}}}\nmodel: scratch:bert-1x32\n"
        "stages: [finetune]\nvariants: {base: [export]}\n"
    )

    def prepare(folder: Path) -> None:
        files(r_yaml=recipe)(folder)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return Case(what, RUN, prepare, says)


CASES = [
    Case(
        "a data file that is not there",
        RUN,
        files(r_yaml="task: {files: {train: a.csv}}\nmodel: scratch:bert-1x32\nvariants: {base: [finetune, export]}\n"),
        ("a.csv", "no such file"),
    ),
    Case(
        "no training file",
        ("validate", "r.yaml"),
        files(r_yaml="task: {files: {dev: a.csv}}\nmodel: x/y\nvariants: {base: [export]}\n"),
        ("train is missing",),
    ),
    _data("another kind of file", "a.xlsx", b"PK", "a.xlsx", ".xlsx", ".csv"),
    _data("an empty file", "a.csv", "", "a.csv", "empty"),
    _data("a header and no rows", "a.csv", "sentence,label\n", "a.csv", "no rows"),
    _data("a missing column", "a.csv", GOOD.replace("sentence", "text"), "'sentence'", "'text'"),
    _data("another delimiter", "a.csv", GOOD.replace(",", ";"), "delimiter", '";"'),
    _data("a broken row", "a.csv", GOOD + "a comma, too many,1\n", "a.csv:22", "3 columns instead of 2"),
    _data("an open quotation mark", "a.csv", GOOD + '"never closed,1\n', "a.csv:22", "closed"),
    _data("an unknown label", "a.csv", GOOD + "fine,2\n", "a.csv:22", "'2'", settings=", labels: [0, 1]"),
    _data("an empty text", "a.csv", GOOD + ",1\n", "a.csv:22", "empty text in 'sentence'"),
    _data("an empty label", "a.csv", GOOD + "fine,\n", "a.csv:22", "empty label"),
    _data("many broken rows", "a.csv", GOOD + "one,two,three\n" * 9, "9 rows", "and 4 more"),
    _data("one class only", "a.csv", GOOD.replace(",1", ",0"), "one class only", "'0'"),
    _data(
        "a number where a class is expected",
        "a.csv",
        "sentence,label\n" + "".join(f"t {i},{i / 7}\n" for i in range(99)),
        "99 different values",
        "label:",
    ),
    _data("too few rows to hold some out", "a.csv", "sentence,label\na,0\nb,1\n", "too few"),
    _data("another encoding", "a.csv", GOOD.encode() + b"caf\xe9,1\n", "a.csv:22", "0xe9", "latin-1"),
    _data("UTF-16", "a.csv", GOOD.encode("utf-16"), "encoding: utf-16"),
    _data("an unknown encoding", "a.csv", GOOD, "'utf-7000'", "latin-1", settings=", encoding: utf-7000"),
    _data("NUL bytes", "a.csv", GOOD + "a\0b,1\n", "a.csv:22", "NUL"),
    _data("a TSV row with too many columns", "a.tsv", GOOD.replace(",", "\t") + "a\tb\t1\n", "a.tsv:22", "3 columns"),
    _data(
        "a broken line of JSONL",
        "a.jsonl",
        '{"sentence": "a", "label": 1}\n{"sentence": "b", "label"\n',
        "a.jsonl:2",
        "not JSON",
    ),
    _data(
        "a JSON array for JSONL",
        "a.jsonl",
        '[{"sentence": "a", "label": 1},\n{"sentence": "b", "label": 0}]\n',
        "a.jsonl",
        "one object per line",
    ),
    _data(
        "a number for a text",
        "a.jsonl",
        '{"sentence": 5, "label": 1}\n{"sentence": "b", "label": 0}\n',
        "a.jsonl:1",
        "5",
        "text",
    ),
    _data("a damaged Parquet file", "a.parquet", b"PAR1 and then nothing of the kind", "a.parquet", "Parquet"),
    _data("the label named as text too", "a.csv", GOOD, "label", "text column", settings=", text: label"),
    Case(
        "a folder without the task's files",
        ("run", "r.yaml", "-q", "--data", "empty"),
        both(
            files(r_yaml="task: sst2\nmodel: scratch:bert-1x32\nvariants: {base: [finetune, export]}\n"),
            lambda folder: (folder / "empty").mkdir(),
        ),
        ("train.tsv", "no such file"),
    ),
    Case(
        "the hub cannot be reached for data",
        RUN,
        files(
            r_yaml="task: {glue: {dataset: nobody/nothing}}\nmodel: scratch:bert-1x32\n"
            "variants: {base: [finetune, export]}\n"
        ),
        ("nobody/nothing", "cannot be reached", "give a folder as dataset"),
    ),
]
