"""Takes texts that nobody has labelled; a teacher labels them.

What a student learns from a teacher it can learn on any text of the kind (Hinton et al., arXiv 1503.02531), and there
is more of that than of labelled text. A file is read as the task ``files`` reads it, or line by line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from toolchain.augment.shared import examples
from toolchain.augment.shared.examples import AugmentConfig
from toolchain.augment.shared.examples_file import Example
from toolchain.core.errors import DataError
from toolchain.core.stage import Context, Ge, Metrics, MinLen
from toolchain.tasks.shared import examples as task_examples
from toolchain.tasks.shared import reading

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")

_HINT = "save it as UTF-8, columns separated by a comma, or in .tsv by a tab"

#: A file with one text in a line.
_TEXT = ".txt"

teachers = examples.teachers


@dataclass(frozen=True, kw_only=True)
class Config(AugmentConfig):
    """Settings of unlabelled text.

    Attributes:
        path: A CSV, TSV, JSONL or Parquet file, or a text file with one text in a line.
        text: The column that holds the text, or two for pairs; a text file has none.
        limit: At most so many texts, drawn by the seed; absent: all.
    """

    path: str
    text: str | Annotated[tuple[str, ...], MinLen(1)] = "text"
    limit: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        task_examples.text_columns(self.text)
        if self.teacher is None:
            raise ValueError("teacher: nobody has labelled these texts; name who does")
        if Path(self.path).suffix.lower() == _TEXT and self.text != "text":
            raise ValueError(f"text: a text file has no columns, and {self.text!r} names some; leave it out")
        if self.agree:
            raise ValueError("agree: these texts have no labels to agree with; leave it out")


def fits(config: Config) -> tuple[str, str] | None:
    """What is wrong with the file, and what to do, or None: said before anything runs."""
    try:
        identity(config)
        read = _rows(config)
    except DataError as error:
        return error.message, error.hint
    if not any(map(all, read)):
        return f"{config.path}: none of its {len(read):,} rows holds a text", "name the column that does: text: NAME"
    return None


def fits_task(config: Config, pairs: Callable[[], bool]) -> tuple[str, str] | None:
    """Why such texts are none of a task's, and what to do, or None."""
    columns, paired = len(task_examples.text_columns(config.text)), pairs()
    if columns == 1 + paired:
        return None
    wanted = "pairs" if paired else "single texts"
    said = f"{config.path}: {columns} column{'s' * (not paired)} of text, and the task has {wanted}"
    return said, "name two columns of a table: text: [a, b]" if paired else "name one column: text: a"


def identity(config: Config) -> dict[str, Any]:
    """What decides the result: the settings, and the content of the file."""
    path = Path(config.path).expanduser()
    if path.suffix.lower() != _TEXT:
        reading.check_file(path)
    elif path.is_dir():
        raise DataError(f"{path}: is a folder; a file is expected", "name the file inside it")
    elif not path.is_file():
        raise DataError(f"{path}: no such file", "a text file with one text in a line, or a table with a column text")
    return asdict(config) | {"path": reading.file_digest(path)}


def apply(source: Path | None, out: Path, config: Config, context: Context) -> Metrics:
    """Writes the texts that a teacher has labelled.

    Args:
        source: Not read.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and who labels.

    Returns:
        How many texts were read, kept and left out, and why.

    Raises:
        DataError: The file cannot be read, or holds pairs where the task has single texts, or the other way round.
    """
    if refusal := fits_task(config, lambda: context.dataset().pairs):
        raise DataError(*refusal)
    found = _rows(config)
    if config.limit and config.limit < len(found):
        found = random.Random(context.seed).sample(found, config.limit)
    return examples.finish([Example(text) for text in found], out, config, context, labelled=False)


def _rows(config: Config) -> list[tuple[str, ...]]:
    """The texts of the file, in its order, empty rows of a table among them.

    Raises:
        DataError: It is empty, no text, or lacks a column.
    """
    path = Path(config.path).expanduser()
    state = path.stat()
    return list(_texts(path, task_examples.text_columns(config.text), (state.st_size, state.st_mtime_ns)))


@cache
def _texts(path: Path, columns: tuple[str, ...], state: tuple[int, int]) -> list[tuple[str, ...]]:
    """The texts of a file in this state, which is read once for all the variants that name it."""
    try:
        if path.suffix.lower() == _TEXT:
            lines = [line.strip() for line in reading.decode(path).split("\n")]  # splitlines() cuts at more than that
            return [(line,) for line in lines if line]
        table = reading.read_table(path, columns)
    except DataError as error:
        # Settings of the task's own files, which this one has not.
        raise DataError(
            error.message, _HINT if re.search("encoding:|delimiter:", error.hint) else error.hint
        ) from error
    table.need(columns)
    errors, found = reading.RowErrors(table.source), []
    for row, place in enumerate(table.places):
        cells = [table.columns[name][row] for name in columns]
        if any(cells):
            problem = next(filter(None, map(task_examples.text_problem, cells, columns)), "")
            if problem:
                errors.add(place, problem)
            else:
                found.append(tuple(str(text).strip() for text in cells))
        else:
            found.append(tuple("" for _ in columns))  # counted among the empty ones
    errors.check()
    return found
