"""YAML → Recipe: every key known or explained, every problem found at once, each with file:line:column."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.core.hooks import Task
from toolchain.model.source import settled
from toolchain.pipeline.bounds import Rule, rules
from toolchain.pipeline.document import KEYS, Document, Problems, beside, override, read
from toolchain.pipeline.fitting import check_fit, check_head, check_kind
from toolchain.pipeline.items import (
    PATHS,
    Item,
    came_as_engine,
    check_name,
    check_order,
    check_teachers,
    engine_items,
    mapping,
    named,
    names,
    stage_items,
)
from toolchain.pipeline.limits import Limits, limits
from toolchain.pipeline.settings import Benchmark, Evaluate, Report, over, validate
from toolchain.pipeline.sources import point_data, point_models


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Attributes:
        name: Its name.
        path: Its file; None when it was made from a command line.
        task: The task and its settings.
        models: Name → source.
        seeds: Training seeds; everything is done once for each.
        variants: (model, variant) → what is done, stages first.
        engines: What every variant is built for.
        baseline: (variant, engine) that CR and IS are against, of the same model and seed.
        evaluate: How accuracy and the gates' evidence are taken.
        benchmark: How to measure.
        report: How to rank.
        limits: What an engine must keep within to be shipped.
        check: Bounds that ``--check`` holds the engines to.
        test: Settings under which a test runs the recipe in seconds.
        stand_in: Whether the task only stands in for one that a command line did not name.
    """

    name: str
    path: Path | None
    task: Item
    models: dict[str, str]
    seeds: tuple[int, ...]
    variants: dict[tuple[str, str], tuple[Item, ...]]
    engines: tuple[Item, ...]
    baseline: tuple[str, str]
    evaluate: Evaluate
    benchmark: Benchmark
    report: Report
    limits: Limits
    check: tuple[Rule, ...]
    test: dict[str, Any]
    stand_in: bool = False

    @property
    def base(self) -> Path | None:
        """Folder that relative paths in the recipe are relative to."""
        return self.path.parent if self.path else None


def load(path: Path, sets: Sequence[str] = (), models: Sequence[str] = (), data: str | None = None) -> Recipe:
    """Reads and validates a recipe file.

    Args:
        path: The file.
        sets: ``key=value`` overrides, keys dotted, values YAML.
        models: ``SOURCE``, or ``NAME=SOURCE`` where the recipe has several models.
        data: Local folder or file to take the task's data from.

    Raises:
        RecipeError: With every problem found.
    """
    document = read(path)
    return parse(document, sets, models, data)


