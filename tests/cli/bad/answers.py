"""Bad data and models for tasks of several labels, and of scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cli.bad.case import Case
from tests.tiny import tiny

EMOTIONS = "text,labels\n" + "".join(f'text {i},"{("joy", "joy,fear", "")[i % 3]}"\n' for i in range(20))
SCORES = "first,second,score\n" + "".join(f"one {i},two {i},{i / 4}\n" for i in range(20))
LABELS = ("joy", "fear")

#: What the task is told of good data.
_MULTI_LABEL = {"text": "text", "label": "labels", "kind": "multi_label"}
_REGRESSION = {"text": ["first", "second"], "label": "score", "kind": "regression"}


def _task(what: str, task: Mapping[str, Any], content: str, *says: str, name: str = "a.csv", **parts: Any) -> Case:
    """A recipe that trains on one file; ``parts`` are other parts of the recipe."""
    recipe = {
        "task": {"files": {"train": name}, **task}, "model": "scratch:bert-1x32", "stages": ["finetune"],
        "variants": {"base": ["export"]}, **parts,
    }  # fmt: skip

    def prepare(folder: Path) -> None:
        (folder / "r.yaml").write_text(json.dumps(recipe))
        (folder / name).write_text(content)
        if parts:
            shutil.copytree(tiny().artifact("checkpoint").path, folder / "model")

    return Case(what, ("run", "r.yaml", "-q"), prepare, says)


def _labels(what: str, content: str, *says: str, name: str = "a.csv", parts: Any = None, **settings: Any) -> Case:
    return _task(f"several labels: {what}", _MULTI_LABEL | settings, content, *says, name=name, **(parts or {}))


def _scores(what: str, content: str, *says: str, name: str = "a.csv", parts: Any = None, **settings: Any) -> Case:
    return _task(f"a score: {what}", _REGRESSION | settings, content, *says, name=name, **(parts or {}))


def _lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _emotions(labels: Any) -> str:
    """JSON lines of which the last one has these labels."""
    return _lines(*({"text": f"text {i}", "labels": ["joy", "fear"][: i % 3]} for i in range(20)), {
        "text": "the last", "labels": labels,
    })  # fmt: skip


def _pairs(score: Any) -> str:
    return _lines(*({"first": f"one {i}", "second": "two", "score": i / 4} for i in range(20)), {
        "first": "the last", "second": "two", "score": score,
    })  # fmt: skip


#: Takes the classifier in that lies beside the recipe, or makes texts of its task.
_ADOPTS = {"stages": [], "variants": {"base": [{"adopt": {"path": "model"}}, "export"]}}
_AUGMENTS = {"stages": ["neighbours", "finetune"]}
_TUNES = {"variants": {"base": ["export", "inc_auto"]}}

CASES = [
    _labels("an unknown one", EMOTIONS + 'fine,"joy,envy"\n', "a.csv:22", "'envy'", labels=LABELS),
    _labels("one that is nearly right", EMOTIONS + 'fine,"jooy"\n', "a.csv:22", "did you mean 'joy'?", labels=LABELS),
    _labels("one that is named twice", EMOTIONS + 'fine,"joy,joy"\n', "a.csv:22", "'joy' is named twice"),
    _labels("a comma too many", EMOTIONS + 'fine,"joy,"\n', "a.csv:22", "empty label"),
    _labels("commas without quotation marks", EMOTIONS + "fine,joy,fear\n", "a.csv:22", "3 columns instead of 2"),
    _labels("another separator", EMOTIONS + "fine,joy;fear\n", "a.csv:22", "'joy;fear'", labels=LABELS),
    _labels("another column", EMOTIONS, "'emotions'", "'labels'", label="emotions"),
    _labels("another column of text", EMOTIONS, "'comment'", "'text'", text="comment"),
    _labels("the column of the text", EMOTIONS, "also a text column", label="text"),
    _labels("none in any row", "text,labels\n" + "fine,\n" * 9, "names no label in any of 9 rows"),
    _labels("one alone in all rows", "text,labels\n" + "fine,joy\nbad,\n" * 9, "one class only", "'joy'"),
    _labels("a number or an id in their place",
            "text,labels\n" + "".join(f"text {i},{i}\n" for i in range(99)), "99 different values"),
    _labels("an empty text", EMOTIONS + ",joy\n", "a.csv:22", "empty text in 'text'"),
    _labels("too few rows to hold some out", "text,labels\na,joy\nb,fear\n", "too few"),
    _labels("a name twice in the recipe", EMOTIONS, "names a class twice", labels=("joy", "joy")),
    _labels("a single name in the recipe", EMOTIONS, "labels: ['joy'] has 1; at least 2", labels=("joy",)),
    _labels("a misspelt kind", EMOTIONS, "did you mean 'multi_label'?", kind="multilabel"),
    _labels("an object in their place", _emotions({"joy": 1}), "a.jsonl:21", "a name or a number", name="a.jsonl"),
    _labels("a list in a list", _emotions([["joy"]]), "a.jsonl:21", "a name or a number", name="a.jsonl"),
    _labels("nothing in a list", _emotions(["joy", None]), "a.jsonl:21", "empty label", name="a.jsonl"),
    _labels("an index beyond the last", _emotions([0, 7]), "a.jsonl:21", "'7'", name="a.jsonl", labels=LABELS),
    _labels("a classifier of one label", EMOTIONS, "model for single-label classification",
            "only multi-label classification", parts=_ADOPTS),
    _labels("an augmentation", EMOTIONS, "neighbours", "multi_label", parts=_AUGMENTS),
    _labels("an optimization that keeps single labels", EMOTIONS, "inc_auto", "multi_label", "nncf_static",
            parts=_TUNES),
    _scores("a word", SCORES + "one,two,high\n", "a.csv:22", "'high'; a number"),
    _scores("not a number", SCORES + "one,two,nan\n", "a.csv:22", "'nan'; a finite number"),
    _scores("infinity", SCORES + "one,two,-inf\n", "a.csv:22", "'-inf'; a finite number"),
    _scores("an empty cell", SCORES + "one,two,\n", "a.csv:22", "''; a number"),
    _scores("a comma for the decimal point", SCORES + 'one,two,"3,5"\n', "a.csv:22", "'3,5'; a number"),
    _scores("a comma without quotation marks", SCORES + "one,two,3,5\n", "a.csv:22", "4 columns instead of 3"),
    _scores("a percentage", SCORES + "one,two,50 %\n", "a.csv:22", "'50 %'; a number"),
    _scores("a fraction", SCORES + "one,two,1/2\n", "a.csv:22", "'1/2'; a number"),
    _scores("another column", SCORES, "'similarity'", "'score'", label="similarity"),
    _scores("another column of text", SCORES, "'third'", "'second'", text=["first", "third"]),
    _scores("three columns of text", SCORES, "3 columns", text=["first", "second", "third"]),
    _scores("the column of a text", SCORES, "also a text column", label="second"),
    _scores("an empty text", SCORES + "one,,3\n", "a.csv:22", "empty text in 'second'"),
    _scores("a header and no rows", "first,second,score\n", "no rows"),
    _scores("too few rows to hold some out", "first,second,score\na,b,1\nc,d,2\n", "too few"),
    _scores("names of labels in the recipe", SCORES, "has no labels; take them out", labels=LABELS),
    _scores("a misspelt kind", SCORES, "did you mean 'regression'?", kind="regresion"),
    _scores("null", _pairs(None), "a.jsonl:21", "None; a number", name="a.jsonl"),
    _scores("true", _pairs(True), "a.jsonl:21", "True; a number", name="a.jsonl"),
    _scores("a list", _pairs([1, 2]), "a.jsonl:21", "[1, 2]; a number", name="a.jsonl"),
    _scores("a classifier of labels", SCORES, "model for single-label classification", "only regression",
            parts=_ADOPTS),
    _scores("an optimization that keeps labels", SCORES, "inc_auto", "regression", "nncf_static", parts=_TUNES),
    _scores("an augmentation", SCORES, "neighbours", "regression", parts=_AUGMENTS),
]  # fmt: skip
