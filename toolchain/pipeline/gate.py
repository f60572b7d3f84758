"""Gate 1 in a run: after every graph pass, the new graph is compared with the float graph that its variant began as."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.core.errors import EngineError, GateError, MissingPackageError, refuse_lost
from toolchain.core.hooks import GraphPass
from toolchain.core.stage import Context
from toolchain.core.store import Artifact, Store
from toolchain.measure import divergence, engine_parity, gates, parity
from toolchain.pipeline.plan import Step

#: What ONNX Runtime says of an operator that it has no kernel for; another engine may have one.
NO_KERNEL = "NOT_IMPLEMENTED"

#: Sentences among which the one is sought whose values are looked into.
SOUGHT = 32


def beginning(artifact: Artifact, store: Store) -> Artifact:
    """The graph that a variant began as: the last ancestor that no graph pass made, or the earliest that is there."""
    found = artifact
    while (stage := registry.stage_in(found.manifest["parts"])) and stage.rewrites:
        parent = next((store.find("onnx", key) for key in found.manifest["parents"]), None)
        if parent is None:
            break
        found = parent
    return found


def reference(inputs: Sequence[Artifact]) -> engine_parity.Reference | None:
    """What an engine is compared with when it is evaluated.

    Args:
        inputs: The engine, the graph that it was built from, and the one that its variant began as, where that is
            another; or the engine alone.
    """
    if len(inputs) < 2:
        return None
    floor = float((inputs[1].metrics.get("parity") or {}).get("floor", 1.0))
    return engine_parity.Reference(inputs[-1].path, floor, inputs[1].path)


def check_pass(step: Step, parent: Artifact, out: Path, context: Context, store: Store) -> dict[str, Any]:
    """Judges what a graph pass wrote.

    The floor is the pass's ``AGREEMENT``, or that of a pass before it, whichever is less. A pass that claims to change
    nothing is compared with what it was given too, at its own floor.

    Args:
        step: The pass.
        parent: What it was given.
        out: What it wrote, with tokenizer and interface.
        context: Data, threads, and a folder to work in.
        store: Where the variant's first graph is found.

    Returns:
        ``parity`` for the manifest: what :func:`toolchain.measure.parity.compare` gives, ``against`` which artifact,
        and, where it failed, the ``first`` node that diverges. ``passed`` is None, with a ``reason``, where ONNX
        Runtime cannot run the graph.

    Raises:
        GateError: A pass that claims to change nothing changed something.
    """
    name = step.technique.name
    origin = beginning(parent, store)
    before = parent.metrics.get("parity") or {}
    claimed = step.technique.of(GraphPass).AGREEMENT
    floor = min(claimed, float(before.get("floor", 1.0)))
    texts = context.dataset().dev.texts
    if floor < claimed == 1:
        _check_exact(name, parent.path, out, texts, context)
    against = {"pass": name, "against": origin.key, "floor": floor}
    if floor == 1:
        return against | _check_exact(name, origin.path, out, texts, context)
    try:
        found = parity.compare(origin.path, out, floor, texts, context.threads)
    except MissingPackageError as error:
        return {**against, "passed": None, "reason": error.message}
    except EngineError as error:
        refuse_lost(error)
        _check_valid(name, parent.path, error, texts, context)
        return {**against, "passed": None, "reason": error.message}
    if not found["passed"]:
        # A pass behind the one that failed fails with it; the node to look for is the former's.
        blamed = before.get("passed") is not False
        first = (
            divergence.first_diverging(origin.path, out, texts[:SOUGHT], floor, context.threads, context.work)
            if blamed
            else None
        )
        found |= {"first": first, "introduced_by": name if blamed else before.get("introduced_by")}
    return against | found


def _check_valid(name: str, before: Path, error: EngineError, texts: parity.Texts, context: Context) -> None:
    """Refuse a graph that ONNX Runtime cannot run for another reason than a kernel that it lacks.

    Raises:
        GateError: The pass was given a graph that runs, and wrote one that does not.
    """
    if NO_KERNEL not in error.message and _runs(before, texts, context):
        raise GateError(
            f"{name} wrote a graph that cannot be loaded, and nothing was published: {error.message}",
            "this pass does not fit this model: take it out of the variant",
        ) from error


def _check_exact(name: str, before: Path, out: Path, texts: parity.Texts, context: Context) -> dict[str, Any]:
    """Holds a pass to its claim that it changes nothing; gives what :func:`parity.compare` found."""
    try:
        found = parity.compare(before, out, 1.0, texts, context.threads)
    except (EngineError, MissingPackageError) as error:
        refuse_lost(error)
        if not _runs(before, texts, context):  # ONNX Runtime may lack a kernel that the variant's engine has
            return {"passed": None, "reason": error.message}
        raise GateError(
            f"{name} wrote a graph that cannot be compared with the one it was made from: {error.message}",
            error.hint or "this pass does not fit this model: take it out of the variant",
        ) from error
    if found["passed"]:
        return found
    first = divergence.first_diverging(before, out, texts[:SOUGHT], 1.0, context.threads, context.work)
    raise GateError(
        f"parity: {name} claims to change nothing; {gates.compared(found)}; first diverging node: "
        f"{first or 'not found'}",
        "nothing was published: take the pass out of the variant, and report it",
    )


def _runs(folder: Path, texts: parity.Texts, context: Context) -> bool:
    """Whether ONNX Runtime can run a graph as it stands."""
    try:
        parity.Graph(folder, context.threads).logits(texts[:1])
    except (EngineError, MissingPackageError):
        return False
    return True
