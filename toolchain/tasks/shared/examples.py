"""From tables to labelled examples: class names, checks of every row, and splits held out from training."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain import kinds
from toolchain.core.data import CLASSIFICATION, Split
from toolchain.core.errors import DataError
from toolchain.core.registry import suggest
from toolchain.kinds.contract import Kind
from toolchain.tasks.shared.overlap import normalized, without_overlaps
from toolchain.tasks.shared.reading import RowErrors, Table

#: More classes than this, and more than half as many as rows, is a number or an id and no class.
MANY_CLASSES = 50


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes:
        text: One column, or two for sentence pairs.
        label: The column of the class.
        group: The column that says which rows belong together; '' where the first text does, of a kind with groups.
    """

    text: tuple[str, ...]
    label: str
    group: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        return (*self.text, self.label, *([self.group] if self.group not in ("", *self.text) else []))

    @property
    def plain(self) -> tuple[str, ...]:
        """Names for the two columns of a file without header; empty for pairs, which need one."""
        return self.all if len(self.text) == 1 else ()


def text_columns(text: str | Sequence[str]) -> tuple[str, ...]:
    """The text columns as a tuple.

    Raises:
        ValueError: There are not one or two of them, or one is named twice.
    """
    names = (text,) if isinstance(text, str) else tuple(text)
    if len(names) not in (1, 2) or len(set(names)) != len(names):
        raise ValueError(f"text: {list(names)} are {len(names)} columns; one, or two different ones, are read")
    return names


def class_names(
    table: Table, column: str, given: Sequence[str] | None = None, kind: str = CLASSIFICATION
) -> tuple[str, ...]:
    """Class names, in the order that gives each its index.

    Args:
        table: The training rows.
        column: The label column.
        given: Names from the settings; they win.
        kind: The kind of task, which says what labels a cell names.

    Returns:
        The names given, those that the source itself has, or else the distinct labels: numbers in numeric order,
        anything else in alphabetical order.

    Raises:
        DataError: There are fewer than two classes, or nearly as many as rows.
    """
    parts = kinds.get(kind).cell_labels
    values = {shown for value in table.columns[column] for part in parts(value) if (shown := label_text(part))}
    if not values and not any(parts(value) for value in table.columns[column]):
        raise DataError(
            f"{table.source}: {column!r} names no label in any of {len(table):,} rows",
            f"is {column!r} the label column?",
        )
    if len(values) == 1:
        raise DataError(
            f"{table.source}: one class only, {next(iter(values))!r}, in {len(table):,} rows; two at least are needed",
            f"is {column!r} the label column?",
        )
    if given or column in table.classes:
        return tuple(given or table.classes[column])
    if len(values) > MANY_CLASSES and len(values) > len(table) / 2:
        raise DataError(
            f"{table.source}: {column!r} has {len(values):,} different values in {len(table):,} rows: "
            "a number or an id, not a class",
            "name another column as label:",
        )
    return tuple(sorted(values, key=_numeric_first))


def examples(table: Table, columns: Columns, classes: Sequence[str], kind: str = CLASSIFICATION) -> Split:
    """Checks every row and turns it into an example.

    A label is a class name; where no class is named by a number, it may also be a class's index. How many labels a cell
    names, and what stands in their place, is read by the kind of task.

    Raises:
        DataError: Texts or labels are empty, not text, or unknown; all such rows are counted, the first ones shown.
    """
    index = {name: position for position, name in enumerate(classes)}
    if not any(name.isdecimal() for name in classes):
        index |= {str(position): position for position in range(len(classes))}
    errors = RowErrors(table.source)
    texts: list[tuple[str, ...]] = []
    labels: list[Any] = []
    of_kind = kinds.get(kind)
    parts = [table.columns[name] for name in columns.text]
    for row, (place, value) in enumerate(zip(table.places, table.columns[columns.label], strict=True)):
        found = [part[row] for part in parts]
        try:
            if problem := next(filter(None, map(text_problem, found, columns.text)), ""):
                raise ValueError(problem)
            labels.append(of_kind.read_gold(value) if of_kind.NAMES else _gold(of_kind, value, index, classes))
        except ValueError as error:
            errors.add(place, str(error))
            continue
        texts.append(tuple(text.strip() for text in found))
    errors.check()
    if not of_kind.GROUPED:
        return Split(texts, labels, kind=kind)
    groups = _groups(table, columns)
    relevances: dict[int, set[Any]] = {}
    for group, gold in zip(groups, labels, strict=True):
        relevances.setdefault(group, set()).add(gold)
    if all(len(own) < 2 for own in relevances.values()):
        raise DataError(
            f"{table.source}: no query has passages of different relevance: there is nothing to rank "
            f"({len(groups):,} rows, {len(relevances):,} queries)",
            f"is {columns.group or columns.text[0]!r} the column of the query?",
        )
    return Split(texts, list(map(of_kind.grouped, labels, groups)), groups, kind)


