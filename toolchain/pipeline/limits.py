"""What a recipe asks of the engine that is shipped, under ``limits``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from toolchain.core.registry import suggest
from toolchain.core.stage import Ge, Gt, Le, StageConfig
from toolchain.pipeline.bounds import Pair, fits
from toolchain.pipeline.document import Problems
from toolchain.pipeline.settings import validate


@dataclass(frozen=True, kw_only=True)
class Limits(StageConfig):
    """What an engine must keep within to be shipped; `toolchain choose` takes the same limits as options.

    Attributes:
        size_mb: The most bytes to download, in 10^6: the engine with its tokenizer and interface.
        latency_ms: The most time of one text at batch 1, its median, in milliseconds.
        per_s: The fewest sentences a second at ``at``, sorted by length.
        at: Where ``per_s`` is taken, ``batch N`` of ``benchmark.batch_sizes``; null: the largest.
        drop: The most points of accuracy that may be lost against the baseline.
        accuracy: The least accuracy, in percent.
        engines: Names or shell patterns of engines that may be shipped: a variant, an engine, or ``variant/engine``.
        confident: A limit must hold at the worse end of its 95 % interval; false: as measured.
    """

    size_mb: Annotated[float, Gt(0)] | None = None
    latency_ms: Annotated[float, Gt(0)] | None = None
    per_s: Annotated[float, Gt(0)] | None = None
    at: str | None = None
    drop: Annotated[float, Ge(0), Le(100)] | None = None
    accuracy: Annotated[float, Ge(0), Le(100)] | None = None
    engines: tuple[str, ...] = ()
    confident: bool = True

    def allows(self, model: str, variant: str, engine: str) -> bool:
        """Return whether an engine is among those that may be shipped."""
        return not self.engines or any(fits(pattern, model, variant, engine) for pattern in self.engines)


def limits(
    problems: Problems, value: Any, models: Sequence[str], pairs: Sequence[Pair], batches: Sequence[int]
) -> Limits | None:
    """Return the limits of a recipe, or None with the problems noted.

    Args:
        problems: Where problems go.
        value: What stands under ``limits``.
        models: Names of the recipe's models.
        pairs: Its variants on its engines.
        batches: Its ``benchmark.batch_sizes``.
    """
    parsed = validate(problems, Limits, value, ("limits",), "limits")
    if parsed is None:
        return None
    timed = [f"batch {size}" for size in sorted({*batches} - {1})]
    if parsed.per_s is not None and not timed:
        message = "limits: per_s is measured at a batch size, and benchmark.batch_sizes has none above 1"
        problems.add(("limits", "per_s"), message, "benchmark: {batch_sizes: [1, 32]}")
    elif parsed.at is not None and parsed.at not in timed:
        message = f"limits: at: {parsed.at!r} is not measured: benchmark.batch_sizes gives {', '.join(timed) or 'none'}"
        problems.add(("limits", "at"), message, suggest(parsed.at, timed))
    for index, pattern in enumerate(parsed.engines):
        if pairs and not any(fits(pattern, model, *pair) for pair in pairs for model in models or [""]):
            known = [*dict.fromkeys(name for pair in pairs for name in (*pair, "/".join(pair)))]
            message = f"limits: engines: no variant or engine fits {pattern!r}"
            problems.add(("limits", "engines", index), message, suggest(pattern, known))
    return parsed
