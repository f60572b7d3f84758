"""Makes a smaller checkpoint, or one that is to be rounded, of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.core.hooks import Compression
from toolchain.core.stage import Context, Metrics, Stage, Teaching

if TYPE_CHECKING:
    from toolchain.core.data import Dataset
    from toolchain.core.store import Artifact
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.model.checkpoint import refuse_quantized
    from toolchain.pipeline.history import carry_on

    step, parent = work.step, work.parent
    refuse_quantized(parent.path)
    context = dataclasses.replace(_in_own_order(work.context, parent.path), teachers=_teachings(work.inputs[1:]))
    metrics = step.technique.of(Compression).apply(parent.path, work.out, step.config, context)
    carry_on(parent, step, work.more, work.out)
    return metrics


def _teachings(inputs: Sequence[Artifact]) -> tuple[Teaching, ...]:
    """Return the teachers, each with the answers that follow it, if any do."""
    teachers: list[Teaching] = []
    for each in inputs:
        if each.kind == "answers":
            teachers[-1] = dataclasses.replace(teachers[-1], answers=each.path)
        else:
            teachers.append(Teaching(each.path))
    return tuple(teachers)


def _in_own_order(context: Context, folder: Path) -> Context:
    """Return a context whose data counts labels as the checkpoint does."""
    from toolchain.model.labels import own_order

    given = context.dataset

    @cache
    def data() -> Dataset:
        return own_order(folder, given())

    return dataclasses.replace(context, dataset=data)


STAGE = Stage(
    name="compress", order=40, takes="checkpoint", gives="checkpoint", folder="compress", variant=True, seeded=True,
    trains=True, perform=_perform,
)  # fmt: skip