def hold_out(train: Split, share: float, names: Sequence[str], seed: int) -> tuple[Split, dict[str, Split]]:
    """Sets examples aside, the same share of every class where there are any; texts that are equal stay together.

    Groups stay together too. Of examples with several labels, each counts as one of the first of them.

    Args:
        train: All examples.
        share: Part of the examples for each of the splits, in (0, 0.5).
        names: Splits to make.
        seed: Seed of the choice.

    Returns:
        What is left to train on, and the new splits.

    Raises:
        DataError: There are too few examples for a split to have one.
    """
    groups: dict[int, dict[tuple[Any, ...], list[int]]] = {}
    seen: dict[tuple[Any, ...], int] = {}
    of_kind = kinds.get(train.kind)
    none = 0 if of_kind.NAMES else -1
    classes = [next(iter(of_kind.classes(gold)), none) for gold in train.labels]
    for row, (text, label) in enumerate(zip(train.texts, classes, strict=True)):
        key: tuple[Any, ...] = (train.groups[row],) if of_kind.GROUPED else normalized(text)
        # Equal texts with different labels go where the first of them goes, or they would sit on both sides.
        groups.setdefault(seen.setdefault(key, label), {}).setdefault(key, []).append(row)
    held: dict[str, list[int]] = {name: [] for name in names}
    for label in sorted(groups):
        batches = list(groups[label].values())
        random.Random(f"{seed} {label}").shuffle(batches)
        total = sum(map(len, batches))
        for name in names:
            room = max(1, round(total * share))
            # Each class keeps at least one group to learn from.
            while room > 0 and len(batches) > 1:
                taken = batches.pop()
                held[name].extend(taken)
                room -= len(taken)
    for name, rows in held.items():
        if not rows:
            raise DataError(f"{len(train)} training rows are too few to hold out {name}", f"name a file for {name}")
    out = {row for rows in held.values() for row in rows}
    left = train.take([row for row in range(len(train)) if row not in out])
    return left, {name: train.take(sorted(rows)) for name, rows in held.items()}


def completed(
    splits: Mapping[str, Split], what: str, *,
    share: float, seed: int, drop_overlaps: bool, same_file: bool, how: str = "",
) -> tuple[Split, Split, Split, list[str]]:  # fmt: skip
    """Return train, dev and test, those that are not there held out from train, and notes on all that was done.

    Args:
        splits: Those that there are; at least ``train``.
        what: What the examples of train are called in notes, such as ``rows of train.csv``.
        share: Part of train for each split that is not there, in (0, 0.5).
        seed: Seed of the choice.
        drop_overlaps: Leave out training examples whose text is also in test.
        same_file: Whether dev and test were read from one file.
        how: What notes say of the choice besides its seed.

    Raises:
        DataError: There are too few examples for a split to have one.
    """
    train, held, absent = splits["train"], dict[str, Split](), [name for name in ("dev", "test") if name not in splits]
    total = len(train)
    if absent:
        train, held = hold_out(train, share, absent, seed)
    notes = [f"{name} is {len(held[name]):,} of the {total:,} {what}, held out (seed {seed}{how})" for name in absent]
    dev, test = ({**splits, **held}[name] for name in ("dev", "test"))
    if same_file:
        notes.append("test is the same file as dev: what selection reads is also what judges")
        test = dev
    train, overlaps = without_overlaps(train, dev, test, drop_overlaps)
    return train, dev, test, [*notes, *overlaps]


def absent_classes(split: Split, classes: Sequence[str], name: str) -> tuple[str, ...]:
    """A note when classes have no example in a split, as a tuple of none or one."""
    present = Counter(label for gold in split.labels for label in kinds.get(split.kind).classes(gold))
    absent = [repr(label) for index, label in enumerate(classes) if not present[index]]
    return (f"{name} has no example of {', '.join(absent[:5])}",) if absent else ()


def label_text(value: Any) -> str:
    """A label as text: ``1`` for 1, 1.0 and "1 "; empty where there is none."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def text_problem(value: Any, column: str) -> str:
    """What is wrong with a text; empty if nothing is."""
    if value is None:
        return f"empty text in {column!r}"
    if not isinstance(value, str):
        return f"{column!r} is {value!r}; text is expected"
    if not value.strip():
        return f"empty text in {column!r}"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return f"{column!r} holds half of a surrogate pair, which is no character"
    return ""


def _gold(kind: Kind, value: Any, index: Mapping[str, int], classes: Sequence[str]) -> Any:
    """Return the gold answer that a cell of labels has.

    Raises:
        ValueError: A label is unknown, empty or named twice.
    """
    parts = kind.cell_labels(value)
    if problem := next(filter(None, (_label_problem(part, index, classes) for part in parts)), ""):
        raise ValueError(problem)
    indices = [index[label_text(part)] for part in parts]
    if twice := [each for each, count in Counter(indices).items() if count > 1]:
        raise ValueError(f"the label {classes[twice[0]]!r} is named twice")
    return kind.gold_of(indices, len(classes))


def _groups(table: Table, columns: Columns) -> list[int]:
    """Return the number of the group of each row.

    Raises:
        DataError: A row names no group.
    """
    errors, numbers = RowErrors(table.source), dict[str, int]()
    found = [label_text(value) for value in table.columns[columns.group or columns.text[0]]]
    for place, name in zip(table.places, found, strict=True):
        if not name:
            errors.add(place, f"empty group in {columns.group!r}")
    errors.check()
    return [numbers.setdefault(name, len(numbers)) for name in found]


def _label_problem(value: Any, index: Mapping[str, int], classes: Sequence[str]) -> str:
    """What is wrong with a label; empty if nothing is."""
    if isinstance(value, (list, dict, bytes)):
        return f"the label is {value!r}; a name or a number is expected"
    shown = label_text(value)
    if not shown:
        return "empty label"
    if shown in index:
        return ""
    known = suggest(shown, classes) if len(classes) <= MANY_CLASSES else f"{len(classes)} labels are known"
    return f"unknown label {shown!r}; {known}"


def _numeric_first(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        return 1, 0.0, label
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)  # nan has no place among numbers
