"""Makes an engine of a graph, or of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.core.hooks import Engine
from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.engines.shared.batching import BATCHING_KEY, Batching
    from toolchain.model.checkpoint import read_json, write_json
    from toolchain.pipeline.history import accompany

    parent, out = work.parent, work.out
    metrics = work.step.technique.of(Engine).build(parent.path, out, work.step.config, work.context)
    accompany(parent.path, out)
    known = {name: parent.metrics[name] for name in ("parameters", "flops") if name in parent.metrics}
    defaults = {BATCHING_KEY: Batching().record()}
    write_json(out / "engine.json", defaults | read_json(out / "engine.json") | known)
    return known | metrics


STAGE = Stage(
    name="build", order=70, takes="onnx", gives="engine", folder="engines", of_task=False, perform=_perform
)  # fmt: skip