def parse(document: Document, sets: Sequence[str] = (), models: Sequence[str] = (), data: str | None = None) -> Recipe:
    """Validates a document.

    Raises:
        RecipeError: With every problem found.
    """
    point_models(document, models)
    for text in sets:
        override(document, text)
    if data is not None:
        point_data(document, data)  # last, so that it is about the task that --set names
    problems = Problems(document)
    root = document.value
    _check_keys(problems, root)
    task = _task(problems, root.get("task", "reviews"))
    kind = task.technique.of(Task).kind(task.config) if task else ""
    sources, settings = _models(problems, root)
    seeds = _seeds(problems, root.get("seeds", [17]))
    known = len(problems.found)
    stages = stage_items(problems, root.get("stages", []), ("stages",))
    stages_sound = len(problems.found) == known
    written = mapping(problems, root.get("variants"), ("variants",))
    if not written:
        problems.add(("variants",), "missing: at least one variant is needed", "for example {base: [export]}")
    parsed, sound = {}, set()
    for name, items in written.items():
        check_name(problems, name, ("variants", name))
        known = len(problems.found)
        parsed[str(name)] = stage_items(problems, items, ("variants", name))
        sound |= {str(name)} if len(problems.found) == known else set()
    trained = any(item.does.finetunes for item in stages)
    engines = engine_items(problems, root.get("engines", [registry.DEFAULT_ENGINE]))
    variants: dict[tuple[str, str], tuple[Item, ...]] = {}
    for name, items in parsed.items():
        if stages_sound and name in sound:  # what cannot be read has no order
            check_order(problems, [*stages, *items], ("variants", name))
            check_kind(problems, [*stages, *items], ("variants", name), kind)
            check_teachers(problems, [*stages, *items], ("variants", name), sources if trained else (), kind)
        for model in sources or {"": ""}:
            done = [_with_model_settings(problems, item, settings.get(model, {}), model) for item in [*stages, *items]]
            variants[model, name] = tuple(_adopting(problems, done, sources.get(model), settings.get(model, {}), model))
            if settings.get(model) and not problems.found:
                check_order(problems, done, ("models", model))
                check_teachers(problems, done, ("models", model), sources if trained else (), kind)
            adopts = any(item.does.adopts for item in variants[model, name])
            if stages_sound and name in sound and (model in sources or adopts):
                check_head(problems, variants[model, name], ("variants", name), sources.get(model, ""), kind)
                check_fit(problems, variants[model, name], ("variants", name), model, sources)
    built = {name: [engine.label for engine in engines] for name in parsed}
    for name, items in parsed.items():
        if came := came_as_engine(problems, [*stages, *items], ("variants", name)):
            built[name] = [came.label]
    baseline = _baseline(problems, root.get("baseline"), built)
    evaluate = validate(problems, Evaluate, root.get("evaluate", {}), ("evaluate",), "evaluate")
    benchmark = validate(problems, Benchmark, root.get("benchmark", {}), ("benchmark",), "benchmark")
    report = validate(problems, Report, root.get("report", {}), ("report",), "report")
    if report and benchmark:
        _check_speedup(problems, report, benchmark)
    pairs = [(variant, label) for variant, labels in built.items() for label in labels]
    batches = benchmark.batch_sizes if benchmark else ()
    asked = limits(problems, root.get("limits", {}), list(sources), pairs, batches)
    check = rules(problems, root.get("check", []), list(sources), pairs, baseline, batches)
    given = root.get("model") or root.get("models")
    starts = [[*stages, *items][:1] for items in parsed.values()]
    if not given and any(not items or not items[0].does.adopts for items in starts):
        problems.add(("models",), "missing: where the model comes from", "model: FOLDER or hub id, or --model SOURCE")
    test = mapping(problems, root.get("test", {}), ("test",))
    name = root.get("name") or (document.path.stem if document.path else "recipe")
    check_name(problems, name, ("name",))
    used = {item.label for items in variants.values() for item in items}
    for model, own in settings.items():
        for key in set(own) - used:
            problems.add(("models", model, key), f"{key}: no variant uses it", "take it out, or name it in a variant")
    problems.raise_if_any()
    if task is None or evaluate is None or benchmark is None or report is None or asked is None:
        raise AssertionError("a part that is absent has left a problem")
    return Recipe(
        str(name),
        document.path,
        task,
        sources,
        tuple(seeds),
        variants,
        tuple(engines),
        baseline,
        evaluate,
        benchmark,
        report,
        asked,
        check,
        dict(test),
    )


def _check_keys(problems: Problems, root: Mapping[str, Any]) -> None:
    for key in root:
        if key not in KEYS:
            problems.add((key,), f"{key}: unknown key", registry.suggest(str(key), KEYS))
    if "model" in root and "models" in root:
        problems.add(("models",), "both model and models are given", "keep one of them")


