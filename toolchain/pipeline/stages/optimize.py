"""Makes a graph of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.errors import ModelError
from toolchain.core.hooks import GraphPass
from toolchain.core.log import logger
from toolchain.core.stage import Metrics, Stage

if TYPE_CHECKING:
    from toolchain.core.store import Artifact, Store
    from toolchain.pipeline.plan import Step
    from toolchain.pipeline.work import Work


def _perform(work: Work) -> Metrics:
    from toolchain.model.checkpoint import copy_tokenizer, read_json, write_json
    from toolchain.pipeline.history import carry_on

    step, parent, out = work.step, work.parent, work.out
    technique = step.technique.of(GraphPass)
    dialect = str(read_json(parent.path / "interface.json")["dialect"])
    if dialect not in technique.TAKES:
        raise ModelError(
            f"{step.technique.name} takes dialect {' or '.join(technique.TAKES)}, and the graph is quantized or fused "
            f"already: it is of dialect {dialect}",
            "quantize the graph that export gives, once, in training or after it",
        )
    check_precision(step, parent.path)
    metrics = technique.apply(parent.path, out, step.config, work.context)
    copy_tokenizer(parent.path, out)
    written = out / "interface.json"  # by a pass that changes what the graph reads
    interface = read_json(written if written.is_file() else parent.path / "interface.json")
    given = technique.gives(step.config, str(interface["dialect"]))
    write_json(out / "interface.json", interface | {"dialect": given})
    carry_on(parent, step, work.more, out)
    return {name: parent.metrics[name] for name in ("flops", "mean_tokens") if name in parent.metrics} | metrics


def check_precision(step: Step, folder: Path) -> None:
    """Refuse a pass that needs single precision, where the graph's own weights are in half precision.

    Raises:
        ModelError: The pass does not take the graph.
    """
    from toolchain.model import graph

    narrow = graph.narrowed(graph.load(folder / "model.onnx", weights=False))
    if narrow and step.technique.hooks.requires([narrow]):
        raise ModelError(
            f"{step.technique.name} takes a graph in fp32, and this one has weights in {narrow}",
            "start from the graph in fp32",
        )


def _key_parts(step: Step, inputs: Sequence[Artifact], base: Path | None) -> dict[str, Any]:
    from toolchain.measure import parity

    return {"parity": {"version": parity.VERSION, "floor": step.technique.of(GraphPass).AGREEMENT}}


def _check(work: Work, store: Store) -> Metrics:
    from toolchain.measure import gates
    from toolchain.pipeline import gate

    found = gate.check_pass(work.step, work.parent, work.out, work.context, store)
    if found["passed"] is False:
        logger.warning("    parity failed: %s", gates.compared(found))
    return {"parity": found}


STAGE = Stage(
    name="optimize", order=60, takes="onnx", gives="onnx", folder="optimize", variant=True, seeded=True,
    perform=_perform, key_parts=_key_parts, check=_check,
)  # fmt: skip
