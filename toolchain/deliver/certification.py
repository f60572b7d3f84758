"""Whether an engine may be certified on a split that was held out: only if all that it was trained on left it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.artifact import copied
from toolchain.core.errors import ToolchainError
from toolchain.core.registry import stage_in
from toolchain.model import source

if TYPE_CHECKING:
    from toolchain.pipeline.plan import Step
    from toolchain.pipeline.run import Outcome


def objection(outcome: Outcome, build: str) -> str | None:
    """Why an engine is not certified.

    Args:
        outcome: A run.
        build: Id of the step that built the engine.

    Returns:
        The reason; empty where it is certified, None where the task has no certification split.
    """
    identity = outcome.task.identity
    if "certification" not in identity["data"]:
        return None
    behind, seen = [build], set[str]()
    trained = False
    while behind:
        step = outcome.plan.steps[behind.pop()]
        if step.id in seen:
            continue
        seen.add(step.id)
        behind += step.inputs
        if reason := _of(step, identity, outcome.plan.recipe.base):
            return reason
        trained = trained or step.does.takes == "source"
    return "" if trained else "nothing says what it was trained on"


def _of(step: Step, identity: Mapping[str, Any], base: Path | None) -> str:
    """What speaks against a step: a checkpoint from elsewhere that is not known to be trained on this split."""
    if step.does.takes != "source" or not step.source:
        return ""
    parts = _manifest(step.source, base).get("parts", {})
    if step.does.finetunes:  # an encoder that was only pretrained has no task
        return "" if parts.get("task", identity) == identity else f"{step.source} was trained on other data before"
    stage = stage_in(parts)
    if stage is not None and stage.finetunes and parts.get("task") == identity:
        return ""
    known = "was trained on other data" if "task" in parts else "does not say what it was trained on"
    return f"{step.source} {known}"


def _manifest(spec: str, base: Path | None) -> dict[str, Any]:
    """The manifest beside a model that came out of a store; empty where there is none."""
    try:
        folder = source.resolve(spec, base).folder
    except ToolchainError:  # an ONNX file, which has no manifest
        folder = None
    artifact = copied(folder) if folder else None
    return artifact.manifest if artifact else {}
