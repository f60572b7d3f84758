"""What the page reads from the lines of a report's JSON; older reports lack some of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.certainty import pareto
from toolchain.core import registry
from toolchain.core.hooks import Compression, GraphPass
from toolchain.deliver.report.line import NOT_COMPRESSION
from toolchain.measure.gates import BINDING

#: A line of ``report.json``.
Line = Mapping[str, Any]

#: Methods in the order in which they are told.
METHODS = ("base", "quantized", "pruned", "distilled", "factorized", "other", "combined")

#: ONNX Runtime's and OpenVINO's names for places that are no processor, in small letters.
GPUS = ("cuda", "tensorrt", "gpu", "rocm", "migraphx", "dml")


def method(line: Line) -> str:
    """What was done to the model to make this engine: one of ``METHODS``.

    A smaller vocabulary beside another method does not count: it leaves out words, and changes no layer.
    """
    if line["baseline"]:
        return "base"
    techniques = [name for name in line.get("techniques", ()) if name not in NOT_COMPRESSION]
    kinds = {name: _method_of(name) for name in techniques}
    compressing = {kind for name, kind in kinds.items() if kind != "other" and name != "vocabulary_prune"}
    if len(compressing) > 1:
        return "combined"
    if not compressing and "vocabulary_prune" in kinds:
        return "pruned"
    return next(iter(compressing or kinds.values()), "base")


def _method_of(technique: str) -> str:
    """Return what a technique does to a model, as it declares; ``other`` of one that this version does not have."""
    if technique in registry.names("compress"):
        return registry.get("compress", technique).of(Compression).METHOD
    if technique in registry.names("optimize"):
        return registry.get("optimize", technique).of(GraphPass).METHOD
    return "other"


def on_gpu(line: Line) -> bool:
    """Whether an engine ran on a GPU, by its runtime and the place that it was opened with."""
    settings = line.get("settings") or {}
    places = [line["engine"], settings.get("provider"), settings.get("device")]
    return any(gpu in str(place).lower() for place in places for gpu in GPUS)


def sound(line: Line) -> bool:
    """Whether it failed none of the gates that bar it from being recommended."""
    return not failed(line)


def failed(line: Line) -> list[str]:
    """The gates that it failed, of those that bar it."""
    failures = [verdict for verdict in line.get("gates", ()) if verdict["passed"] is False and not verdict.get("label")]
    return [verdict["gate"] for verdict in failures if verdict["gate"] in BINDING]


def barred(line: Line) -> list[str]:
    """Why it may not be shipped; older reports know only the gates."""
    reasons: list[str] | None = line.get("barred")
    return [f"failed {gate}" for gate in failed(line)] if reasons is None else reasons


def number(line: Line, name: str) -> float | None:
    """A figure of a line; None where there is none."""
    value = line.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def settings_of(lines: Sequence[Line]) -> list[str]:
    """Every setting that engines were timed at, ``batch 1`` first."""
    names = {name for line in lines for name in line if re.fullmatch(r"speedup_batch_\d+", name)}
    sizes = sorted(int(name.rpartition("_")[2]) for name in names)
    return [f"batch {size}" for size in sizes]


def models(lines: Sequence[Line]) -> list[str]:
    """The models, in the order in which the ranking has them."""
    return list(dict.fromkeys(line["model"] for line in lines))


def short(line: Line, lines: Sequence[Line], *, model: bool) -> str:
    """A name without its runtime, where all have the same.

    Args:
        line: The engine.
        lines: The report's.
        model: Whether the model stays in it, where it is there.
    """
    name = str(line["name"])
    if not model and name.startswith(f"{line['model']}/{line['variant']}/"):
        name = name.removeprefix(f"{line['model']}/")
    return name.replace(f"/{line['engine']}", "", 1) if one_runtime(lines) else name


def one_runtime(lines: Sequence[Line]) -> bool:
    """Whether all engines are of one runtime."""
    return len({line["engine"] for line in lines}) == 1


def label(line: Line) -> str:
    """What stands beside a mark: the rank, or ``b`` for a baseline without one."""
    return str(line["rank"]) if line.get("rank") is not None else "b" if line["baseline"] else "·"


def front(lines: Sequence[Line], name: str, *, more: bool) -> list[int]:
    """The sound engines that no sound one beats in accuracy and another figure, by that figure.

    Args:
        lines: The report's.
        name: The figure.
        more: Whether more of it is better.

    Returns:
        Positions in ``lines``.
    """
    shown = [
        index
        for index, line in enumerate(lines)
        if sound(line) and number(line, name) is not None and number(line, "accuracy_percent") is not None
    ]
    sign = 1 if more else -1
    gains = [(number(lines[at], "accuracy_percent") or 0.0, sign * (number(lines[at], name) or 0.0)) for at in shown]
    kept = [(gains[place][1], shown[place]) for place in pareto.front(gains)]
    return [index for _, index in sorted(kept, reverse=True)]
