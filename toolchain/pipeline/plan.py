"""Recipe → Steps: models × seeds × variants × engines, shared prefixes merged, pairs that cannot meet marked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolchain import kinds
from toolchain.core import registry
from toolchain.core.errors import RecipeError
from toolchain.core.hooks import Compression, Engine, Task
from toolchain.core.stage import Kind, Stage
from toolchain.core.store import key_of
from toolchain.model import source as model_source
from toolchain.pipeline.bounds import fits
from toolchain.pipeline.items import BEFORE, Item, engine_in, exported, gives, is_finetuning, teachers_of
from toolchain.pipeline.recipe import Recipe
from toolchain.pipeline.settings import plain


@dataclass(frozen=True)
class Step:
    """One artifact to make.

    Attributes:
        id: Digest of everything below: equal steps are one step.
        stage: Its stage.
        technique: Who does it.
        config: With which settings.
        inputs: Ids of the steps whose artifacts it reads.
        source: Model source, for finetune and adopt, and for an augmentation before finetune.
        seed: Training seed, or None where it plays no part.
        label: What a person calls it.
        kind: Kind of artifact that it gives.
    """

    id: str
    stage: str
    technique: registry.Technique
    config: Any
    inputs: tuple[str, ...]
    source: str | None
    seed: int | None
    label: str
    kind: str

    @property
    def does(self) -> Stage:
        """What its stage declares."""
        return registry.stages()[self.stage]


@dataclass(frozen=True)
class Row:
    """One engine of the table.

    Attributes:
        model: Name of the model.
        seed: Training seed.
        variant: Name of the variant.
        engine: Name of the engine.
        build: Id of the step that builds it.
        evaluate: Id of the step that evaluates it.
        techniques: What was done to the model, in order.
        name: What a person calls it: variant/engine, with the model in front where there are several.
        provider: Where it must run, in the engine's own words; empty when the engine has no such choice.
        baseline: Whether the others of its model and seed are measured against it.
    """

    model: str
    seed: int
    variant: str
    engine: str
    build: str
    evaluate: str
    techniques: tuple[str, ...]
    name: str
    provider: str
    baseline: bool


@dataclass
class Plan:
    """Everything that a recipe needs, each thing once.

    Attributes:
        recipe: The recipe.
        steps: By id, each after its inputs.
        rows: Engines to be ranked.
        not_applicable: Pairs that cannot meet, and why.
        not_run: Engines that are built and cannot run on this machine, and why; they are neither evaluated nor timed.
        time: Id of the step that times all engines together; empty when the plan ends before it.
        only: The variants that are planned, where the recipe has others; empty where it has none.
    """

    recipe: Recipe
    steps: dict[str, Step] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    not_applicable: list[tuple[str, str]] = field(default_factory=list)
    not_run: list[tuple[Row, str]] = field(default_factory=list)
    time: str = ""
    only: tuple[str, ...] = ()


def make(recipe: Recipe, until: str = "time", only: Sequence[str] = ()) -> Plan:
    """Plans a recipe.

    Args:
        recipe: A validated recipe.
        until: Last stage to plan.
        only: Variants that are wanted, ``NAME`` or ``MODEL/NAME``; the baseline's comes with them. Empty: all.

    Returns:
        The plan; its keys are computed while it runs, from the content of what each step reads.

    Raises:
        RecipeError: There is no such variant.
    """
    wanted = _wanted(recipe, only)
    called = ["/".join(pair if len(recipe.models) > 1 else pair[1:]) for pair in wanted]
    plan = Plan(recipe, only=tuple(called) if len(wanted) < len(recipe.variants) else ())
    last = registry.stages()[until]
    builds: list[str] = []
    for seed in recipe.seeds:
        for (model, variant), items in wanted.items():
            chain = _chain(plan, items, model, seed, variant, last)
            if not _reaches(last, "engine"):
                continue
            for engine in _engines(recipe, chain[-1]):
                row = _engine(plan, engine, chain, items, model, seed, variant, last)
                absent = engine.technique.of(Engine).absent(engine.config) if row else ""
                if row and absent and row.build in plan.steps and plan.steps[row.build].does.gives == "engine":
                    plan.not_run.append((row, absent))
                elif row:
                    plan.rows.append(row)
                    builds.append(row.build)
    if _reaches(last, "timing") and builds:
        plan.time = _add(
            plan, "time", registry.stage("time"), recipe.benchmark, tuple(dict.fromkeys(builds)),
            label="time all engines together", seed=recipe.seeds[0], kind="timing",
        )  # fmt: skip
    return plan


def narrowed(plan: Plan, variants: Sequence[str], engines: Sequence[str]) -> Plan:
    """Return the part of a plan that builds exactly the engines that are asked for, the baseline not among them.

    Args:
        plan: Planned up to ``build``.
        variants: ``NAME`` or ``MODEL/NAME``; empty: all.
        engines: Names, or ``variant/engine`` as the table prints them; shell patterns too.

    Raises:
        RecipeError: No engine is called so, or it does not fit the variant.
    """
    rows = [*plan.rows, *(row for row, _ in plan.not_run)]
    mine = [row for row in rows if not variants or {row.variant, f"{row.model}/{row.variant}"} & set(variants)]
    kept = {row.name for row in mine if any(fits(pattern, row.model, row.variant, row.engine) for pattern in engines)}
    if not kept:
        reasons = [f"{name}: {reason}" for name, reason in plan.not_applicable if name.endswith(f"/{engines[0]}")]
        names = [name for row in mine for name in (row.engine, row.name)]
        raise RecipeError(
            f"--engine: no engine fits {', '.join(engines)}", "; ".join(reasons) or registry.suggest(engines[0], names)
        )
    needed = {row.build for row in rows if row.name in kept}
    for step in reversed(plan.steps.values()):
        needed |= set(step.inputs) if step.id in needed else set()
    return dataclasses.replace(
        plan,
        steps={key: step for key, step in plan.steps.items() if key in needed},
        rows=[row for row in plan.rows if row.name in kept],
        not_run=[(row, reason) for row, reason in plan.not_run if row.name in kept],
        not_applicable=[],
    )


def _wanted(recipe: Recipe, only: Sequence[str]) -> dict[tuple[str, str], tuple[Item, ...]]:
    """The variants that are asked for, and of their models the one that they are compared with."""
    named: dict[str, set[tuple[str, str]]] = {}
    for model, variant in recipe.variants:
        for name in (variant, f"{model}/{variant}"):
            named.setdefault(name, set()).add((model, variant))
    unknown = [name for name in only if name not in named]
    if unknown:
        known = [name for name in named if len(recipe.models) > 1 or "/" not in name]
        raise RecipeError(f"no variant is called {unknown[0]!r}", registry.suggest(unknown[0], known))
    asked = {pair for name in only or named for pair in named[name]}
    asked |= {(model, recipe.baseline[0]) for model, _ in asked}
    return {pair: items for pair, items in recipe.variants.items() if pair in asked}


def sensitivity(recipe: Recipe, config: Any) -> Plan:
    """Plans the sensitivity of the recipe's first model, fine-tuned where the recipe does that.

    Args:
        recipe: A validated recipe.
        config: A :class:`toolchain.layers.sensitivity.Config`.

    Raises:
        RecipeError: The recipe begins with a graph or an engine, or its kind of task has no sensitivity.
    """
    of_task = kinds.get(recipe.task.technique.of(Task).kind(recipe.task.config))
    if reason := of_task.REFUSED.get("sensitivity"):
        raise RecipeError(
            f"sensitivity cannot be measured for a task of the kind {of_task}: {reason}",
            "compress without it: settings by hand, or the passes under 'toolchain list techniques'",
        )
    plan = Plan(recipe)
    model = next(iter(recipe.variants))[0]
    variants = {variant: items for (owner, variant), items in recipe.variants.items() if owner == model}
    trained = [variant for variant, items in variants.items() if any(item.does.finetunes for item in items)]
    variant = next(iter(trained or variants))
    dense = _chain(plan, variants[variant], model, recipe.seeds[0], variant, registry.stages()["finetune"])[-1]
    if dense.kind != "checkpoint":
        raise RecipeError(
            f"sensitivity is measured on a fine-tuned checkpoint, and {dense.source} is of kind {dense.kind}",
            "give a checkpoint folder, or a recipe that fine-tunes or names one",
        )
    _add(
        plan, "sensitivity", registry.stage("sensitivity"), config, (dense.id,), seed=recipe.seeds[0],
        label=f"{model or variant} · sensitivity", kind="sensitivity",
    )  # fmt: skip
    return plan


def _chain(plan: Plan, items: Iterable[Item], model: str, seed: int, variant: str, last: Stage) -> list[Step]:
    """The steps from the model's source to the graph of one variant."""
    chain: list[Step] = []
    source = plan.recipe.models.get(model, "")
    shared = f"{model} · " if len(plan.recipe.models) > 1 else ""
    where = f" · seed {seed}" if len(plan.recipe.seeds) > 1 else ""
    more: tuple[str, ...] = ()
    for item in _until(list(items), last):
        taught = _teachers(plan, item, chain, more, seed, where)
        inputs = (*(step.id for step in chain[-1:]), *taught, *(more if item.does.trains else ()))
        step = _add(
            plan, item.stage, item.technique, item.config, inputs,
            source=_source(item, source, chain), seed=seed,
            label=f"{shared}{variant} · {item.label}{where}" if item.does.folder else
            f"{shared}{item.config.path if item.does.adopts else item.label}{where}",
            kind=_kind(item),
        )  # fmt: skip
        if item.does.augments:
            more = (*more, step)
        else:
            chain.append(plan.steps[step])
    return chain


