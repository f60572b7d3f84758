"""Hold an engine of trained weights against the dev accuracy that training itself measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain import kinds
from toolchain.core.hooks import GraphPass
from toolchain.core.registry import get, stage_in
from toolchain.core.store import Artifact

#: Examples of dev, and share of them, by which an engine may miss what training measured.
FEW = 3
POINT = 0.01


def failed_parity(made_from: Sequence[Artifact], task: Any, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return as a failed parity that an engine of the trained weights as they are misses training's dev accuracy.

    Args:
        made_from: The artifacts between the training and the engine, the training first, without the engine.
        task: The task that the engine was evaluated on, as its key has it.
        evaluation: The engine's, as ``evaluation.json`` has it; may be empty.

    Returns:
        One failed pass; none where the engine reaches that accuracy, or where its weights are others: compressed, or
        changed by a graph pass, or where it was judged on other texts.
    """
    if not made_from or not evaluation:
        return []
    parts = [artifact.manifest["parts"] for artifact in made_from]
    trained = stage_in(parts[0])
    if (
        trained is None
        or not trained.finetunes
        or not all(map(_keeps_weights, parts[1:]))
        or parts[0].get("task") != task
    ):
        return []
    expected, dev = float(made_from[0].metrics["dev_accuracy"]), evaluation["splits"]["dev"]
    metric, examples = kinds.named(evaluation).METRIC, dev["examples"]
    right = dev["correct"] if metric.binary else dev["score"] * examples
    if abs(right - expected * examples) <= max(FEW, POINT * examples):
        return []
    evidence = f"dev {metric.name} {metric.shown(expected)} in training, {metric.shown(right / examples)} by the engine"
    return [{"pass": "training", "passed": False, "evidence": evidence, "introduced_by": "the way from training to it"}]


def _keeps_weights(parts: Mapping[str, Any]) -> bool:
    """Return whether a step claims to answer as what it was made from."""
    stage = stage_in(parts)
    if stage is not None and stage.rewrites:
        return bool(get("optimize", str(parts["technique"])).of(GraphPass).AGREEMENT == 1)
    return stage is not None and stage.exports
