"""Makes more examples to learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.hooks import Augmentation
from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.core.store import Artifact
    from toolchain.pipeline.plan import Plan, Step
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.pipeline.history import entry_of, write_history

    step, inputs = work.step, list(work.inputs)
    folder = _modelled(step, work.plan) if step.source else inputs.pop(0).path
    context = dataclasses.replace(work.context, labeller=inputs[0].path if inputs else None)
    metrics = step.technique.of(Augmentation).apply(folder, work.out, step.config, context)
    write_history(work.out, [entry_of(step)], {})
    return metrics


def _modelled(step: Step, plan: Plan) -> Path | None:
    """Return the folder of the model that it stands before the fine-tuning of; None of one from scratch."""
    from toolchain.model import source

    resolved = source.resolve(step.source or "", plan.recipe.base)
    return None if resolved.kind == "scratch" else source.fetch(resolved)


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    """Return what of the settings decides the result: of files and models that they name, the content."""
    from toolchain.augment.shared import models
    from toolchain.model import source
    from toolchain.pipeline.settings import plain

    augmentation = step.technique.of(Augmentation)
    if named := augmentation.sources(step.config):
        config = dict(plain(models.identity(step.config, named)))
    else:
        config = dict(plain(augmentation.identity(step.config) or step.config))
    began = {"source": source.resolve(step.source, base).identity} if step.source else {}
    return {"config": config, **began}


def _models(step: Step) -> list[str]:
    return [*([step.source] if step.source else []), *step.technique.of(Augmentation).sources(step.config)]


STAGE = Stage(
    name="augment", order=30, takes="checkpoint", gives="data", folder="augment", variant=True, seeded=True,
    perform=_perform, key_parts=_key_parts, models=_models,
)  # fmt: skip
