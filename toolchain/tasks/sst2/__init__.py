"""SST-2, the Stanford Sentiment Treebank with two classes (Socher et al. 2013), from a folder or from the hub.

A folder holds train.tsv, dev.tsv and test.tsv, in GLUE's layout (header ``sentence<TAB>label``) or plain
(``sentence<TAB>label`` without header). From the hub, ``sentences`` are the 6,920, 872 and 1,821 labelled sentences,
and ``phrases`` GLUE's 67,349 training phrases, judged on the same 1,821 sentences, since GLUE's own test has no labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError
from toolchain.core.files import safe_folder
from toolchain.core.stage import Ge, StageConfig
from toolchain.tasks.shared.examples import Columns, examples
from toolchain.tasks.shared.hub import hub_tables, unlabelled
from toolchain.tasks.shared.overlap import without_overlaps
from toolchain.tasks.shared.reading import Table, check_file, file_digest, read_table
from toolchain.tasks.sst2 import certification

VERSION = 1

_LABELS = ("negative", "positive")

_DEV_JUDGES = ": dev serves as test, so what selection reads is also what judges"
_HINT = "give a folder with train.tsv, dev.tsv and test.tsv: --data FOLDER, or task: {sst2: {folder: FOLDER}}"
_SENTENCES = "SetFit/sst2"
_PHRASES = "stanfordnlp/sst2"
_FOLDER_COLUMNS = Columns(("sentence",), "label")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of SST-2.

    Attributes:
        folder: Folder with the TSV files; absent: the hub.
        source: What to train on when it comes from the hub: whole sentences, or GLUE's phrases.
        revision: Commit, branch or tag of the hub's data set that is trained on.
        split: ``given`` judges on test; ``certification`` holds whole sentences of GLUE's phrases out of training, with
            every phrase that is part of one, and judges on these.
        certification_examples: The least examples to judge on under ``split: certification``.
        drop_overlaps: Leave out training rows whose text is also in test (GLUE's phrases hold 6 of the test sentences).
    """

    folder: str | None = None
    source: Literal["sentences", "phrases"] = "sentences"
    revision: str | None = None
    split: Literal["given", "certification"] = "given"
    certification_examples: Annotated[int, Ge(1)] = 6000
    drop_overlaps: bool = True


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run."""
    return config.folder is not None


def load(config: Config) -> Dataset:
    """Loads and checks the data.

    Raises:
        DataError: The folder or the hub cannot be read, or rows cannot be used; it names the file and the line.
    """
    train, dev, test, notes = _from_hub(config) if config.folder is None else _from_folder(_folder(config.folder))
    if config.split == "certification":
        train, test, note = certification.hold_out(train, config.certification_examples)
        notes = [*(said for said in notes if not said.endswith(_DEV_JUDGES)), note]
    train, overlaps = without_overlaps(train, dev, test, config.drop_overlaps)
    return Dataset(train, dev, test, _LABELS, (*notes, *overlaps))


def identity(config: Config) -> dict[str, Any]:
    """What decides the data: the digests of the folder's files, or what is asked of the hub.

    Raises:
        DataError: A file cannot be read.
    """
    if config.folder is None:
        where: dict[str, Any] = {"source": config.source, "revision": config.revision}
    else:
        folder = _folder(config.folder)
        for name in ("train.tsv", "dev.tsv"):
            check_file(folder / name)
        paths = [folder / name for name in ("train.tsv", "dev.tsv", "test.tsv")]
        where = {"files": {path.name: file_digest(path) for path in paths if path.exists()}}
    if config.split == "certification":
        where["certification"] = {"version": certification.VERSION, "examples": config.certification_examples}
    return where | {"drop_overlaps": config.drop_overlaps}


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        kind = "a file; its folder is expected" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {kind}", "it holds train.tsv, dev.tsv and, if there is one, test.tsv")
    safe_folder(folder, ("train.tsv", "dev.tsv", "test.tsv"), DataError)
    return folder


def _from_folder(folder: Path) -> tuple[Split, Split, Split, list[str]]:
    train, dev = (_split(_read(folder / name, labelled=True)) for name in ("train.tsv", "dev.tsv"))
    path = folder / "test.tsv"
    if not path.exists():
        return train, dev, dev, [_dev_judges(f"{folder} has no test.tsv")]
    table = _read(path, labelled=False)
    if unlabelled(table, "label"):
        return train, dev, dev, [_dev_judges(f"{path} has no labels")]
    return train, dev, _split(table), []


def _read(path: Path, labelled: bool) -> Table:
    needed = _FOLDER_COLUMNS.all if labelled else _FOLDER_COLUMNS.text
    return read_table(path, needed, plain=_FOLDER_COLUMNS.plain, known=("0", "1", *_LABELS))


def _split(table: Table) -> Split:
    return examples(table, _FOLDER_COLUMNS, _LABELS)


def _dev_judges(reason: str) -> str:
    return f"{reason}{_DEV_JUDGES}"


def _from_hub(config: Config) -> tuple[Split, Split, Split, list[str]]:
    sentences = Columns(("text",), "label")
    names = {"train": "train", "dev": "validation", "test": "test"}
    phrases = config.source == "phrases"
    tables, note = hub_tables(_SENTENCES, None, None if phrases else config.revision, names, sentences.all, _HINT)
    if "test" not in tables:
        raise DataError(f"{_SENTENCES}: no split 'test'", _HINT)
    dev, test = (examples(tables[name], sentences, _LABELS) for name in ("dev", "test"))
    notes = [note]
    if phrases:
        names = {"train": "train"}
        tables, note = hub_tables(_PHRASES, None, config.revision, names, _FOLDER_COLUMNS.all, _HINT)
        notes.append(note)
        return _split(tables["train"]), dev, test, notes
    return examples(tables["train"], sentences, _LABELS), dev, test, notes
