"""Times engines together."""

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
    engines = {artifact.key: artifact.path for artifact in work.inputs}
    return dict(work.step.technique.module.time_engines(engines, work.out, work.step.config, work.context))


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    from toolchain.pipeline import keys

    return {**keys.measured(inputs), "engines": [artifact.key for artifact in inputs]}  # what it is indexed by


STAGE = Stage(
    name="time", order=90, takes="engine", gives="timing", module="measure.timing", seeded=True, partial=True,
    perform=_perform, key_parts=_key_parts,
)  # fmt: skip
