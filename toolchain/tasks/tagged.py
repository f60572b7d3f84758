"""Texts whose words have tags, for token classification such as named entities; no code.

In a recipe: ``task: {tagged: {files: {train: a.conll, dev: b.conll, test: c.conll}}}``. Files are CoNLL columns (a word
and its tag on each line, a blank line between sentences), or JSONL or Parquet with a list of words and a list of tags
in each row, or with a text and the spans of its entities (``spans: COLUMN``). A split that is not named is held out
from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError
from toolchain.core.stage import Ge, Gt, Lt, MinLen, StageConfig
from toolchain.tasks.shared import tagging
from toolchain.tasks.shared.examples import completed
from toolchain.tasks.shared.reading import FORMATS, check_file, file_digest

VERSION = 1

_KIND = "token_classification"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the tagged task.

    Attributes:
        files: Paths of ``train`` (needed), ``dev`` and ``test``. One that is not named is held out from train.
        tokens: The column with the list of words, in JSONL and Parquet.
        tags: The column with the list of tags, in JSONL and Parquet.
        spans: The column with the list of spans; given, words and tags are made of ``text`` and these.
        text: The column of the text, with ``spans``.
        scheme: How tags make entities; by default by the prefixes that occur: bilou, iobes, or else iob2, in which
            every entity begins with B-. iob1 must be named.
        labels: Names of all tags in order; by default O and those of the scheme for every type in train, sorted.
        encoding: Of text files, e.g. utf-8, latin-1.
        holdout: Share of train for each split that is not named.
        seed: Seed of the hold-out, apart from the seed of training.
        drop_overlaps: Leave out training texts that are also in test.
    """

    files: dict[Literal["train", "dev", "test"], str]
    tokens: str = "tokens"
    tags: str = "tags"
    spans: str | None = None
    text: str = "text"
    scheme: Literal["iob1", "iob2", "iobes", "bilou"] | None = None
    labels: Annotated[tuple[str, ...], MinLen(2)] | None = None
    encoding: str = "utf-8"
    holdout: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    seed: Annotated[int, Ge(0)] = 17
    drop_overlaps: bool = True

    def __post_init__(self) -> None:
        """Check what ranges cannot say."""
        if "train" not in self.files:
            raise ValueError("files: train is missing; train is needed, dev and test may be left out")
        if self.tokens == self.tags:
            raise ValueError(f"tags: {self.tags!r} is also the column of the words")
        if self.labels and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels: {list(self.labels)} names a tag twice")
        if self.labels and tagging.OUTSIDE not in self.labels:
            raise ValueError(f"labels: {list(self.labels)} lacks O, the tag of words outside of entities")


def kind(config: Config) -> str:
    """Return what is learned."""
    return _KIND


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run: always."""
    return True


def load(config: Config) -> Dataset:
    """Read and check the files.

    Raises:
        DataError: A file cannot be read, or words or tags of it cannot be used; it names the file and the line.
    """
    paths = _paths(config)
    read = {name: _read(path, config) for name, path in paths.items()}
    scheme = config.scheme or tagging.scheme_of(read["train"])
    for name, sentences in read.items():
        tagging.check_tags(str(paths[name]), sentences, scheme)
    names = config.labels or tagging.tag_names(read["train"], scheme)
    if len(names) < 2:
        raise DataError(
            f"{config.files['train']}: no word has another tag than O in {len(read['train']):,} texts",
            "is the last column the tag?",
        )
    splits = {
        name: Split([(each.text,) for each in sentences], tagging.gold(str(paths[name]), sentences, names), kind=_KIND)
        for name, sentences in read.items()
    }
    train, dev, test, notes = completed(
        splits,
        f"texts of {paths['train'].name}",
        share=config.holdout,
        seed=config.seed,
        drop_overlaps=config.drop_overlaps,
        same_file="dev" in paths and paths["dev"] == paths.get("test"),
    )
    read_as = [] if scheme == "iob2" else [f"tags are read as {scheme.upper()}"]
    return Dataset(train, dev, test, names, (*read_as, *notes))


def identity(config: Config) -> dict[str, Any]:
    """Return what decides the data: the files' digests, and the settings that say how they are read.

    Raises:
        DataError: A file cannot be read.
    """
    digests = {}
    for name, path in _paths(config).items():
        check_file(path, (*FORMATS, *tagging.COLUMNS))
        digests[name] = file_digest(path)
    return {
        "files": digests,
        "tokens": config.tokens,
        "tags": config.tags,
        "spans": config.spans,
        "text": config.text,
        "scheme": config.scheme,
        "labels": list(config.labels) if config.labels else None,
        "encoding": config.encoding,
        "holdout": config.holdout,
        "seed": config.seed,
        "drop_overlaps": config.drop_overlaps,
    }


def _read(path: Path, config: Config) -> list[tagging.Tagged]:
    if path.suffix.lower() not in FORMATS or path.suffix.lower() in (".tsv",):
        return tagging.read_columns(path, config.encoding)
    if path.suffix.lower() == ".csv":
        raise DataError(
            f"{path}: CSV has no lists of words and tags",
            f"write columns ({', '.join(tagging.COLUMNS)}, .tsv), JSONL or Parquet",
        )
    if config.spans:
        return tagging.read_spans(path, config.text, config.spans, config.scheme or "iob2", config.encoding)
    return tagging.read_lists(path, config.tokens, config.tags, config.labels or (), config.encoding)


def _paths(config: Config) -> dict[str, Path]:
    return {name: Path(path).expanduser() for name, path in config.files.items()}
