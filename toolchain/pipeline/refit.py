"""Makes an engine that has another graph's weights: an artifact like any other, and no step of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.core.errors import EngineError, ModelError, StoreError
from toolchain.core.hooks import Engine
from toolchain.core.log import logger
from toolchain.core.store import Artifact, Store, key_of
from toolchain.engines.shared.artifact import read_engine
from toolchain.measure.machine import environment
from toolchain.model import door
from toolchain.pipeline import history, keys


def refit(folder: Path, source: Path, store: Store) -> tuple[Artifact, bool]:
    """Gives an engine the weights of a graph, in a new engine; what does not fit is refused before any work.

    Args:
        folder: The engine folder, such as one of a plan that was built with ``refit: true``.
        source: The folder of the graph, with its tokenizer and interface.
        store: Where the engine goes.

    Returns:
        The engine, and whether it is new.

    Raises:
        EngineError: The engine cannot be refitted, the graph is another, or there is no GPU.
        ModelError: The graph or what goes with it is missing or damaged, or an artifact has been changed.
    """
    for given in (folder, source):
        if not given.is_dir():
            raise ModelError(f"{given} is no folder", "name the engine's folder, and the graph's")
        door.check_published(given)
    technique = registry.get("engines", read_engine(folder).engine)
    asked = technique.of(Engine).new_weights(folder, source)
    if asked is None:
        raise EngineError(
            f"{folder} is an engine of {technique.name}, whose weights cannot be replaced",
            "build an engine from the new graph",
        )
    if not (source / "tokenizer.json").is_file():
        raise ModelError(
            f"{source / 'tokenizer.json'} is missing",
            "give a folder that 'toolchain export' or 'toolchain optimize' writes",
        )
    parts: dict[str, Any] = {
        "stage": "build",
        "technique": technique.name,
        "version": technique.version,
        "config": dict(asked.config),
        "inputs": list(asked.inputs),
        "libraries": dict(asked.libraries),
        "fingerprint": asked.fingerprint(),
        "refit": True,
    }
    key = key_of(parts)
    found = store.find("engine", key)
    if found is not None:
        return found, False
    asked.check_device()
    label = f"refit {folder.name} · {source.name}"
    logger.info("%s: %s", label, asked.changes)
    with store.claim("engine", key) as claim:
        if claim is None:
            raise StoreError(f"another process has made engine {key[:12]}", "run again")
        clock = keys.Clock()
        metrics = asked.apply(claim.out)
        history.accompany(source, claim.out)
        made = keys.manifest(label, technique, parts, (), metrics, seed=None, clock=clock, environment=environment())
        return store.publish(claim, made), True