def _reaches(last: Stage, kind: Kind) -> bool:
    """Return whether a plan up to a stage makes artifacts of a kind."""
    return any(stage.gives == kind and stage.order <= last.order for stage in registry.stages().values())


def _until(items: list[Item], last: Stage) -> list[Item]:
    """The items up to the last one of a stage, or of one before it; an augmentation may stand in two places."""
    wanted = [item.does is last if last.augments else item.does.order <= last.order for item in items]
    return items[: max((i for i, found in enumerate(wanted, 1) if found), default=0)]


def _teachers(
    plan: Plan, item: Item, chain: list[Step], more: tuple[str, ...], seed: int, where: str
) -> tuple[str, ...]:
    """Ids of the checkpoints that teach an item, each followed by that of its answers where a student asks for them.

    The answers are those on the training examples, and on ``more`` of them.
    """
    found: list[str] = []
    for name in teachers_of(item):
        model, _, stage = name.rpartition(".")
        step = chain[-1] if name == BEFORE else next((s for s in reversed(chain) if s.technique.name == name), None)
        if step is None and is_finetuning(stage) and model in plan.recipe.models:
            variant, items = next(
                (variant, items) for (owner, variant), items in plan.recipe.variants.items() if owner == model
            )
            step = _chain(plan, items, model, seed, variant, registry.stages()["finetune"])[-1]
        label = step.label if step else name
        if step is None:
            adopt = registry.stage("adopt")
            path = model_source.settled(name, plan.recipe.base)
            config = adopt.config(path=path)
            step = plan.steps[
                _add(plan, "adopt", adopt, config, (), source=path, label=f"{name}{where}", kind="checkpoint")
            ]
        found.append(step.id)
        if item.does.compresses and item.technique.of(Compression).asks(item.config):
            teach, read = registry.stage("teach"), (step.id, *more)
            found.append(_add(plan, "teach", teach, teach.config(), read, label=f"answers of {label}", kind="answers"))
    return tuple(found)


