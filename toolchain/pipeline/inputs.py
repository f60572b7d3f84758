"""What a recipe names and a run would miss: data, models, labels, packages. Looked at without loading torch.

``toolchain validate`` asks; a run finds the same one after the other, when it comes to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from toolchain.core import hooks
from toolchain.core.data import Dataset
from toolchain.core.errors import MissingPackageError, ToolchainError
from toolchain.model import adopt, scratch, source
from toolchain.model.checkpoint import NO_TOKENIZER, TOKENIZER_FILES
from toolchain.model.labels import own_labels
from toolchain.pipeline import keys
from toolchain.pipeline.document import Document, Problems
from toolchain.pipeline.items import Item, teachers_of
from toolchain.pipeline.recipe import Recipe


def check(document: Document, recipe: Recipe) -> list[str]:
    """Check what a valid recipe names.

    Args:
        document: The recipe as written.
        recipe: The same, validated.

    Returns:
        Packages that are not installed here, each with its place and the command that installs it.

    Raises:
        RecipeError: With every problem found.
    """
    problems = Problems(document)
    data = _data(problems, recipe)
    for (model, variant), items in recipe.variants.items():
        where = ("variants", variant)
        own = _of_model(document, model)
        adopting = _place(document.value, variant, "adopt") or own
        spec = recipe.models.get(model, "")
        if not items or not items[0].does.adopts:
            _model(problems, spec, items, own, recipe.base)
        for item in items:
            if item.does.adopts:
                _adopted(problems, item, adopting, data)
            if data is not None and (refusal := item.technique.hooks.fits_task(item.config, lambda: data.pairs)):
                problems.add(where, f"{item.label}: {refusal[0]}", refusal[1])
            for teacher in teachers_of(item):
                _teacher(problems, teacher, where, data, recipe.base)
    problems.raise_if_any()
    return _missing_packages(document, recipe)


def _of_model(document: Document, model: str) -> tuple[Any, ...]:
    """Return where a model stands in the recipe."""
    return ("models", model) if "models" in document.value else ("model",)


def _place(root: Any, variant: str, name: str) -> tuple[Any, ...]:
    """Return where the stages, or a variant after them, name an item; () where neither does."""
    stages, own = root.get("stages") or [], (root.get("variants") or {}).get(variant) or []
    places: list[tuple[tuple[Any, ...], Any]] = [(("stages", index), item) for index, item in enumerate(stages)]
    places += [(("variants", variant), item) for item in own]
    return next((at for at, item in places if item == name or (isinstance(item, dict) and name in item)), ())


def _data(problems: Problems, recipe: Recipe) -> Dataset | None:
    """Return the task's data where they are local files, which are read whole; None of the hub's and of broken ones."""
    if not recipe.task.technique.of(hooks.Task).held_here(recipe.task.config):
        return None
    try:
        return keys.Task(recipe).data()
    except MissingPackageError:
        return None  # said with the packages
    except ToolchainError as error:
        problems.add(
            ("task", "files" if recipe.task.label == "files" else recipe.task.label), error.message, error.hint
        )
        return None


def _model(problems: Problems, spec: str, items: Sequence[Item], where: tuple[Any, ...], base: Path | None) -> None:
    """Check the model that a variant fine-tunes."""
    if not source.installed(spec):
        return  # said with the packages
    try:
        resolved = source.resolve(spec, base)
        if resolved.kind == "scratch":
            scratch.shape(spec)
        if resolved.folder:
            _check_tokenizer(problems, resolved.folder, where)
        shape = source.shape(resolved)
    except ToolchainError as error:
        problems.add(where, error.message, error.hint)
        return
    training = next((item.config for item in items if item.does.finetunes), None)
    if training is not None and shape is not None and 0 < shape.longest < training.max_length:
        problems.add(
            where,
            f"finetune.max_length: {training.max_length} is more than the {shape.longest} tokens that {spec} reads",
            f"set it to {shape.longest} or less",
        )


def _adopted(problems: Problems, item: Item, where: tuple[Any, ...], data: Dataset | None) -> None:
    """Check what is taken in: its files, its tokenizer, its labels against the task's."""
    path = str(item.config.path)
    if not source.installed(path):
        return  # said with the packages
    kind = adopt.kind_of(path)
    try:
        if kind == "onnx":
            adopt.graph_file(Path(path).expanduser())
        elif kind == "checkpoint" and (folder := source.resolve(path).folder) and not item.config.tokenizer:
            _check_tokenizer(problems, folder, where)
        if folder := adopt.described(path):
            own_labels(folder)  # whose names may not be readable
        if data is not None:
            adopt.check_labels(item.config, data)
    except ToolchainError as error:
        problems.add(where, error.message, error.hint)


def _check_tokenizer(problems: Problems, folder: Path, where: tuple[Any, ...]) -> None:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        problems.add(where, f"{folder} holds no tokenizer", NO_TOKENIZER)


def _teacher(problems: Problems, spec: str, where: tuple[Any, ...], data: Dataset | None, base: Path | None) -> None:
    """Check the labels of a teacher from outside."""
    path = source.settled(spec, base)
    if data is not None and Path(path).expanduser().exists():
        try:
            adopt.check_labels(adopt.Config(path=path), data)
        except ToolchainError as error:
            problems.add(where, f"teacher: {error.message}", error.hint)


def _missing_packages(document: Document, recipe: Recipe) -> list[str]:
    """Return the distributions that a step's technique needs and that are not installed, once each."""
    needed: dict[str, tuple[Any, ...]] = {}
    for (_, variant), items in recipe.variants.items():
        for item in items:
            apart = getattr(item.config, "exporter", "") == "optimum" and not item.config.python
            for name in (*item.technique.libraries, *(["optimum-onnx"] if apart else [])):
                needed.setdefault(name, ("variants", variant))
    for index, engine in enumerate(recipe.engines):
        for name in engine.technique.libraries:
            needed.setdefault(name, ("engines", index))
    for name in recipe.task.technique.libraries:
        needed.setdefault(name, ("task",))
    extras = _extras()
    lines = [
        f"{document.place(_of_model(document, model))}: {spec} is not installed here"
        for model, spec in recipe.models.items()
        if not source.installed(spec)
    ]
    for name, path in needed.items():
        if keys.installed(name) == "missing":
            extra = extras.get(name)
            command = f"pip install 'toolchain[{extra}]'" if extra else f"pip install {name}"
            lines.append(f"{document.place(path)}: the package {name} is not installed here ({command})")
    return lines


def _extras() -> dict[str, str]:
    """Return the first extra of this package that brings each distribution."""
    extras: dict[str, str] = {}
    try:
        requirements = metadata.requires("toolchain") or []
    except metadata.PackageNotFoundError:
        return extras
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*extra == [\"']([\w-]+)[\"']", requirement)
        if match:
            extras.setdefault(match[1], match[2])
    return extras
