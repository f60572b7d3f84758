"""Kinds of task: what a model of a kind reads, answers, learns from and is judged by. A kind is one file.

A folder's ``interface.json`` names its kind, and a task's examples name theirs; where neither does, it is
classification. ``contract.py`` declares what a kind may define.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core import documents, registry
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import ModelError
from toolchain.kinds import classification
from toolchain.kinds.contract import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERFACE_FILE = "interface.json"


def get(name: str, labels: Sequence[str] = ()) -> Kind:
    """Return a kind by the name of its file.

    Args:
        name: The name.
        labels: Names of a model's labels, in their order, for hooks that depend on them.

    Raises:
        RecipeError: There is none of that name.
    """
    kind = _get(name)
    return _for_labels(name, tuple(labels)) if labels and kind.DEPENDS_ON_LABELS else kind


@cache
def _get(name: str) -> Kind:
    if name == CLASSIFICATION:  # imported by name above, so that its source counts as that of whatever uses kinds
        return Kind(classification)
    return registry.get("kinds", name).of(Kind)


@cache
def _for_labels(name: str, labels: tuple[str, ...]) -> Kind:
    module = registry.get("kinds", name).module
    bound = ModuleType(module.__name__)
    vars(bound).update(vars(module) | dict(_get(name).of_labels(labels)))
    return Kind(bound)


def named(record: Mapping[str, Any], where: str = "") -> Kind:
    """Return the kind that an ``interface.json`` or an evaluation names, for its labels; where none, classification.

    Args:
        record: What the file holds.
        where: What an error begins with, such as the file and a colon.

    Raises:
        ModelError: There is no kind of that name.
    """
    name, known = record.get("kind", CLASSIFICATION), registry.names("kinds")
    if name not in known:
        raise ModelError(f"{where}kind is {name!r}; allowed are {', '.join(known)}")
    labels = record.get("label_names", record.get("labels"))
    return get(str(name), labels if isinstance(labels, list) and all(isinstance(each, str) for each in labels) else ())


def of_folder(folder: Path) -> Kind:
    """Return the kind of a checkpoint, graph or engine; classification where the folder has no ``interface.json``.

    Raises:
        ModelError: ``interface.json`` is damaged, or names an unknown kind.
    """
    path = folder / INTERFACE_FILE
    return named(documents.read_object(path, ModelError) if path.is_file() else {}, f"{path}: ")


def has_labels(kind: Kind) -> bool:
    """Return whether a model of a kind gives a number for each of its labels."""
    return any("labels" in output.axes for output in kind.OUTPUTS)


def places(kind: Kind, there: Sequence[str]) -> dict[str, int]:
    """Return which of a graph's outputs each output of a kind is: the one of its name, or the one in its place.

    Args:
        kind: The kind.
        there: Names of the graph's outputs, in its order.
    """
    names = [output.name for output in kind.OUTPUTS]
    named = set(names) <= set(there)
    return {name: there.index(name) if named else place for place, name in enumerate(names)}


def gathered(
    kind: Kind, parts: Sequence[tuple[Sequence[int], Mapping[str, NDArray[Any]]]], rows: int, labels: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of all rows from those of batches of them; beyond the tokens of its batch, a row has zeros.

    Args:
        kind: The kind.
        parts: Positions of a batch's rows, and its outputs by name.
        rows: Rows in all.
        labels: Labels of the model, for the case that there is no batch.
    """
    outputs = {}
    for output in kind.OUTPUTS:
        values = [answer[output.name] for _, answer in parts]
        shape = [rows]
        for place, axis in enumerate(output.axes[1:], 1):
            shape.append(max([value.shape[place] for value in values] or [labels if axis == "labels" else 0]))
        whole = np.zeros(shape, dtype=np.float32)
        for (chosen, _), value in zip(parts, values, strict=True):
            whole[(chosen, *(slice(size) for size in value.shape[1:]))] = value
        outputs[output.name] = whole
    return outputs


def from_first_token(
    kind: Kind, outputs: Mapping[str, NDArray[Any]], lengths: Sequence[int], padding_side: str
) -> dict[str, NDArray[Any]]:
    """Return a batch's outputs, those of tokens with each row's first token at the front, whatever padding is there.

    Args:
        kind: The kind.
        outputs: The batch's outputs by name.
        lengths: Tokens of each row.
        padding_side: Where the padding stands.
    """
    if padding_side != "left":
        return dict(outputs)
    tokens = {output.name for output in kind.OUTPUTS if "tokens" in output.axes[1:2]}
    return {
        name: np.stack([np.roll(row, size - len(row), axis=0) for row, size in zip(value, lengths, strict=True)])
        if name in tokens and len(value)
        else value
        for name, value in outputs.items()
    }


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the answers of several runs, ``[examples, …]`` each, as one array; where one is smaller, zeros follow."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
    return np.concatenate([padded(part, sizes) for part in parts])


def padded(answers: NDArray[Any], sizes: Sequence[int]) -> NDArray[Any]:
    """Return answers with zeros behind them up to these sizes of all axes but the first."""
    if list(answers.shape[1:]) == list(sizes):
        return answers
    return np.pad(answers, [(0, 0), *((0, size - there) for size, there in zip(sizes, answers.shape[1:], strict=True))])
