"""What a step's result depends on, and so its key."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from toolchain.core import hooks, registry
from toolchain.core.data import Dataset
from toolchain.core.launcher import processes
from toolchain.core.stage import OBSERVED
from toolchain.core.store import Artifact
from toolchain.measure.machine import machine
from toolchain.model.checkpoint import read_json
from toolchain.pipeline.document import beside
from toolchain.pipeline.plan import Step
from toolchain.pipeline.recipe import Recipe
from toolchain.pipeline.settings import plain

#: What is noted where nobody named a task.
STAND_IN = "no task was named: graphs were compared, and engines tuned, on the embedded reviews; --task names the data"


class Task:
    """The recipe's task: its identity at once, its data when first needed."""

    def __init__(self, recipe: Recipe) -> None:
        self.item, self.stand_in = recipe.task, recipe.stand_in
        self._data: Dataset | None = None
        self._identity: dict[str, Any] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version and what decides the data."""
        if self._identity is None:
            found = self.item.technique.of(hooks.Task).identity(self.item.config)
            self._identity = {"name": self.item.label, "version": self.item.technique.version, "data": found}
            self._identity |= {"stand_in": True} if self.stand_in else {}
        return self._identity

    @property
    def record(self) -> dict[str, Any] | None:
        """What a manifest keeps of it, so that later commands on the artifact need not name it; None of a stand-in."""
        if self.stand_in:
            return None
        settings = beside(Path.cwd() / "recipe", plain(self.item.config), ("folder", "files", "dataset"))
        written = settings if self.item.label == "files" else {self.item.label: settings}  # as a recipe has it
        return {"settings": written, "identity": self.identity}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the loader said of the data, once it is loaded."""
        return self._data.notes if self._data else ()

    def data(self) -> Dataset:
        """The data, loaded once."""
        if self._data is None:
            self._data = self.item.technique.of(hooks.Task).load(self.item.config)
            if self.stand_in:
                self._data = dataclasses.replace(self._data, stand_in=True, notes=(STAND_IN,))
        return self._data


def parts(step: Step, inputs: list[Artifact], task: Task, recipe: Recipe, threads: int) -> dict[str, Any]:
    """Everything that decides a step's result, as JSON values.

    Args:
        step: The step.
        inputs: Its inputs' artifacts, in order.
        task: The recipe's task.
        recipe: The recipe, for the folder that model paths are relative to.
        threads: Threads to compute with, which decide what is tuned for them.
    """
    found: dict[str, Any] = {
        "stage": step.stage,
        "technique": step.technique.name,
        "version": step.technique.version,
        "config": plain(step.config),
        "inputs": [artifact.digest for artifact in inputs],
        "libraries": {name: installed(name) for name in step.technique.libraries},
    }
    if step.seed is not None:
        found["seed"] = step.seed
    tuned = is_tuned(step)
    if tuned:
        found["threads"] = threads
    stage = step.does
    if stage.of_task or tuned:
        found["task"] = task.identity
    if stage.trains and processes()[1] > 1:
        found["processes"] = processes()[1]  # each sees other batches, so the weights differ
    if facts := step.technique.hooks.fingerprint(step.config):
        found["fingerprint"] = facts
    return found | stage.key_parts(step, inputs, recipe.base)


def measured(inputs: Sequence[Artifact]) -> dict[str, Any]:
    """Return what decides the result of a measurement: this machine, and what engines run on."""
    # An engine's bytes may outlive the runtime that they were measured with.
    return {"machine": machine(), "runtimes": [_runtime(artifact) for artifact in inputs if artifact.kind == "engine"]}


def is_tuned(step: Step) -> bool:
    """Return whether a step's result depends on the number of threads that it computes with."""
    return step.technique.hooks.tunes(step.config)


def _runtime(engine: Artifact) -> dict[str, Any]:
    """The runtime that an engine is measured with, and the versions of what it is made of."""
    name = str(read_json(engine.path / "engine.json")["engine"])
    technique = registry.get("engines", name)
    libraries = {library: installed(library) for library in technique.libraries}
    return {"engine": name, "libraries": libraries, "facts": technique.hooks.fingerprint(technique.config())}


@cache
def installed(distribution: str) -> str:
    """The version of an installed distribution, or ``missing``."""
    engines = [registry.get("engines", name).of(hooks.Engine) for name in registry.names("engines")]
    groups = [engine.DISTRIBUTIONS[distribution] for engine in engines if distribution in engine.DISTRIBUTIONS]
    for name in (*groups, (distribution,))[0]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "missing"


#: How a digest of all that a technique imports begins; one without it is of an earlier version, which left some out.
_WHOLE = "whole:"


def changed_source(step: Step, artifact: Artifact) -> bool:
    """Whether the technique's source differs from the one that made this artifact, under the same VERSION."""
    recorded = str(artifact.manifest.get("source_digest") or "")
    return recorded.startswith(_WHOLE) and recorded != source_digest(step.technique)


def source_digest(technique: registry.Technique) -> str:
    """Return the digest of the source that decides a technique's result, as a manifest records it."""
    return f"{_WHOLE}{technique.source_digest}"


class Clock:
    """When a step began, and how long it has taken, however the system's time is set meanwhile."""

    def __init__(self) -> None:
        self.began, self._monotonic = time.time(), time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self._monotonic


def manifest(
    label: str, technique: registry.Technique, key_parts: Mapping[str, Any], inputs: Sequence[Artifact],
    metrics: Mapping[str, Any], *, seed: int | None, clock: Clock, environment: Mapping[str, Any],
    commit: str | None = None, notes: Sequence[str] = (), task: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What an artifact's manifest records besides its files."""
    return {
        "parts": dict(key_parts),
        "parents": [artifact.key for artifact in inputs],
        "parent_digests": {artifact.key: artifact.statement for artifact in inputs},
        "label": label,
        "seed": seed,
        "environment": dict(environment),
        "commit": commit,
        "notes": list(notes),
        "task": task,
        "source_digest": source_digest(technique),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.began)),
        "duration_s": round(clock.seconds(), 3),
        "metrics": {name: value for name, value in metrics.items() if name not in OBSERVED},
        "observed": {name: value for name, value in metrics.items() if name in OBSERVED},
    }
