"""What a recipe asks of its engines under ``check``, and which engines each rule is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from toolchain.core.errors import RecipeError
from toolchain.core.registry import suggest
from toolchain.core.stage import Ge, Gt, Le, StageConfig
from toolchain.measure.gates import GATES
from toolchain.pipeline.document import Problems
from toolchain.pipeline.settings import validate

#: Bounds that compare an engine with its baseline; the baseline itself is not held to them.
RELATIVE = ("accuracy_drop", "size_ratio", "latency_ratio", "speedup")

#: Every bound, in the order in which they are judged.
BOUNDS = ("accuracy", "accuracy_drop", "size_mb", "size_ratio", "latency_ms", "per_s", "latency_ratio", "speedup")

#: Variant and engine, by their names in the recipe.
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Rule(StageConfig):
    """Bounds that `toolchain run --check` holds engines to; one mapping, or a list of them.

    Attributes:
        engines: Names or shell patterns of whom it is for: a variant, an engine, ``variant/engine`` or
            ``model/variant/engine``.
        accuracy: The least accuracy, in percent.
        accuracy_drop: The most accuracy that is lost against the baseline, in percentage points.
        size_mb: The most bytes of the engine's files, in 10^6.
        size_ratio: The most bytes, as a multiple of the baseline's.
        latency_ms: The most time of one text at batch 1, its median, in milliseconds.
        per_s: The fewest sentences a second at a batch size, sorted by length.
        latency_ratio: The most time at ``at``, as a multiple of the baseline's.
        speedup: The least speedup over the baseline (IS) at ``at``.
        at: Where time is taken: ``batch 1``, or ``batch N`` of ``benchmark.batch_sizes``.
        scope: ``engine`` alone, or ``end_to_end`` with the tokenizer.
        confident: Accuracy and time must hold at the worse end of their 95 % intervals; false: as measured.
        gates: Gates that must have passed.
        require: An engine that cannot run here, or does not fit its graph, fails; else it is skipped.
    """

    engines: tuple[str, ...] = ("*",)
    accuracy: Annotated[float, Ge(0), Le(100)] | None = None
    accuracy_drop: Annotated[float, Ge(0), Le(100)] | None = None
    size_mb: Annotated[float, Gt(0)] | None = None
    size_ratio: Annotated[float, Gt(0)] | None = None
    latency_ms: Annotated[float, Gt(0)] | None = None
    per_s: Annotated[float, Gt(0)] | None = None
    latency_ratio: Annotated[float, Gt(0)] | None = None
    speedup: Annotated[float, Gt(0)] | None = None
    at: str = "batch 1"
    scope: Literal["engine", "end_to_end"] = "engine"
    confident: bool = True
    gates: tuple[str, ...] = ()
    require: bool = False

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that it sets, by name."""
        return {name: value for name in BOUNDS if (value := getattr(self, name)) is not None}

    def covers(self, model: str, variant: str, engine: str) -> bool:
        """Whether it is for an engine."""
        return any(fits(pattern, model, variant, engine) for pattern in self.engines)


def fits(pattern: str, model: str, variant: str, engine: str) -> bool:
    """Whether a name or shell pattern means an engine: by its variant, its own name, or both, its model before them."""
    names = (variant, engine, f"{variant}/{engine}", f"{model}/{variant}/{engine}")
    return any(fnmatchcase(name, pattern) for name in names)


def rules(
    problems: Problems, value: Any, models: Sequence[str], pairs: Sequence[Pair], baseline: Pair, batches: Sequence[int]
) -> tuple[Rule, ...]:
    """The rules of a recipe; what is wrong with them goes to the problems.

    Args:
        problems: Where problems go.
        value: What stands under ``check``: a rule, or a list of them.
        models: Names of the recipe's models.
        pairs: Its variants on its engines.
        baseline: The pair that the others are compared with.
        batches: Its ``benchmark.batch_sizes``.
    """
    several = isinstance(value, list)
    found = []
    for index, item in enumerate(value if several else [value]):
        path = ("check", index) if several else ("check",)
        rule = validate(problems, Rule, item, path, "check")
        if rule is not None:
            _check_rule(problems, rule, path, models or [""], pairs, baseline, batches)
            found.append(rule)
    return tuple(found)


def need_rules(found: Sequence[Rule], name: str) -> None:
    """Holds that there is something to check.

    Raises:
        RecipeError: There is no rule.
    """
    if not found:
        raise RecipeError(
            f"--check: recipe {name} has no bounds to check", "add some, for example check: {accuracy_drop: 1.0}"
        )


def _check_rule(
    problems: Problems, rule: Rule, path: tuple[Any, ...], models: Sequence[str], pairs: Sequence[Pair],
    baseline: Pair, batches: Sequence[int],
) -> None:  # fmt: skip
    """What a rule asks must be something that is measured, of engines that are there."""
    if not rule.bounds and not rule.gates:
        problems.add(path, "check: no bound is set", f"known: {', '.join((*BOUNDS, 'gates'))}")
    for index, gate in enumerate(rule.gates):
        if gate not in GATES:
            problems.add((*path, "gates", index), f"check: gates: no gate is called {gate!r}", suggest(gate, GATES))
    timed = [f"batch {size}" for size in sorted({1, *batches})]
    if rule.at not in timed:
        said = f"check: at: {rule.at!r} is not measured: benchmark.batch_sizes gives {', '.join(timed)}"
        problems.add((*path, "at"), said, suggest(rule.at, timed))
    elif rule.at != "batch 1" and rule.latency_ms is not None:
        said = f"check: latency_ms is measured at batch 1, not at {rule.at}"
        problems.add((*path, "latency_ms"), said, "bound per_s there, or latency_ratio")
    elif rule.at == "batch 1" and rule.per_s is not None:
        hint = f"at: {timed[-1]}" if len(timed) > 1 else "benchmark: {batch_sizes: [1, 32]}, and at: batch 32"
        problems.add((*path, "per_s"), "check: per_s is measured at a batch size, not at batch 1", hint)
    named = [_named(pattern, models, pairs) for pattern in rule.engines]
    if not rule.engines:
        problems.add((*path, "engines"), "check: engines: the list is empty", "leave it out for every engine")
    for index, (pattern, those) in enumerate(zip(rule.engines, named, strict=True)):
        if not those and pairs:
            known = [*dict.fromkeys(name for pair in pairs for name in (*pair, "/".join(pair)))]
            said = f"check: engines: no variant or engine fits {pattern!r}"
            problems.add((*path, "engines", index), said, suggest(pattern, known))
    relative = [name for name in rule.bounds if name in RELATIVE]
    relative += ["gates"] if "never slower" in rule.gates else []
    if relative and any(named) and all(those <= {baseline} for those in named):
        said = f"check: {relative[0]} is against the baseline {'/'.join(baseline)}, and no other engine is named"
        problems.add((*path, relative[0]), said, "name the engines that are compared with it")


def _named(pattern: str, models: Iterable[str], pairs: Iterable[Pair]) -> set[Pair]:
    models = list(models)
    return {pair for pair in pairs if any(fits(pattern, model, *pair) for model in models)}
