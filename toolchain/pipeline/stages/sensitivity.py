"""Measures what each layer of a checkpoint may lose; a command of its own, beside the way to engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.pipeline.settings import plain

    step, parent, task = work.step, work.parent, work.plan.recipe.task
    origin = {"checkpoint": parent.key, "task": {task.label: plain(task.config)}}
    return dict(step.technique.module.measure(parent.path, work.out, step.config, work.context, origin))


STAGE = Stage(
    name="sensitivity", order=100, takes="checkpoint", gives="sensitivity", module="layers.sensitivity", seeded=True,
    perform=_perform,
)  # fmt: skip
