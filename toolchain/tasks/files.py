"""Any CSV, TSV, JSONL or Parquet file: single sentences or pairs, any number of classes or a score, no code.

In a recipe: ``task: {files: {train: a.csv, dev: b.csv, test: c.csv}, text: [premise, hypothesis], label: label}``.
CSV is quoted as usual; TSV has no quoting, as in GLUE. A two-column file without header is read as text, label.
A split that is not named is held out from training: seeded, the same share of every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain import kinds
from toolchain.core import registry
from toolchain.core.data import CLASSIFICATION, Dataset
from toolchain.core.stage import Ge, Gt, Lt, MinLen, StageConfig
from toolchain.tasks.shared.examples import Columns, absent_classes, class_names, completed, examples, text_columns
from toolchain.tasks.shared.reading import check_file, file_digest, read_table

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the files task.

    Attributes:
        files: Paths of ``train`` (needed), ``dev`` and ``test``. One that is not named is held out from train.
        text: The column of the text, or two columns for sentence pairs.
        label: The column of the class, of several with kind: multi_label, or of the number with kind: regression.
        kind: What is learned: classification, multi_label (several labels of each text, between commas or as a list),
            regression of a number, or reranking of the passages of a query by a number.
        group: With kind: reranking, the column that says which rows are of one query; by default the first text.
        labels: Class names in order; by default those in train, sorted (numbers as numbers). Where the file has
            indices 0, 1, …, these name them.
        delimiter: One character between columns; by default a comma in .csv and a tab in .tsv.
        encoding: Of text files, e.g. utf-8, latin-1, cp1252.
        holdout: Share of train for each split that is not named.
        seed: Seed of the hold-out, apart from the seed of training.
        drop_overlaps: Leave out training rows whose text is also in test.
    """

    files: dict[Literal["train", "dev", "test"], str]
    text: str | tuple[str, ...] = "sentence"
    label: str = "label"
    group: str | None = None
    kind: str = CLASSIFICATION
    labels: Annotated[tuple[str | int, ...], MinLen(2)] | None = None
    delimiter: Annotated[str, MinLen(1)] | None = None
    encoding: str = "utf-8"
    holdout: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    seed: Annotated[int, Ge(0)] = 17
    drop_overlaps: bool = True

    def __post_init__(self) -> None:
        """Checks what ranges cannot say."""
        if "train" not in self.files:
            raise ValueError("files: train is missing; train is needed, dev and test may be left out")
        if self.kind not in registry.names("kinds"):
            raise ValueError(f"kind: {self.kind!r}; {registry.suggest(self.kind, registry.names('kinds'))}")
        if (reader := kinds.get(self.kind).TASK) != "files":
            raise ValueError(
                f"kind: data of {self.kind} are read by another task: {{{reader}: {{files: {{train: …}}}}}}"
            )
        if self.labels and kinds.get(self.kind).NAMES:
            raise ValueError(f"labels: a task of the kind {self.kind} has no labels; take them out")
        if self.group and not kinds.get(self.kind).GROUPED:
            raise ValueError(f"group: a task of the kind {self.kind} has no groups; take it out")
        if self.label == self.group:
            raise ValueError(f"group: {self.group!r} is also the column of the label")
        if (texts := kinds.get(self.kind).TEXTS) and len(text_columns(self.text)) != texts:
            raise ValueError(f"text: {self.text!r}; a task of the kind {self.kind} has {texts} columns of text")
        if self.label in text_columns(self.text):
            raise ValueError(f"label: {self.label!r} is also a text column")
        if self.delimiter and (len(self.delimiter) != 1 or self.delimiter in '\n\r"'):
            raise ValueError(f"delimiter: {self.delimiter!r} is not one character that can stand between columns")
        if self.labels and len(set(map(str, self.labels))) != len(self.labels):
            raise ValueError(f"labels: {list(self.labels)} names a class twice")


def kind(config: Config) -> str:
    """Return what is learned."""
    return config.kind


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run: always."""
    return True


def load(config: Config) -> Dataset:
    """Reads and checks the files.

    Raises:
        DataError: A file cannot be read, or rows of it cannot be used; it names the file and the line.
    """
    columns = Columns(text_columns(config.text), config.label, config.group or "")
    given = tuple(map(str, config.labels)) if config.labels else None
    tables = {
        name: read_table(
            path,
            columns.all,
            plain=columns.plain,
            known=given or (),
            delimiter=config.delimiter,
            encoding=config.encoding,
        )
        for name, path in _paths(config).items()
    }
    of_kind = kinds.get(config.kind)
    names = of_kind.NAMES
    classes = names or class_names(tables["train"], config.label, given, config.kind)
    splits = {name: examples(table, columns, classes, config.kind) for name, table in tables.items()}
    notes = [
        f"{table.source} has no header: its columns are taken as {columns.text[0]}, {config.label}"
        for table in tables.values()
        if not table.header
    ]
    paths = _paths(config)
    train, dev, test, done = completed(
        splits,
        f"rows of {paths['train'].name}",
        share=config.holdout,
        seed=config.seed,
        drop_overlaps=config.drop_overlaps,
        same_file="dev" in paths and paths["dev"] == paths.get("test"),
        how="" if names else ", every class alike",
    )
    notes += done
    notes += [] if names else [*absent_classes(train, classes, "train"), *absent_classes(test, classes, "test")]
    train, dev, test = map(of_kind.arranged, (train, dev, test))
    return Dataset(train, dev, test, classes, tuple(notes))


def identity(config: Config) -> dict[str, Any]:
    """What decides the data: the files' digests, and the settings that say how they are read.

    Raises:
        DataError: A file cannot be read.
    """
    digests = {}
    for name, path in _paths(config).items():
        check_file(path)
        digests[name] = file_digest(path)
    return (
        {
            "files": digests,
            "text": list(text_columns(config.text)),
            "label": config.label,
            "labels": [str(label) for label in config.labels] if config.labels else None,
            "delimiter": config.delimiter,
            "encoding": config.encoding,
            "holdout": config.holdout,
            "seed": config.seed,
            "drop_overlaps": config.drop_overlaps,
        }
        | ({} if config.kind == CLASSIFICATION else {"kind": config.kind})
        | ({"group": config.group} if config.group else {})
    )


def _paths(config: Config) -> dict[str, Path]:
    return {name: Path(path).expanduser() for name, path in config.files.items()}
