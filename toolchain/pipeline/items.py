"""What stands in a variant and under engines: each item's technique and settings, and the order that they may have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.augment.shared.models import unfit
from toolchain.core import registry
from toolchain.core.errors import EngineError, ModelError
from toolchain.core.hooks import Augmentation, Compression, Engine, GraphPass
from toolchain.core.stage import DIALECTS, Stage
from toolchain.engines.shared.artifact import read_engine
from toolchain.model import heads, source
from toolchain.pipeline.document import Problems, beside
from toolchain.pipeline.settings import validate

#: The teacher that is the checkpoint which is compressed itself.
BEFORE = "before"

#: Settings of what is taken in, or of an augmentation, that may hold a path beside the recipe.
PATHS = ("path", "tokenizer", "model", "forward", "backward")


@dataclass(frozen=True)
class Item:
    """One thing to do: a stage, the technique that does it, and its settings.

    Attributes:
        stage: adopt, finetune, compress, export, optimize or build.
        technique: The technique; for stages with one way to do it, the stage's own name.
        config: Its validated ``Config``.
        label: What the user calls it; an engine's name in the table.
    """

    stage: str
    technique: registry.Technique
    config: Any
    label: str

    @property
    def does(self) -> Stage:
        """What its stage declares."""
        return registry.stages()[self.stage]


def gives(item: Item, taken: str) -> str:
    """The dialect that a graph pass writes under its settings, given a graph of that dialect."""
    return item.technique.of(GraphPass).gives(item.config, taken)


def exported(items: Sequence[Item]) -> str:
    """The dialect that the checkpoint of a variant is exported to."""
    return next(filter(None, map(_rounds_to, items)), DIALECTS[0])


def _rounds_to(item: Item) -> str:
    """Return the dialect that a compression exports to where it makes integers of weights; else ''."""
    return item.technique.of(Compression).exports(item.config) if item.does.compresses else ""


def stage_items(problems: Problems, value: Any, path: tuple[Any, ...]) -> list[Item]:
    """The items of a list of stages; what is wrong with them goes to the problems."""
    if value is None:
        value = []
    if not isinstance(value, list):
        problems.add(path, f"{value!r} is not a list of stages", "for example [export, dynamic_int8]")
        return []
    found = []
    for index, item in enumerate(value):
        name, settings, where = named(problems, item, (*path, index), "stage or technique")
        if name is None:
            continue
        stage, technique = _technique(name)
        if stage is None or technique is None:
            message = f"unknown stage or technique {name!r}"
            if name in registry.names("engines"):
                message = f"{name} is an engine: name it under engines, not in a variant"
            problems.add((*path, index), message, registry.suggest(name, names()))
            continue
        if stage.adopts or stage.augments:
            settings = beside(problems.document.path, settings, PATHS)
        config = validate(problems, technique.config, settings, where, name)
        if config is not None:
            found.append(Item(stage.name, technique, config, name))
    return found


def _technique(name: str) -> tuple[Stage, registry.Technique] | tuple[None, None]:
    """Return the stage and the technique that a name in a variant means."""
    for stage in registry.stages().values():
        if stage.variant and name in (registry.names(stage.folder) if stage.folder else (stage.name,)):
            return stage, registry.get(stage.folder, name) if stage.folder else registry.stage(name)
    return None, None


def single() -> list[str]:
    """Return the stages of a variant that there is one way to do, in their order."""
    return [stage.name for stage in registry.stages().values() if stage.variant and stage.module]


def order() -> list[str]:
    """Return the stages of a variant in the only order that they may stand in; augmentations stand where they like."""
    return [stage.name for stage in registry.stages().values() if stage.variant and not stage.augments]


def is_finetuning(name: str) -> bool:
    """Return whether a stage of this name trains the encoder that a model begins with."""
    stage = registry.stages().get(name)
    return stage is not None and stage.finetunes


def names() -> list[str]:
    """Every name that may stand in a list of stages."""
    return [*single(), *(name for folder in registry.variant_folders() for name in registry.names(folder))]


def engine_items(problems: Problems, value: Any) -> list[Item]:
    """The engines of a recipe, each under a name of its own."""
    value = value if isinstance(value, list) else [value]
    found: list[Item] = []
    for index, item in enumerate(value):
        name, settings, where = named(problems, item, ("engines", index), "engine")
        if name is None:
            continue
        if name not in registry.names("engines"):
            message = f"unknown engine {name!r}"
            if name in names():
                message = f"{name} is no engine: it belongs in a variant"
            problems.add(("engines", index), message, registry.suggest(name, registry.names("engines")))
            continue
        technique = registry.get("engines", name)
        settings = dict(settings) if isinstance(settings, Mapping) else settings
        label = settings.pop("as", name) if isinstance(settings, dict) else name
        check_name(problems, label, ("engines", index))
        if any(engine.label == label for engine in found):
            problems.add(
                ("engines", index), f"two engines are called {label!r}", f"name one: {{{name}: {{as: NAME, …}}}}"
            )
        config = validate(problems, technique.config, settings, where, name)
        if config is not None:
            found.append(Item("build", technique, config, str(label)))
    if not value:
        problems.add(("engines",), "the list is empty", f"known: {', '.join(registry.names('engines'))}")
    return found


def engine_in(folder: str) -> Item:
    """The engine that a folder holds, under its own name and with the provider that it was built for.

    Raises:
        EngineError: The folder is damaged, or no engine of its name is installed.
    """
    held = read_engine(Path(folder).expanduser())
    if held.engine not in (known := registry.names("engines")):
        raise EngineError(f"{folder} is of an unknown engine {held.engine!r}", registry.suggest(held.engine, known))
    technique = registry.get("engines", held.engine)
    provider = held.options.get("provider")
    chosen = isinstance(provider, str) and provider in technique.of(Engine).PROVIDERS
    takes = "provider" in {field.name for field in dataclasses.fields(technique.config)}
    config = technique.config(provider=provider) if chosen and takes else technique.config()
    return Item("build", technique, config, technique.name)


def came_as_engine(problems: Problems, items: Sequence[Item], path: tuple[Any, ...]) -> Item | None:
    """The engine that a variant is, where it takes one in and is built for no other; what is damaged is noted."""
    if not items or not items[-1].does.adopts or items[-1].technique.module.kind_of(items[-1].config.path) != "engine":
        return None
    try:
        return engine_in(items[-1].config.path)
    except EngineError as error:
        problems.add(path, error.message, error.hint)
        return None


def named(problems: Problems, value: Any, path: tuple[Any, ...], what: str) -> tuple[str | None, Any, tuple[Any, ...]]:
    """``name`` or ``{name: settings}`` → name, settings, and where the settings stand."""
    if isinstance(value, str):
        return value, {}, path
    if isinstance(value, Mapping) and len(value) == 1:
        name, settings = next(iter(value.items()))
        return str(name), {} if settings is None else settings, (*path, name)
    problems.add(path, f"{value!r} is no {what}", "write NAME, or {NAME: {setting: value}}")
    return None, {}, path


def check_name(problems: Problems, name: Any, path: tuple[Any, ...]) -> None:
    """Names stand in tables, file names and ``model/variant/engine``: nothing that leads to another folder."""
    if not isinstance(name, str | int) or not re.fullmatch(r"\w[^/\\\x00-\x1f]*", str(name)):
        problems.add(path, f"{name!r} is no name", "a letter, digit or _ first, and no slash")


def check_order(problems: Problems, items: Sequence[Item], path: tuple[Any, ...]) -> None:
    """One direction, no way back; every pass gets a dialect that it takes, every technique a history that it allows."""
    history: list[str] = []
    dialect, rounded, reached = "", "", -1
    for index, item in enumerate(items):
        if item.does.augments:
            if not _augments(problems, items, index, path):
                return
            history.append(item.label)
            continue
        place = item.does.order
        if place < reached:
            before = [other.label for other in items[:index] if not other.does.augments][-1]
            problems.add(path, f"{item.label} cannot come after {before}", f"the order is {' → '.join(order())}")
            return
        if item.does.once and place == reached:
            problems.add(path, f"{item.label} stands there twice")
            return
        reached = place
        if refusal := item.technique.hooks.requires(history):
            problems.add(path, f"{item.label}: {refusal}")
        if item.does.compresses and rounded:
            message = f"{item.label} cannot come after {rounded}, whose layers are rounded and stay as they are"
            problems.add(
                path, message, "take one of them out" if _rounds_to(item) else f"put {item.label} before {rounded}"
            )
        rounded = rounded or (item.label if _rounds_to(item) else "")
        if item.does.exports:
            dialect = exported(items)
            if rounded and item.config.exporter == "optimum":
                message = f"export: Optimum's exporter does not know the layers of {rounded}"
                problems.add(path, message, "use export: {exporter: torch}")
        if item.does.rewrites:
            takes = item.technique.of(GraphPass).TAKES
            if dialect and dialect not in takes:
                problems.add(
                    path, f"{item.label} takes dialect {' or '.join(takes)}, and gets {dialect} from {history[-1]}",
                    f"{rounded} has made integers of its weights: take one of them out"
                    if rounded and items[index - 1].does.exports
                    else "one quantizer is enough: take one of them out",
                )  # fmt: skip
            dialect = gives(item, dialect or takes[0])
        history.append(item.label)
    if items and not items[0].does.adopts and not any(item.does.exports for item in items):
        problems.add(path, "the variant is never exported", "add export: [export]")
    if not items:
        problems.add(path, "the variant is empty", "for example [export]")


def _augments(problems: Problems, items: Sequence[Item], index: int, path: tuple[Any, ...]) -> bool:
    """Whether an augmentation stands where something learns from it; else a problem."""
    item, before, after = items[index], items[:index], items[index + 1 :]
    late = next((i.label for i in before if i.does.gives == "onnx"), None)
    if late or any(later.does.adopts for later in after):
        said = f"{item.label} cannot come after {late}" if late else f"{item.label} cannot come before adopt"
        problems.add(path, said, "it stands before what learns from it: finetune, or a technique that trains")
        return False
    learns = [later for later in after if later.does.finetunes or _trains(later)]
    if not learns and problems.document.path is not None:  # a direct run makes them to be looked at
        problems.add(
            path, f"nothing after {item.label} learns from the examples that it makes",
            "put it before finetune, or before a technique that trains, such as distill",
        )  # fmt: skip
        return False
    augmentation = item.technique.of(Augmentation)
    models = augmentation.sources(item.config)
    refusal = augmentation.fits(item.config) or (unfit(models, augmentation.HEAD) if models else None)
    if refusal:
        problems.add(path, f"{item.label}: {refusal[0]}", refusal[1])
        return False
    names = teachers_of(item)
    if any(later.does.finetunes for later in after) and any(_is_later(name, problems.document.base) for name in names):
        problems.add(
            path, f"{item.label}: teacher: {names[0]}: nothing is fine-tuned before it that could label what it makes",
            "teacher: null keeps the labels that texts were made under; or name a checkpoint from outside",
        )  # fmt: skip
        return False
    return True


def _is_later(teacher: str, base: Path | None) -> bool:
    """Whether a teacher is fine-tuned by the recipe: the checkpoint before, or ``MODEL.finetune``; a folder is not."""
    return teacher == BEFORE or (is_finetuning(teacher.rpartition(".")[2]) and not _is_here(teacher, base))


def _is_here(spec: str, base: Path | None) -> bool:
    return Path(source.settled(spec, base)).expanduser().exists()


def _trains(item: Item) -> bool:
    """Whether a compression trains under its settings."""
    return item.does.compresses and getattr(item.config, "finetune", None) is not None


def teachers_of(item: Item) -> tuple[str, ...]:
    """Who teaches in an item: :data:`BEFORE`, a stage or technique before it, ``MODEL.finetune``, a model's source."""
    return item.technique.hooks.teachers(item.config)


