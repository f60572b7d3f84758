"""Makes a graph of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store
    from toolchain.pipeline.plan import Step
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.pipeline.history import carry_on

    step = work.step
    metrics: Metrics = step.technique.module.apply(work.parent.path, work.out, step.config, work.context)
    carry_on(work.parent, step, work.more, work.out)
    return metrics


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    from toolchain.measure import outside

    return {"outside": outside.VERSION}


def _check(work: Work, store: Store) -> Metrics:
    from toolchain.measure import outside

    texts, threads = work.context.dataset().dev.texts, work.context.threads
    found = outside.check(work.parent.path, work.out, texts, threads)
    return {"outside": found} if found else {}


STAGE = Stage(
    name="export", order=50, takes="checkpoint", gives="onnx", module="model.export", variant=True, once=True,
    perform=_perform, key_parts=_key_parts, check=_check,
)  # fmt: skip
