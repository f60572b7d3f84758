"""Labelled text, as tasks give it and techniques take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

#: The kind of task where nothing names another.
CLASSIFICATION = "classification"


@dataclass(frozen=True)
class Split:
    """Labelled examples.

    Attributes:
        texts: One tuple per example: one string, or two for sentence pairs.
        labels: Gold answers, as many as texts: class indices, or what the kind of task has in their place.
        groups: Which examples hang together, such as phrases of one sentence, by number; empty where none do.
        kind: The kind of task, a file in ``kinds/``.
        names: Names of the data's labels, where the split was taken from a data set by name.
    """

    texts: Sequence[tuple[str, ...]]
    labels: Sequence[Any]
    groups: Sequence[int] = ()
    kind: str = CLASSIFICATION
    names: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Split:
        """The examples at these positions, in this order."""
        groups = [self.groups[i] for i in indices] if self.groups else ()
        texts, labels = [self.texts[i] for i in indices], [self.labels[i] for i in indices]
        return replace(self, texts=texts, labels=labels, groups=groups)


@dataclass(frozen=True)
class Dataset:
    """A task's data: what to learn from, what to choose by, and what to be judged on.

    Attributes:
        train: Examples to learn and to calibrate from.
        dev: Examples that selection reads.
        test: Examples opened for the finalists.
        labels: Class names; a label index points into it.
        notes: What the loader found worth saying (overlaps between splits, rows left out).
        stand_in: Whether it only stands in for data that nobody named: its texts may be read, its labels mean nothing.
    """

    train: Split
    dev: Split
    test: Split
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    stand_in: bool = False

    @property
    def kind(self) -> str:
        """The kind of task, a file in ``kinds/``."""
        return self.train.kind

    @property
    def pairs(self) -> bool:
        """Whether examples are sentence pairs."""
        return bool(self.train.texts) and len(self.train.texts[0]) == 2

    def split(self, name: str) -> Split:
        """The split called ``train``, ``dev`` or ``test``."""
        found: Split = {"train": self.train, "dev": self.dev, "test": self.test}[name]
        return replace(found, names=self.labels)
