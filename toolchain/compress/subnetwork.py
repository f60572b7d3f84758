"""Takes one of the sizes that ``dynabert`` trained a model for: the most accurate on dev that is as fast as asked.

Hou et al., arXiv 2004.04037. Nothing is trained: heads and neurons behind the first ones leave, and layers. With
``speedup`` the sub-networks are judged on dev, and in the order of their accuracy the engine of each is built and timed
beside that of the whole model until one is fast enough; so one training serves any number of latency bounds.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.compress.shared import elastic, pruning
from toolchain.compress.shared.stopwatch import stopwatch
from toolchain.core import registry
from toolchain.core.errors import ModelError, RecipeError
from toolchain.core.log import logger
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, Metrics, StageConfig
from toolchain.engines.shared import timed_on
from toolchain.model import checkpoint, export
from toolchain.model.source import Shape

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime")
METHOD = "pruned"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the choice of a sub-network; with none of the first three, the smallest.

    Attributes:
        speedup: How many times as fast as the whole model it is to be; the most accurate that is so.
        width: Only those of this part of the heads and neurons.
        layers: Only those of so many layers.
        batch_size: Texts at a time when time is measured; 1 is latency.
        tolerance: How far the measured speed may be below the one that is asked for, as a part of it.
        rounds: Times that each engine goes through the texts, in turn with the whole model's.
    """

    speedup: Annotated[float, Gt(1), Le(100)] | None = None
    width: Annotated[float, Gt(0), Le(1)] | None = None
    layers: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1), Le(1024)] = 1
    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.0
    rounds: Annotated[int, Ge(3), Le(200)] = 9


def requires(history: Sequence[str]) -> str | None:
    """Why it cannot come after these, or None."""
    if not history or history[0] == "adopt" or "dynabert" in history:
        return None  # what was adopted may have been trained so elsewhere
    return "nothing before it trains a model for several sizes: put dynabert before it"


def fits(config: Config, shape: Shape) -> tuple[str, str] | None:
    """Why such a sub-network cannot be taken, and what to do; None where it can."""
    if shape.trained is None:
        return None
    if not shape.trained:
        return "heads, neurons or layers left after dynabert", "choose the sub-network first, and prune it then"
    if shape.factors:
        return "the layers of a low rank have no order of heads and neurons", "let low_rank stand after subnetwork"
    known = [elastic.Size(*size) for size in shape.trained]
    if not [size for size in known if _is_asked(config, size)]:
        return f"the model was not trained for {_asked(config)}", "it was for: " + "; ".join(map(str, known))
    return None


def leaves(config: Config, shape: Shape) -> Shape:
    """The shape of a sub-network: which one is known where its layers are named, or the smallest is taken."""
    layers = config.layers or shape.layers
    if shape.trained and config.speedup is None:
        sizes = [elastic.Size(*size) for size in shape.trained]
        layers = [size for size in sizes if _is_asked(config, size)][-1].layers
    return dataclasses.replace(shape, layers=layers, physical=min(layers, shape.physical), trained=shape.cut)


def _is_asked(config: Config, size: elastic.Size) -> bool:
    return config.width in (None, size.width) and config.layers in (None, size.layers)


def fingerprint(config: Config) -> dict[str, Any]:
    """What the times depend on, where they are taken."""
    if config.speedup is None:
        return {}
    versions = {"export": export.VERSION, "engine": registry.get("engines", registry.DEFAULT_ENGINE).version}
    return {**timed_on.fingerprint(registry.DEFAULT_ENGINE), **versions}


def tunes(config: Config) -> bool:
    """Times are those of a number of threads."""
    return config.speedup is not None


def _asked(config: Config) -> str:
    parts = {"width": config.width, "layers": config.layers}
    return " and ".join(f"{name} {value:g}" for name, value in parts.items() if value is not None)


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Cuts a checkpoint down to one of its sub-networks.

    Args:
        source: Checkpoint folder, of ``dynabert``.
        out: Folder to write.
        config: Settings.
        context: Threads, data, and a folder to time engines in.

    Returns:
        ``width``; ``tries``: width, layers, dev accuracy and speed of those that were timed; heads, ffn, hidden, layers
        and parameters, and the same before.

    Raises:
        RecipeError: It was not trained for such a size.
        ModelError: It was not trained for several sizes at all, was cut since, or none of them is that fast.
    """
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before = pruning.size(model)
    trained = elastic.trained_for(model, source)
    elastic.check(model)
    found = [size for size in trained if _is_asked(config, size)]
    if not found:
        raise RecipeError(
            f"subnetwork: the model was not trained for {_asked(config)}",
            "it was for: " + "; ".join(map(str, trained)),
        )
    tries: list[dict[str, float]] = []
    chosen = found[-1]
    if config.speedup is not None:
        chosen, tries = _fast(source, model, tokenizer, found, config, context)
    elastic.cut(model, chosen)
    elastic.forget(model)
    checkpoint.save_like(model, tokenizer, source, out)
    logger.info("    %s", chosen)
    return {"width": chosen.width, "tries": tries, **pruning.size(model), "before": before}


def _fast(
    source: Path, model: Any, tokenizer: Any, found: Sequence[elastic.Size], config: Config, context: Context
) -> tuple[elastic.Size, list[dict[str, float]]]:
    """The most accurate on dev that is as fast as asked, and what was tried until it was found."""
    asked, tries = config.speedup or 1.0, []
    context.work.mkdir(parents=True, exist_ok=True)
    judged = _judged(model, tokenizer, source, found, context)
    texts = context.dataset().train.texts
    options: dict[str, Any] = {"batch_size": config.batch_size, "rounds": config.rounds}
    with stopwatch(source, texts, context=context, **options) as timed:
        for size, reached in judged:
            folder = context.work / "try"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            smaller = checkpoint.load_model(source)
            elastic.cut(smaller, size)
            checkpoint.save_like(smaller, tokenizer, source, folder)
            speed = timed([folder])[0]
            shutil.rmtree(folder)
            tries.append({"width": size.width, "layers": size.layers, "dev_accuracy": reached, "speedup": speed})
            logger.info(
                "    %s: dev accuracy %.2f %%, %.2f times as fast (asked: %g)", size, 100 * reached, speed, asked
            )
            if speed >= asked * (1 - config.tolerance):
                return size, tries
    best = max(tries, key=lambda one: one["speedup"])
    raise ModelError(
        f"none of {len(tries)} sub-networks is {asked:g} times as fast; the fastest is {best['speedup']:.2f}: "
        f"{best['layers']:g} layers, width {best['width']:g}",
        f"ask for {best['speedup']:.2f} or less, or train for smaller ones: dynabert: {{widths: …, depths: …}}",
    )


def _judged(
    model: Any, tokenizer: Any, source: Path, found: Sequence[elastic.Size], context: Context
) -> list[tuple[elastic.Size, float]]:
    """The sub-networks with their accuracy on dev, the most accurate first, of equals the cheapest."""
    longest = int(checkpoint.read_json(source / "interface.json")["max_length"])
    judged = elastic.judged(model, tokenizer, found, longest, context)
    return sorted(judged, key=lambda one: (-one[1], one[0].cost))