def _models(problems: Problems, root: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Sources by name, and the settings that a model has of its own."""
    if "model" in root:
        written: Mapping[str, Any] = {"model": root["model"]}
        path: tuple[Any, ...] = ()
    else:
        written, path = mapping(problems, root.get("models", {}), ("models",)), ("models",)
    sources, settings = {}, {}
    for name, value in written.items():
        where = (*path, name)
        check_name(problems, name, where)
        if isinstance(value, Mapping):
            source = value.get("source")
            for key in value:
                if key != "source" and key not in names():
                    allowed = ["source", *names()]
                    problems.add((*where, key), f"unknown key {key!r}", registry.suggest(str(key), allowed))
            settings[str(name)] = {
                key: dict(mapping(problems, item, (*where, key))) for key, item in value.items() if key in names()
            }
        else:
            source = value
        if not isinstance(source, str) or not source:
            problems.add(
                where, f"a model's source is text, not {source!r}", "a folder, a hub id, or package:MODULE/FOLDER"
            )
        else:
            sources[str(name)] = source
    return sources, settings


def _seeds(problems: Problems, value: Any) -> list[int]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or any(not isinstance(s, int) or isinstance(s, bool) or not 0 <= s < 2**31 for s in seeds):
        problems.add(("seeds",), f"{value!r} is no list of whole numbers from 0", "for example [17, 42, 1234]")
        return []
    if len(set(seeds)) < len(seeds):
        problems.add(("seeds",), f"{value!r} holds a seed twice")
    return list(seeds)


def _task(problems: Problems, value: Any) -> Item | None:
    """``name``, ``{name: settings}``, or the settings of ``files`` as they are."""
    if isinstance(value, Mapping) and "files" in value:
        name: str | None = "files"
        settings, path = value, ("task",)
    else:
        name, settings, path = named(problems, value, ("task",), "task")
    if name is None:
        return None
    if name not in registry.names("tasks"):
        problems.add(
            path[:1] if path else ("task",), f"unknown task {name!r}", registry.suggest(name, registry.names("tasks"))
        )
        return None
    technique = registry.get("tasks", name)
    settings = beside(problems.document.path, settings, ("folder", "files", "dataset"))
    config = validate(problems, technique.config, settings, path, name)
    return Item("task", technique, config, name) if config is not None else None


def _with_model_settings(problems: Problems, item: Item, settings: dict[str, dict[str, Any]], model: str) -> Item:
    """The item with the settings that this model has of its own."""
    own = settings.get(item.label)
    if not own:
        return item
    if item.does.augments:
        own = beside(problems.document.path, own, PATHS)
    merged = over(item.config, own)
    config = validate(problems, item.technique.config, merged, ("models", model, item.label), item.label)
    return dataclasses.replace(item, config=config) if config is not None else item


def _adopting(
    problems: Problems, items: list[Item], source: str | None, settings: dict[str, dict[str, Any]], model: str
) -> list[Item]:
    """The items of a variant, the taking in of its model first where the variant does not fine-tune it."""
    first = next((item for item in items if not item.does.augments), None)
    if source is None or (first is not None and first.does.takes == "source"):
        return items
    adopt = registry.stage("adopt")
    given = {"path": settled(source, problems.document.base), **settings.get("adopt", {})}
    config = validate(problems, adopt.config, given, ("models", model, "adopt"), "adopt")
    return [Item("adopt", adopt, config, "adopt"), *items] if config is not None else items


def _baseline(problems: Problems, value: Any, built: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The variant and engine of the baseline, by the engines that each variant has."""
    value = {} if value is None else value
    if not isinstance(value, Mapping) or set(value) - {"variant", "engine"}:
        problems.add(("baseline",), f"{value!r} is not {{variant: NAME, engine: NAME}}")
        value = {}
    variant = str(value.get("variant", next(iter(built), "")))
    labels = built.get(variant, [])
    engine = str(value.get("engine", next(iter(labels), "")))
    for key, name, allowed in (("variant", variant, list(built)), ("engine", engine, labels)):
        if name not in allowed and allowed:
            problems.add(("baseline", key), f"no {key} is called {name!r}", registry.suggest(name, allowed))
    return variant, engine


def _check_speedup(problems: Problems, report: Report, benchmark: Benchmark) -> None:
    timed = [f"batch {size}" for size in sorted({1, *benchmark.batch_sizes})]
    if report.speedup not in timed:
        problems.add(
            ("report", "speedup"),
            f"{report.speedup!r} is not measured: benchmark.batch_sizes gives {', '.join(timed)}",
            registry.suggest(report.speedup, timed),
        )  # fmt: skip
