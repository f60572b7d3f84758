"""Bad files of tagged words, and what does not go with tags, each named as the training file of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.bad.case import Case, files

GOOD = "".join(f"Ada\tB-person\nLovelace\tI-person\nwrote{index}\tO\n\n" for index in range(20))
RUN = ("run", "r.yaml", "-q")


def _recipe(name: str, settings: str = "", stages: str = "[finetune]", variant: str = "[export]") -> str:
    return (
        f"task: {{tagged: {{files: {{train: {name}}}{settings}}}}}\nmodel: scratch:bert-1x32\n"
        f"stages: {stages}\nvariants: {{base: {variant}}}\n"
    )


def _tags(what: str, content: str, *says: str, name: str = "a.conll", settings: str = "") -> Case:
    def prepare(folder: Path) -> None:
        files(r_yaml=_recipe(name, settings))(folder)
        (folder / name).write_text(content, "utf-8")

    return Case(what, RUN, prepare, says)


def _row(what: str, row: object, *says: str, settings: str = "") -> Case:
    return _tags(what, json.dumps(row) + "\n", *says, name="a.jsonl", settings=settings)


def _spans(what: str, text: str, spans: object, *says: str) -> Case:
    return _row(what, {"text": text, "spans": spans}, *says, settings=", spans: spans")


def _refused(what: str, recipe: str, *says: str) -> Case:
    return Case(what, ("validate", "r.yaml"), files(r_yaml=recipe, a_conll=GOOD), says)


CASES = [
    _tags("a word without a tag", GOOD + "Ada\n", "a.conll:81", "1 column instead of 2"),
    _tags("a tag without a word", GOOD + "\tO\n", "a.conll:81", "empty word"),
    _tags("an empty tag", GOOD + "Ada\t\n", "a.conll:81", "'Ada' has no tag"),
    _tags("an unknown prefix", GOOD + "Ada\tX-person\n", "a.conll:81", "'X-person'", "B-TYPE"),
    _tags("a type without a prefix", GOOD + "Ada\tperson\n", "a.conll:81", "'person'", "B-TYPE"),
    _tags("an entity that begins with I-", GOOD + "Ada\tI-person\n", "a.conll:81", "begins with B-", "scheme: iob1"),
    _tags("an entity of BILOU without an end", GOOD + "It\tU-thing\n", "a.conll:3", "BILOU", "ends with L-"),
    _tags("no entity at all", "Ada\tO\n\nwrote\tO\n", "a.conll", "no word has another tag than O"),
    _tags("a tag that labels do not name", GOOD, "a.conll:1", "'B-person'", settings=", labels: [O, B-place, I-place]"),
    _tags("labels without O", GOOD, "labels", "lacks O", settings=", labels: [B-person, I-person]"),
    _tags("CSV for tagged words", "word,tag\nAda,B-person\n", "a.csv", "no lists of words", ".conll", name="a.csv"),
    _row("fewer tags than words", {"tokens": ["Ada", "wrote"], "tags": ["O"]}, "a.jsonl:1", "2 words and 1 tags"),
    _row("an empty word in a list", {"tokens": ["Ada", ""], "tags": ["O", "O"]}, "a.jsonl:1", "empty text"),
    _row("a text for a list of words", {"tokens": "Ada", "tags": ["O"]}, "a.jsonl:1", "'Ada'", "a list is expected"),
    _row("numbers for tags", {"tokens": ["Ada"], "tags": [1]}, "a.jsonl:1", "the number 1", "labels: [O, …]"),
    _row("no column of words", {"words": ["Ada"], "tags": ["O"]}, "a.jsonl:1", "'tokens'"),
    _spans("a span out of range", "Ada wrote", [[0, 40, "person"]], "a.jsonl:1", "0 to 40", "9 characters"),
    _spans("spans that overlap", "Ada wrote", [[0, 3, "a"], [2, 5, "b"]], "a.jsonl:1", "2 to 5", "ends at 3"),
    _spans("a span of white space", "Ada  wrote", [[3, 5, "person"]], "a.jsonl:1", "white space alone"),
    _spans("a span without a label", "Ada wrote", [{"start": 0, "end": 3}], "a.jsonl:1", "{start: 0, end: 5, label"),
    _refused(
        "tags through the task files",
        "task: {files: {train: a.conll}, kind: token_classification}\nmodel: x/y\nvariants: {base: [export]}\n",
        "token_classification",
        "{tagged: {files:",
    ),
    _refused(
        "cls_only for tags", _recipe("a.conll", variant="[export, cls_only]"), "cls_only", "the first token alone"
    ),
    _refused(
        "an augmentation for tags", _recipe("a.conll", stages="[neighbours, finetune]"), "neighbours", "one label"
    ),
]