def _source(item: Item, source: str, chain: list[Step]) -> str | None:
    if item.does.adopts:
        return str(item.config.path)
    return source if item.does.finetunes or (item.does.augments and not chain) else None


def _kind(item: Item) -> str:
    return item.does.kind_of(item.config) if item.does.kind_of else item.does.gives


def _engines(recipe: Recipe, end: Step) -> tuple[Item, ...]:
    """The engines that a chain goes into: the recipe's, or the one that its end is already."""
    return (engine_in(str(end.source)),) if end.kind == "engine" else recipe.engines


def _engine(
    plan: Plan, engine: Item, chain: list[Step], items: tuple[Item, ...], model: str, seed: int, variant: str,
    last: Stage,
) -> Row | None:  # fmt: skip
    """The steps that build and evaluate one engine, or None with the reason noted."""
    name = _named(plan, model, variant, engine, "/")
    accepts = engine.technique.of(Engine).ACCEPTS
    source = chain[-1]
    if source.kind == "engine":
        build = source.id
    else:
        if "checkpoint" in accepts:
            passes = [step.label.rpartition(" · ")[2] for step in chain if step.does.rewrites]
            checkpoints = [step for step in chain if step.kind == "checkpoint"]
            if passes or not checkpoints:
                what = f"{passes[0]} works on the ONNX graph" if passes else "only an ONNX graph was given"
                plan.not_applicable.append((name, f"{what}, and {engine.label} runs the checkpoint"))
                return None
            source = checkpoints[-1]
        else:
            rewrites = [item for item in items if item.does.rewrites]
            known = rewrites or any(item.does.exports for item in items)
            dialect = functools.reduce(lambda d, item: gives(item, d), rewrites, exported(items)) if known else None
            if dialect and dialect not in accepts:
                reason = f"the graph is of dialect {dialect}, and {engine.label} takes {', '.join(accepts)}"
                plan.not_applicable.append((name, reason))
                return None
        if unbuilt := engine.technique.of(Engine).unbuilt(engine.config):
            plan.not_applicable.append((name, f"{engine.label} cannot be built here: {unbuilt}"))
            return None
        build = _add(
            plan, "build", engine.technique, _batched(engine, plan.recipe), (source.id,),
            label=_named(plan, model, variant, engine), kind="engine",
        )  # fmt: skip
    evaluate, runtime = "", engine.technique.of(Engine)
    if _reaches(last, "evaluation") and not (source.kind != "engine" and runtime.absent(engine.config)):
        stage = registry.stage("evaluate")
        # An engine is compared with the graph that its variant began as, and looked into beside that it was built from.
        began = next((step.id for step in reversed(chain) if not step.does.rewrites), source.id)
        read = tuple(dict.fromkeys((build, source.id, began))) if source.kind == "onnx" else (build,)
        evaluate = _add(
            plan, "evaluate", stage, plan.recipe.evaluate, read, kind="evaluation",
            label=_named(plan, model, variant, engine),
        )  # fmt: skip
    provider = runtime.PROVIDERS.get(getattr(engine.config, "provider", ""), runtime.DEVICE)
    techniques = tuple(item.technique.name for item in items if not item.does.adopts)
    baseline = (variant, engine.label) == plan.recipe.baseline
    return Row(model, seed, variant, engine.label, build, evaluate, techniques, name, provider, baseline)


def _batched(engine: Item, recipe: Recipe) -> Any:
    """An engine's settings, with the recipe's batch sizes where they are built in and none were named."""
    if not engine.technique.of(Engine).profiled(engine.config) or engine.config.batch_sizes:
        return engine.config
    return dataclasses.replace(engine.config, batch_sizes=tuple(sorted({1, *recipe.benchmark.batch_sizes})))


def _named(plan: Plan, model: str, variant: str, engine: Item, separator: str = " · ") -> str:
    return separator.join([*([model] if len(plan.recipe.models) > 1 else []), variant, engine.label])


def _add(
    plan: Plan, stage: str, technique: registry.Technique, config: Any, inputs: tuple[str, ...],
    *, label: str, kind: str, source: str | None = None, seed: int | None = None,
) -> str:  # fmt: skip
    """Adds a step unless an equal one is there, and gives its id."""
    used = seed if registry.stages()[stage].seeded else None
    identity = {
        "stage": stage, "technique": technique.name, "config": plain(config), "inputs": inputs, "source": source,
        "seed": used,
    }  # fmt: skip
    found = key_of(identity)
    plan.steps.setdefault(found, Step(found, stage, technique, config, inputs, source, used, label, kind))
    return found