def check_teachers(
    problems: Problems, items: Sequence[Item], path: tuple[Any, ...], models: Collection[str], kind: str
) -> None:
    """A teacher is something that stands before its pupil, another model's fine-tuning, or a model from outside.

    Args:
        problems: Where problems go.
        items: The items of a variant.
        path: Where they stand in the document.
        models: Names of the models.
        kind: The kind of task, whose head a model from outside must have.
    """
    base = problems.document.base
    before: list[str] = []
    for item in items:
        for name in teachers_of(item):
            allowed = [BEFORE, *before, *(f"{model}.finetune" for model in models)]
            outside = "/" in name or name.startswith("package:") or _is_here(name, base)
            if name not in allowed and outside:
                if refusal := _unfit_teacher(name, base, kind):
                    problems.add(path, f"{item.label}: teacher: {refusal[0]}", refusal[1])
            elif name not in allowed:
                problems.add(
                    path, f"{item.label}: teacher {name!r} is nothing that stands before it, and no folder or hub id",
                    registry.suggest(name, allowed),
                )  # fmt: skip
        before += [item.technique.name] if item.does.trains else []


def _unfit_teacher(name: str, base: Path | None, kind: str) -> tuple[str, str] | None:
    """Why a checkpoint from outside cannot teach, as far as its folder tells, and what to do."""
    try:
        folder = source.resolve(name, base).folder
        return heads.refusal(folder, name, kind) if folder else None
    except ModelError as error:
        return error.message, error.hint


def mapping(problems: Problems, value: Any, path: tuple[Any, ...]) -> Mapping[str, Any]:
    """The value when it is a mapping; else a problem, and an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems.add(path, f"{value!r} is not a mapping of names to values")
        return {}
    return value
