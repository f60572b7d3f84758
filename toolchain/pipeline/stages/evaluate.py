"""Measures what an engine answers on dev and test."""

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
    from toolchain.pipeline import gate

    module, config = work.step.technique.module, work.step.config
    return dict(module.evaluate(work.parent.path, work.out, config, work.context, gate.reference(work.inputs)))


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    from toolchain.pipeline import keys

    return keys.measured(inputs)


STAGE = Stage(
    name="evaluate", order=80, takes="engine", gives="evaluation", module="measure.evaluate", judges=True,
    perform=_perform, key_parts=_key_parts,
)  # fmt: skip
