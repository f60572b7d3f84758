"""Trains the encoder that a model begins with on the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.core.store import Artifact
    from toolchain.pipeline.plan import Step
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.model import source
    from toolchain.model.history import applied
    from toolchain.pipeline.history import augmented, entry_of, origin_of, write_history

    step = work.step
    resolved = source.resolve(step.source or "", work.plan.recipe.base)
    model = resolved.spec if resolved.kind == "scratch" else source.fetch(resolved)
    metrics: Metrics = step.technique.module.apply(model, work.out, step.config, work.context)
    before = applied(model) if isinstance(model, Path) else []  # an encoder that was pruned before
    began = origin_of(resolved.spec, resolved.identity.get("files", {}))
    write_history(work.out, [*before, *augmented(work.more), entry_of(step)], began)
    return metrics


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    from toolchain.model import source

    return {"source": source.resolve(step.source or "", base).identity}


STAGE = Stage(
    name="finetune", order=20, takes="source", gives="checkpoint", module="model.finetune", variant=True, once=True,
    seeded=True, trains=True, perform=_perform, key_parts=_key_parts,
)  # fmt: skip
