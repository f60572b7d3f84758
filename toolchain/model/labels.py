"""A task's labels as a model counts them: a model that was trained elsewhere may have its own order of the logits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from toolchain.core.data import Dataset
from toolchain.core.errors import ModelError
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
        replace(split, labels=[index[label] for label in split.labels])
        for split in (dataset.train, dataset.dev, dataset.test)
    )
    return replace(dataset, train=train, dev=dev, test=test, labels=names)


def match_labels(model: tuple[str, ...], task: tuple[str, ...], folder: Path) -> tuple[list[int], list[str]]:
    """Finds the model's index of each of the task's labels.

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
    if len(model) == len(task) and all(UNNAMED.fullmatch(name) for name in model):
        return list(range(len(task))), [
            f"the model's labels have no names ({', '.join(model)}); taken by position as {', '.join(task)}"
        ]
    raise ModelError(
        f"{folder} was trained for the labels {', '.join(model)}; the task has {', '.join(task)}",
        "take a model of the task's labels, or name its labels as the task does: in interface.json where there is one, "
        "else as id2label in config.json",
    )
