"""Queries, passages and relevance judgements in BEIR's layout, for rerankers: a folder, no code.

``corpus.jsonl`` and ``queries.jsonl`` have ``_id`` and ``text`` in each line, ``qrels/train.tsv``, ``dev.tsv`` and
``test.tsv`` the columns ``query-id``, ``corpus-id`` and ``score`` (Thakur et al., "BEIR", arXiv 2104.08663). Beside the
passages that are judged, each query gets some that are not, drawn by a seed, with a relevance of 0. Passages without
text, as Cranfield has two, are left out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain import kinds
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError
from toolchain.core.stage import Ge, Gt, Le, Lt, StageConfig
from toolchain.tasks.shared.examples import hold_out, label_text, text_problem
from toolchain.tasks.shared.reading import RowErrors, check_file, file_digest, read_table

VERSION = 1

_KIND = "reranking"
_PARTS = ("train", "dev", "test")
_COLUMNS = ("query-id", "corpus-id", "score")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the task.

    Attributes:
        folder: The folder with corpus.jsonl, queries.jsonl and qrels/.
        negatives: Passages that are not judged, drawn for each query.
        holdout: Share of the queries of train for each part that qrels/ does not have.
        seed: Seed of the drawing and of the hold-out, apart from the seed of training.
    """

    folder: str
    negatives: Annotated[int, Ge(0), Le(1000)] = 9
    holdout: Annotated[float, Gt(0), Lt(0.5)] = 0.2
    seed: Annotated[int, Ge(0)] = 17


def kind(config: Config) -> str:
    """Return what is learned: to rank."""
    return _KIND


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run: always."""
    return True


def load(config: Config) -> Dataset:
    """Read and check the files, and draw the passages that are not judged.

    Raises:
        DataError: A file is missing, or rows of it cannot be used; it names the file and the line.
    """
    folder, judged = Path(config.folder).expanduser(), _judgements(config)
    queries = _texts(folder / "queries.jsonl")
    corpus = _texts(folder / "corpus.jsonl", may_be_empty=True)
    splits = {name: _pairs(path, corpus, queries, config) for name, path in judged.items()}
    empty = sum(not text for text in corpus.values())
    notes = [f"{empty} of the {len(corpus):,} passages have no text: they are left out"] if empty else []
    if "train" not in splits:
        name = next(iter(splits))
        splits["train"] = splits.pop(name)
        notes.append(f"qrels has no train.tsv: {name}.tsv is taken as it")
    if absent := [name for name in _PARTS if name not in splits]:
        train, held = hold_out(splits["train"], config.holdout, absent, config.seed)
        splits |= {"train": train, **held}
        notes += [f"{name}: {len(set(held[name].groups))} queries, held out of train" for name in absent]
    return Dataset(splits["train"], splits["dev"], splits["test"], kinds.get(_KIND).NAMES, tuple(notes))


def identity(config: Config) -> dict[str, Any]:
    """What decides the data: the files' digests, and the settings.

    Raises:
        DataError: A file cannot be read.
    """
    folder = Path(config.folder).expanduser()
    texts = {name: folder / f"{name}.jsonl" for name in ("corpus", "queries")}
    digests = {}
    for name, path in (texts | _judgements(config)).items():
        check_file(path)
        digests[name] = file_digest(path)
    return {"files": digests, "negatives": config.negatives, "holdout": config.holdout, "seed": config.seed}


def _judgements(config: Config) -> dict[str, Path]:
    folder = Path(config.folder).expanduser() / "qrels"
    found = {name: path for name in _PARTS if (path := folder / f"{name}.tsv").is_file()}
    if not found:
        raise DataError(f"{folder}: no train.tsv, dev.tsv or test.tsv", "give the folder that holds qrels/ as folder:")
    return found


def _texts(path: Path, *, may_be_empty: bool = False) -> dict[str, str]:
    """Return texts by id."""
    table, errors = read_table(path, ["_id", "text"]), RowErrors(str(path))
    texts: dict[str, str] = {}
    for place, name, text in zip(table.places, table.columns["_id"], table.columns["text"], strict=True):
        problem = "" if may_be_empty and text == "" else text_problem(text, "text")
        problem = problem or ("" if label_text(name) not in texts else f"_id {name!r} stands twice")
        if problem:
            errors.add(place, problem)
        else:
            texts[label_text(name)] = text.strip()
    errors.check()
    return texts


def _pairs(path: Path, corpus: dict[str, str], queries: dict[str, str], config: Config) -> Split:
    """Return the pairs of one file of judgements, and those that are drawn beside them."""
    of_kind, table, errors = kinds.get(_KIND), read_table(path, _COLUMNS), RowErrors(str(path))
    judged: dict[str, dict[str, float]] = {}
    for place, *cells in zip(table.places, *(table.columns[name] for name in _COLUMNS), strict=True):
        query, passage = label_text(cells[0]), label_text(cells[1])
        try:
            if query not in queries:
                raise ValueError(f"query-id {query!r} is not in queries.jsonl")
            if passage not in corpus:
                raise ValueError(f"corpus-id {passage!r} is not in corpus.jsonl")
            relevance = of_kind.read_gold(cells[2])
            if corpus[passage]:
                judged.setdefault(query, {})[passage] = relevance
        except ValueError as error:
            errors.add(place, str(error))
    errors.check()
    names = [name for name, text in corpus.items() if text]
    texts, gold, groups = list[tuple[str, ...]](), list[Any](), list[int]()
    for number, (query, relevances) in enumerate(judged.items()):
        rng = random.Random(f"{path.stem} {query} {config.seed}")
        drawn = rng.sample(names, min(len(names), config.negatives + len(relevances)))
        others = [name for name in drawn if name not in relevances][: config.negatives]
        for passage in (*relevances, *others):
            texts.append((queries[query], corpus[passage]))
            gold.append(of_kind.grouped(relevances.get(passage, 0.0), number))
            groups.append(number)
    return Split(texts, gold, groups, _KIND)
