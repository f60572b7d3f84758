"""A task's labels as a model counts them: a model that was trained elsewhere may have its own order of the logits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core import registry
from toolchain.core.data import Dataset
from toolchain.core.errors import ModelError
from toolchain.kinds.contract import Kind
from toolchain.model import checkpoint

#: Names that a model library gives to classes that nobody named; they are taken by position.
UNNAMED = re.compile(r"LABEL_\d+")


def dev_labels(folder: Path, dataset: Dataset) -> list[int]:
    """The label of each dev sentence, as the index of the model's logits.

    Args:
        folder: Folder with the model's ``interface.json``.
        dataset: The task's data.

    Raises:
        ModelError: The model has other labels than the task, or ``interface.json`` is missing or damaged.
    """
    return list(own_order(folder, dataset).dev.labels)


def own_order(folder: Path, dataset: Dataset) -> Dataset:
    """The data with the labels as a model counts them, for whoever trains it on or takes its gradients.

    Args:
        folder: Folder with the model's ``interface.json``.
        dataset: The task's data.

    Raises:
        ModelError: The model has other labels than the task, or ``interface.json`` is missing or damaged.
    """
    names = tuple(checkpoint.read_json(folder / "interface.json")["labels"])
    index, _ = match_labels(names, dataset.labels, folder)
    if index == list(range(len(index))):
        return dataset
    train, dev, test = (
        replace(split, labels=kinds.get(split.kind).reordered(split.labels, index))
        for split in (dataset.train, dataset.dev, dataset.test)
    )
    return replace(dataset, train=train, dev=dev, test=test, labels=names)


def own_labels(folder: Path, of_kind: Kind | None = None) -> list[str]:
    """Return the names of a model's labels, in the order of its logits: interface.json's, or else config.json's.

    Args:
        folder: Folder with one of the two.
        of_kind: The kind of task, which may have a name in place of labels.

    Raises:
        ModelError: They are not names.
    """
    interface = folder / "interface.json"
    if not interface.is_file() and of_kind and not kinds.has_labels(of_kind):
        return list(of_kind.NAMES)
    if not interface.is_file():
        config = checkpoint.read_json(folder / "config.json")  # transformers leaves its own names for two labels out
        return label_names(config, folder) or [f"LABEL_{index}" for index in range(int(config.get("num_labels") or 2))]
    labels = checkpoint.read_json(interface).get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"{interface}: labels are {labels!r}; allowed is a list of names")
    return labels


def match_labels(model: tuple[str, ...], task: tuple[str, ...], folder: Path) -> tuple[list[int], list[str]]:
    """Find the model's index of each of the task's labels.

    Args:
        model: Label names in the order of the logits.
        task: Label names in the order of the data set's indices.
        folder: Folder that an error names.

    Returns:
        For each label of the task, its index in the model; and what is worth noting about that.

    Raises:
        ModelError: The two have different labels.
    """
    if model == task:
        return list(range(len(task))), []
    if sorted(model) == sorted(task):
        return [model.index(name) for name in task], [
            f"the model's labels are in another order than the task's: {', '.join(model)}; matched by name"
        ]
    folded = [name.casefold() for name in model]
    if len(set(folded)) == len(folded) and sorted(folded) == sorted(name.casefold() for name in task):
        return [folded.index(name.casefold()) for name in task], [
            f"the model's labels are written otherwise than the task's: {', '.join(model)}; matched ignoring case"
        ]
    if len(model) == len(task) and unnamed(model):
        return list(range(len(task))), [
            f"nobody named the model's labels ({', '.join(model)}): taken in the task's order as {', '.join(task)}"
        ]
    if unnamed(model):
        raise ModelError(
            f"{folder} gives {len(model)} logits, and the task has {len(task)} labels: {', '.join(task)}",
            "name the task that the model was trained on: --task",
        )
    counts = "" if len(model) == len(task) else f" ({len(model)} against {len(task)})"
    raise ModelError(
        f"{folder} was trained for the labels {', '.join(model)}; the task has {', '.join(task)}{counts}",
        "take a model of the task's labels" if counts else f"map them: {mapping_option(model, task)}",
    )


def unnamed(labels: Sequence[str]) -> bool:
    """Return whether these are the names that transformers gives to classes that nobody named."""
    return bool(labels) and all(UNNAMED.fullmatch(name) for name in labels)


def mapping_option(model: Sequence[str], task: Sequence[str]) -> str:
    """Return the setting that gives the model's labels the task's names, in this order, as a command line takes it."""
    pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in zip(model, task, strict=True))
    return f"--set adopt.labels='{{{pairs}}}'"


def adopted_labels(
    own: Sequence[str], data: Dataset, mapping: Mapping[str, str] | None, folder: Path
) -> tuple[list[str], list[str]]:
    """Return the task's names of an adopted model's labels, in the order of its logits, and notes.

    Args:
        own: The model's own names; those that transformers gives where nobody named them.
        data: The task's data. Where it only stands in for data that nobody named, the model's own names stay.
        mapping: Names of the task by names of the model, from the settings. Of a model without names it may also be by
            the names that it would be given, which swaps them.
        folder: Folder that an error names.

    Raises:
        ModelError: The two have different labels, or the mapping names others.
    """
    names = tuple(own)
    if mapping:
        if unnamed(names) and set(mapping) <= set(data.labels) and len(names) == len(data.labels):
            names = data.labels
        if wrong := sorted(set(mapping) - set(names)):
            raise ModelError(
                f"adopt.labels maps {', '.join(wrong)}; {folder} has the labels {', '.join(names)}",
                registry.suggest(wrong[0], names),
            )
        names = tuple(mapping.get(name, name) for name in names)
        if len(set(names)) != len(names):
            raise ModelError(f"adopt.labels gives two labels one name: {', '.join(names)}", "name each once")
    if data.stand_in:
        return list(names), []
    index, notes = match_labels(names, data.labels, folder)
    labels = list(names)
    for position, name in zip(index, data.labels, strict=True):
        labels[position] = name
    return labels, notes


def label_names(config: Mapping[str, Any], where: Path) -> list[str]:
    """Return the names that a model's ``config.json`` gives its labels; none where it gives none.

    Raises:
        ModelError: ``id2label`` does not name the labels 0, 1, 2, …, or ``label2id`` contradicts it.
    """
    given = {str(key): str(name) for key, name in dict(config.get("id2label") or {}).items()}
    if set(given) != {str(index) for index in range(len(given))}:
        raise ModelError(f"{where}: id2label of config.json is {given!r}; allowed are the names of 0, 1, 2, …")
    numbers = config.get("label2id")
    for index, name in given.items():
        other = numbers.get(name, index) if isinstance(numbers, Mapping) else index
        if str(other) != index:
            raise ModelError(
                f"{where}: config.json calls label {index} {name!r} in id2label, and {name!r} is {other} in label2id",
                "correct the one that is wrong",
            )
    return [given[str(index)] for index in range(len(given))]
