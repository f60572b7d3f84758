"""What a direct command stands for: the recipe of one that works on a model, a graph or an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolchain.cli import options
from toolchain.core.errors import RecipeError
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.pipeline.recipe import Recipe


def recipe_of(
    targets: Sequence[str],
    items: Sequence[str],
    settings: dict[str, Any],
    engines: Sequence[str] = (),
    *,
    judges: bool = True,
) -> Recipe:
    """Return the recipe that a command is given, or that a direct one stands for.

    Args:
        targets: A recipe, or what a direct command works on.
        items: What a direct command does.
        settings: The command's options.
        engines: What a direct command builds for.
        judges: Whether it learns, calibrates or judges, for which it must know the data.
    """
    from toolchain.pipeline import recipe as recipes
    from toolchain.pipeline.shipped import is_recipe

    if len(targets) > 1 or not is_recipe(targets[0]):
        return _direct(targets, items, settings, engines, judges)
    given = [name for name in ("task", "tokenizer") if settings[name]]
    if given or engines:
        raise click.UsageError(f"--{(given or ['engine'])[0]} is for direct runs; use --set with a recipe")
    sets = options.with_threads(settings["sets"], settings["threads"])
    return recipes.load(Path(targets[0]), sets, settings["models"], settings["data"])


def _direct(
    targets: Sequence[str], items: Sequence[str], settings: dict[str, Any], engines: Sequence[str], judges: bool
) -> Recipe:
    """The recipe that a direct command stands for."""
    from toolchain.model import adopt
    from toolchain.pipeline import document
    from toolchain.pipeline import recipe as recipes

    if settings["models"]:
        raise click.UsageError("--model is for recipes; a direct run's model is its TARGET")
    if settings.get("variants"):
        raise click.UsageError("--variant is for recipes; a direct run does what it is told alone")
    if twice := [target for target in targets if targets.count(target) > 1]:
        raise RecipeError(f"{twice[0]} is given twice", "each once: the first one is the baseline")
    root: dict[str, Any] = {
        "name": _name(targets[0], targets),
        "engines": [document.parse_value(e) for e in engines or ["onnxruntime"]],
    }
    if engines and all(adopt.kind_of(target) == "engine" for target in targets):
        raise click.UsageError("--engine is for graphs and checkpoints: an engine folder is built already")
    task = document.parse_value(settings["task"]) if settings["task"] else _recorded(targets)
    if task is None and (judges or settings["data"]):
        raise click.UsageError(
            f"--task is missing: {targets[0]} does not say which data it was made for. Name those to learn from, to "
            "calibrate on and to judge by: --task sst2 --data FOLDER, or "
            "--task '{files: {train: train.csv, test: test.csv}, text: COLUMN, label: COLUMN}'"
        )
    root["task"] = "reviews" if task is None else task
    if items == ["finetune"]:
        root |= {"model": targets[0], "variants": {"model": ["finetune", "export"]}}
    else:
        root["variants"] = {}
        for target in targets:
            kind = adopt.kind_of(target)
            if kind == "engine" and items:
                raise RecipeError(
                    f"{target} is an engine: nothing more can be done to it", "give the ONNX file or checkpoint"
                )
            first = {
                "adopt": {"path": target} | ({"tokenizer": settings["tokenizer"]} if settings["tokenizer"] else {})
            }
            rest = [item for item in items if kind == "checkpoint" or item != "export"]
            if kind == "checkpoint" and "export" not in rest:
                rest = [*rest, "export"] if _stages(rest) & {"augment", "compress"} else ["export", *rest]
            root["variants"][_name(target, targets)] = [first, *rest]
    written = document.Document(root, None)
    prefix = items[0] if items else ""
    known = {*document.KEYS, *document.mentioned(root)} - settings_of(prefix)
    sets = [
        s if s.partition("=")[0].split(".")[0] in known or not prefix else f"{prefix}.{s}" for s in settings["sets"]
    ]
    recipe = recipes.parse(written, options.with_threads(sets, settings["threads"]), (), settings["data"])
    return dataclasses.replace(recipe, stand_in=task is None)


def _recorded(targets: Sequence[str]) -> Any:
    """Return the task that targets were made for, by their manifests; None where none says.

    Raises:
        RecipeError: They were made for several, or its data have changed since.
    """
    from toolchain.core.artifact import copied
    from toolchain.pipeline import document
    from toolchain.pipeline import recipe as recipes
    from toolchain.pipeline.keys import Task

    records: dict[str, Any] = {}
    for target in targets:
        path = Path(target).expanduser()
        artifact = copied(path.parent if path.is_file() else path)
        if artifact and (record := artifact.manifest.get("task")):
            records[target] = record
    if not records:
        return None
    first, *others = records
    if other := next((other for other in others if records[other]["identity"] != records[first]["identity"]), None):
        raise RecipeError(f"{first} and {other} were made for different data", "name the data to judge by: --task TASK")
    settings = records[first]["settings"]
    alone = document.Document({"task": settings, "model": "scratch:bert-1x32", "variants": {"any": ["export"]}}, None)
    if Task(recipes.parse(alone)).identity != records[first]["identity"]:
        raise RecipeError(f"the data that {first} was made for have changed since", "name the data: --task TASK")
    logger.info("task: %s, which %s was made for", next(iter(settings)), first)
    return settings


def settings_of(technique: str) -> set[str]:
    """The names of a technique's settings, which in a direct run go before a recipe's keys."""
    from toolchain.core import registry

    folder = registry.folder_of(technique)
    return {field.name for field in dataclasses.fields(registry.get(folder, technique).config)} if folder else set()


def _name(target: str, targets: Sequence[str]) -> str:
    """What to call a target in the table: the end of its path, as much of it as tells it from the others."""

    def end(path: str, parts: int) -> str:
        local = Path(path).expanduser()
        local = local.resolve() if local.exists() else local
        return "-".join((*local.parts[:-1], local.stem)[-parts:]).replace("/", "").lstrip(".") or "model"

    others = [other for other in targets if other != target]
    for parts in range(1, len(Path(target).expanduser().resolve().parts)):
        if end(target, parts) not in {end(other, parts) for other in others}:
            return end(target, parts)
    raise RecipeError(f"{target} is given twice", "each once: the first one is the baseline")


def _stages(items: Sequence[str]) -> set[str]:
    from toolchain.core import registry

    return {folder for item in items if (folder := registry.folder_of(item))}
