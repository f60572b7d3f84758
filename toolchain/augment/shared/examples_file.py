"""More training examples, as an augmentation writes them and whoever trains reads them.

``examples.jsonl`` holds one object a line: ``text``, a list of one string or, for pairs, two; ``label``, a class name;
and ``of``, the position of the training example that it was made from, or null.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.core import documents
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError
from toolchain.tasks.shared.overlap import normalized

FILE = "examples.jsonl"


@dataclass(frozen=True)
class Example:
    """A text that an augmentation has made.

    Attributes:
        text: One string, or two for pairs.
        label: Class index; None until a teacher gives one.
        of: Position of the training example that it was made from; None where there is none.
    """

    text: tuple[str, ...]
    label: int | None = None
    of: int | None = None


def write(folder: Path, examples: Iterable[Example], labels: Sequence[str]) -> None:
    """Writes examples, each with a label, under the names of the classes."""
    with (folder / FILE).open("w", encoding="utf-8") as file:
        for example in examples:
            if example.label is None:
                raise AssertionError(f"an example without a label: {example.text}")
            row = {"text": list(example.text), "label": labels[example.label], "of": example.of}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read(folder: Path, labels: Sequence[str]) -> Split:
    """Examples that :func:`write` has written.

    Args:
        folder: Their folder.
        labels: The names of the classes, in the order of the indices that are given back.

    Raises:
        DataError: A label is none of these.
    """
    texts, found = [], []
    # Not splitlines(): a text may hold a character that ends a line elsewhere.
    for number, line in enumerate((folder / FILE).read_text("utf-8").rstrip("\n").split("\n"), 1):
        row = documents.parse_json(line, f"{folder / FILE}:{number}", DataError, "make the augmentation again")
        if row["label"] not in labels:
            raise DataError(
                f"{folder / FILE}:{number}: label {row['label']!r} is none of {', '.join(labels)}",
                "the augmentation was made for another task",
            )
        texts.append(tuple(row["text"]))
        found.append(labels.index(row["label"]))
    return Split(texts, found)


def joined(data: Dataset, folders: Sequence[Path]) -> Dataset:
    """The data with more to learn from: its own training examples first; what comes again is left out.

    As in an augmentation, case, white space and punctuation do not count.
    """
    texts, labels = list(data.train.texts), list(data.train.labels)
    seen = {normalized(text) for text in texts}
    for folder in folders:
        more = read(folder, data.labels)
        for text, label in zip(more.texts, more.labels, strict=True):
            if (key := normalized(text)) not in seen:
                seen.add(key)
                texts.append(text)
                labels.append(label)
    return dataclasses.replace(data, train=dataclasses.replace(data.train, texts=texts, labels=labels, groups=()))
