"""``interface.json``: what has to be known of a model to feed it and to read its answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core import documents
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import ModelError
from toolchain.model.tokens import SIDES

INTERFACE_FILE = "interface.json"

#: The shortest input is one token between the two that mark its ends.
MIN_LENGTH = 3


@dataclass(frozen=True)
class Interface:
    """What a predictor knows of a model.

    Attributes:
        labels: Class names, in the order of the logits.
        max_length: Tokens after which an input is cut, the special ones included.
        pad_id: Token that fills up the shorter rows of a batch.
        pad_type_id: Segment of those tokens.
        pair: Whether examples are pairs of texts.
        truncation_side: Side on which a text that is too long is cut; right where the file does not say.
        padding_side: Side on which the shorter rows of a batch are filled up; right where the file does not say.
        kind: The kind of task, a file in ``kinds/``; classification where the file does not say.
    """

    labels: tuple[str, ...]
    max_length: int
    pad_id: int
    pad_type_id: int
    pair: bool
    truncation_side: str = SIDES[0]
    padding_side: str = SIDES[0]
    kind: str = CLASSIFICATION


def read_interface(folder: Path) -> Interface:
    """Reads ``interface.json``.

    Raises:
        ModelError: The file is missing or damaged, or a value is not valid.
    """
    path = folder / INTERFACE_FILE
    record = documents.read_object(
        path, ModelError, "copy it again", "it is written by 'toolchain finetune', and carried on by all"
    )
    labels = record.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"{path}: labels is {labels!r}; allowed is a list of names")
    if len(set(labels)) != len(labels):
        raise ModelError(f"{path}: labels names a class twice: {labels!r}")
    pair = record.get("pair", False)
    if not isinstance(pair, bool):
        raise ModelError(f"{path}: pair is {pair!r}; allowed are true and false")
    return Interface(
        labels=tuple(labels),
        max_length=_integer(path, record, "max_length", MIN_LENGTH),
        pad_id=_integer(path, record, "pad_id", 0),
        pad_type_id=_integer(path, record, "pad_type_id", 0),
        pair=pair,
        truncation_side=_side(path, record, "truncation_side"),
        padding_side=_side(path, record, "padding_side"),
        kind=str(kinds.named(record, f"{path}: ")),
    )


def _side(path: Path, record: dict[str, Any], name: str) -> str:
    value = record.get(name, SIDES[0])
    if value not in SIDES:
        raise ModelError(f"{path}: {name} is {value!r}; allowed are {' and '.join(SIDES)}")
    return str(value)


def _integer(path: Path, record: dict[str, Any], name: str, least: int) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ModelError(f"{path}: {name} is {value!r}; allowed are whole numbers from {least}")
    return value
