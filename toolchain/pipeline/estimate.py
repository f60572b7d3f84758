"""What steps that are still to run may take, from like steps in the store: time and disk."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.core.store import Store
from toolchain.measure.machine import machine
from toolchain.pipeline.plan import Step


@dataclass(frozen=True)
class Estimate:
    """What a step may take.

    Attributes:
        seconds: Wall time.
        bytes: Disk space of what it publishes.
    """

    seconds: float
    bytes: int


def estimates(steps: Iterable[Step], store: Store) -> dict[str, Estimate]:
    """Return what steps may take: the median of those of the same stage and technique that ran on this machine.

    Args:
        steps: Steps that are to run.
        store: Where like steps are looked for.

    Returns:
        By step id; steps without a like one are left out.
    """
    like: dict[tuple[str, str], list[Estimate]] = {}
    here = _described(machine())
    for artifact in store.artifacts(damaged=[]):
        parts, ran_on = artifact.manifest["parts"], artifact.manifest.get("environment", {}).get("machine")
        if isinstance(ran_on, Mapping) and _described(ran_on) == here and "duration_s" in artifact.manifest:
            kind = (str(parts.get("stage")), str(parts.get("technique")))
            like.setdefault(kind, []).append(Estimate(float(artifact.manifest["duration_s"]), artifact.size_bytes))
    known = {
        kind: Estimate(statistics.median(e.seconds for e in found), round(statistics.median(e.bytes for e in found)))
        for kind, found in like.items()
    }
    kinds = ((step.id, (step.stage, step.technique.name)) for step in steps)
    return {id_: known[kind] for id_, kind in kinds if kind in known}


def _described(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine without its host name, which the manifest of an engine leaves out."""
    return {name: fact for name, fact in facts.items() if name != "host"}


def summary(found: dict[str, Estimate], steps: int) -> str:
    """Return the estimate of all steps as a sentence.

    Args:
        found: What :func:`estimates` gave.
        steps: How many are to run.
    """
    if not steps:
        return ""
    if not found:
        return "time and disk: unknown, no like step has run on this machine"
    seconds, size = sum(each.seconds for each in found.values()), sum(each.bytes for each in found.values())
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    more = f", and what {steps - len(found)} steps take that none here is like" if len(found) < steps else ""
    return f"time and disk: about {time} and {size / 1e6:.0f} MB, as like steps took on this machine{more}"
