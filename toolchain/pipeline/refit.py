"""Makes an engine whose plan has another graph's weights: an artifact like any other, and no step of a recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.core.errors import EngineError, ModelError, StoreError, first_line
from toolchain.core.log import logger
from toolchain.core.store import Artifact, Store, digest, key_of
from toolchain.engines.shared import cudart
from toolchain.engines.tensorrt import builder
from toolchain.engines.tensorrt import refit as refitting
from toolchain.engines.tensorrt.session import usable
from toolchain.measure.machine import environment
from toolchain.model import adopt, onnx_file
from toolchain.pipeline import keys, perform


def refit(folder: Path, source: Path, store: Store) -> tuple[Artifact, bool]:
    """Gives a plan the weights of a graph, in a new engine; what does not fit is refused before any work.

    Args:
        folder: The engine folder of a plan that was built with ``refit: true``.
        source: The folder of the graph, with its tokenizer and interface.
        store: Where the engine goes.

    Returns:
        The engine, and whether it is new.

    Raises:
        EngineError: The plan cannot be refitted, the graph is another, or there is no GPU.
        ModelError: The graph or what goes with it is missing or damaged, or an artifact has been changed.
    """
    for given in (folder, source):
        if not given.is_dir():
            raise ModelError(f"{given} is no folder", "name the engine's folder, and the graph's")
        adopt.check_published(given)
    asked, library, device = _fitting(folder, source)
    if not (source / "tokenizer.json").is_file():
        raise ModelError(
            f"{source / 'tokenizer.json'} is missing",
            "give a folder that 'toolchain export' or 'toolchain optimize' writes",
        )
    technique = registry.get("engines", "tensorrt")
    names = [refitting.MODEL_FILE, *onnx_file.inspect(asked.model).external, "tokenizer.json", "interface.json"]
    parts: dict[str, Any] = {
        "stage": "build",
        "technique": technique.name,
        "version": technique.version,
        "config": dict(asked.manifest.options),
        "inputs": [hashlib.sha256(asked.plan).hexdigest(), *(digest(source / name) for name in names)],
        "libraries": {library: builder.version(library)},
        "fingerprint": cudart.gpu(device),
        "refit": True,
    }
    key = key_of(parts)
    found = store.find("engine", key)
    if found is not None:
        return found, False
    usable(folder, asked.manifest)
    label = f"refit {folder.name} · {source.name}"
    logger.info("%s: %d of %d weights differ", label, len(asked.changed), len(asked.graph["weights"]))
    with store.claim("engine", key) as claim:
        if claim is None:
            raise StoreError(f"another process has made engine {key[:12]}", "run again")
        clock = keys.Clock()
        metrics = refitting.apply(asked, claim.out)
        perform.accompany(source, claim.out)
        made = keys.manifest(label, technique, parts, (), metrics, seed=None, clock=clock, environment=environment())
        return store.publish(claim, made), True


def _fitting(folder: Path, source: Path) -> tuple[refitting.Refit, str, int]:
    """A plan and a graph that fit each other, and the plan's library and GPU.

    Raises:
        EngineError: They do not fit, or a record of the plan is damaged.
        ModelError: The graph or its interface is missing or damaged.
    """
    try:
        asked = refitting.check(folder, source)
        library = str(asked.manifest.options["library"]["name"])
        builder.version(library)
        device = int(asked.manifest.options["device_id"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EngineError(
            f"{folder} has records that are not valid: {type(error).__name__}: {first_line(error)}",
            "build the engine again, or copy the folder again from where it was built",
        ) from error
    return asked, library, device
