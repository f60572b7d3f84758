"""Runs without a recipe: the recipe that work on a model, a graph or an engine stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core import registry
from toolchain.core.errors import RecipeError, ToolchainError
from toolchain.core.log import logger

if TYPE_CHECKING:
    from toolchain.pipeline.plan import Plan, Step
    from toolchain.pipeline.recipe import Recipe


#: Settings of the graph passes that decide by the task's texts: how many they read.
_READS = {"samples", "calibration_samples"}


class UsageError(RecipeError):
    """What was given does not go together, or something is missing."""

    exit_code = 2


def forced(names: str | Collection[str]) -> tuple[str, ...]:
    """Return the stages that are to be done again although the store has their result.

    Args:
        names: A stage or several; ``benchmark`` stands for those that measure, ``*`` for all.

    Raises:
        UsageError: There is no such stage.
    """
    known = registry.stages()
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        if name == "*":
            found += known
        elif name == "benchmark":
            found += [stage.name for stage in known.values() if stage.takes == "engine"]
        elif name in known:
            found.append(name)
        else:
            raise UsageError(f"{name!r} is no stage", registry.suggest(name, known))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command is given beside its target.

    Attributes:
        task: Task of a direct run, a name or YAML; None for that of the target, if it says.
        tokenizer: Folder with ``tokenizer.json``, when it is not beside the ONNX file.
        sets: ``KEY=VALUE``, values YAML.
        models: ``SOURCE`` or ``NAME=SOURCE``, of a recipe.
        data: Local folder or file to take the task's data from.
        variants: The only ones of a recipe.
    """

    task: str | None = None
    tokenizer: str | None = None
    sets: Sequence[str] = ()
    models: Sequence[str] = ()
    data: str | None = None
    variants: Sequence[str] = ()


def plan_of(
    stage: str, targets: Sequence[str], items: Sequence[str], asked: Asked, engines: Sequence[str] = ()
) -> Plan:
    """Return the plan that does a stage, of a recipe or of what a direct run is given.

    Args:
        stage: The stage to do, with what comes before it.
        targets: A recipe, or models, graphs or engines.
        items: Stages and techniques of a direct run.
        asked: What is given beside them.
        engines: Those of a direct run; of a recipe, the one to build.

    Raises:
        RecipeError: Something that is given is not valid.
    """
    from toolchain.pipeline import plan
    from toolchain.pipeline.shipped import is_recipe

    does = registry.stages()[stage]
    judges = does.trains or does.augments or does.partial
    judges |= any(not _READS.isdisjoint(settings_of(item)) for item in items)
    one = engines if does.gives == "engine" and is_recipe(targets[0]) else ()
    recipe = recipe_of(targets, items, asked, () if one else engines, judges=judges)
    whole = plan.make(recipe, stage, asked.variants)
    return plan.narrowed(whole, asked.variants, one) if one else whole


#: What to give a stage that has nothing to do.
_NOTHING = {
    "export": "export takes a checkpoint folder or a model source, not an ONNX graph",
    "augment": "no variant that was asked for has an augmentation: 'toolchain list techniques' shows them",
    "compress": "no variant that was asked for has a compression technique: 'toolchain list techniques' shows them",
    "optimize": "no variant that was asked for has a graph pass: 'toolchain list techniques' shows them",
    "build": "an engine folder is built already; of a graph, choose an engine that takes it: 'toolchain list engines'",
}


def ends(plan: Plan, stage: str) -> list[Step]:
    """Return the steps of a stage whose results nothing reads further: what was asked for.

    Raises:
        ToolchainError: There is none.
    """
    steps = plan.steps.values()
    read = {i for step in steps for i in step.inputs}
    # What is made by an augmentation is read by what learns from it, and is to be looked at all the same.
    last = [step for step in steps if step.stage == stage and (step.does.augments or step.id not in read)]
    if not last:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.not_applicable)
        raise ToolchainError(f"there is nothing to {stage}{f': {reasons}' if reasons else ''}", _NOTHING.get(stage, ""))
    return last


def recipe_of(
    targets: Sequence[str], items: Sequence[str], asked: Asked, engines: Sequence[str] = (), *, judges: bool = True
) -> Recipe:
    """Return the recipe that is given, or that a direct run stands for.

    Args:
        targets: A recipe, or what a direct run works on.
        items: What a direct run does.
        asked: What is given beside them.
        engines: What a direct run builds for.
        judges: Whether it learns, calibrates or judges, for which it must know the data.

    Raises:
        UsageError: What is given does not go together, or a task is missing.
        RecipeError: The recipe, or what a direct run was given, is not valid.
    """
    from toolchain.pipeline import recipe as recipes
    from toolchain.pipeline.shipped import is_recipe

    if len(targets) > 1 or not is_recipe(targets[0]):
        return _direct(targets, items, asked, engines, judges)
    given = [name for name in ("task", "tokenizer") if getattr(asked, name)]
    if given or engines:
        raise UsageError(f"--{(given or ['engine'])[0]} is for direct runs; use --set with a recipe")
    return recipes.load(Path(targets[0]), asked.sets, asked.models, asked.data)


def _direct(targets: Sequence[str], items: Sequence[str], asked: Asked, engines: Sequence[str], judges: bool) -> Recipe:
    """Return the recipe that a direct run stands for."""
    from toolchain.model import adopt
    from toolchain.pipeline import document
    from toolchain.pipeline import recipe as recipes

    if asked.models:
        raise UsageError("--model is for recipes; a direct run's model is its TARGET")
    if asked.variants:
        raise UsageError("--variant is for recipes; a direct run does what it is told alone")
    if twice := [target for target in targets if targets.count(target) > 1]:
        raise RecipeError(f"{twice[0]} is given twice", "each once: the first one is the baseline")
    root: dict[str, Any] = {
        "name": _name(targets[0], targets),
        "engines": [document.parse_value(e) for e in engines or [registry.DEFAULT_ENGINE]],
    }
    if engines and all(adopt.kind_of(target) == "engine" for target in targets):
        raise UsageError("--engine is for graphs and checkpoints: an engine folder is built already")
    task = document.parse_value(asked.task) if asked.task else _recorded(targets)
    if task is None and (judges or asked.data):
        raise UsageError(
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
            first = {"adopt": {"path": target} | ({"tokenizer": asked.tokenizer} if asked.tokenizer else {})}
            rest = [item for item in items if kind == "checkpoint" or item != "export"]
            if kind == "checkpoint" and "export" not in rest:
                rest = [*rest, "export"] if _stages(rest) & {"augment", "compress"} else ["export", *rest]
            root["variants"][_name(target, targets)] = [first, *rest]
    written = document.Document(root, None)
    prefix = items[0] if items else ""
    known = {*document.KEYS, *document.mentioned(root)} - settings_of(prefix)
    sets = [s if s.partition("=")[0].split(".")[0] in known or not prefix else f"{prefix}.{s}" for s in asked.sets]
    recipe = recipes.parse(written, sets, (), asked.data)
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
    return {folder for item in items if (folder := registry.folder_of(item))}
