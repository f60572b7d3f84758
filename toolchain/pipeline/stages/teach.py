"""Writes down what a teacher answers to the training examples, for the students that ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain import kinds
    from toolchain.measure import chance

    step, parent = work.step, work.parent
    metrics = Metrics(step.technique.module.apply(parent.path, work.out, step.config, work.context))
    data = work.context.dataset()
    right = round(metrics["dev_accuracy"] * len(data.dev))
    doubt = chance.note(kinds.get(data.kind), right, len(data.dev), data.labels)
    return metrics | {"notes": [f"{parent.manifest['label']}, a teacher: {doubt}"] if doubt else []}


STAGE = Stage(
    name="teach", order=110, takes="checkpoint", gives="answers", module="model.teach", perform=_perform
)  # fmt: skip
