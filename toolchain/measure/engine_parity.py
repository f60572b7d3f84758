"""Gate 1 for an engine: it labels real text as the float graph does that its variant began as.

Not as the quantized graph does: a runtime that leaves out a rounding, or rounds elsewhere, is as right as that graph.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core.stage import Context
from toolchain.engines.shared.artifact import EngineFile
from toolchain.measure import parity
from toolchain.measure.process import WorkerProcess, write_texts
from toolchain.model import checkpoint
from toolchain.runtime.interface import read_interface

#: Sentences per batch, of unlike lengths, so that most rows are padded.
BATCH_SIZE = 8

#: The first sentences come again, alone: an engine may have graphs of their own for single texts; and so many of them
#: once more, padded far.
ALONE = 48
PADDED = 16

#: Largest |Δlogit| of an engine that computes a float graph in single precision: fused kernels round in another order,
#: and approximate GELU and softmax to about 1e-3.
FLOAT_TOLERANCE = 1e-2

#: Share of labels that an engine must keep where it computes, or its graph holds, half precision.
HALF_FLOOR = 0.998

#: Share of labels that it must keep of a graph that came in quantized, so that no float one is known.
INTEGER_FLOOR = 0.98

#: How engines' options say that they compute in single precision.
SINGLE_PRECISION = ("f32", "fp32", "float32")


@dataclass(frozen=True)
class Reference:
    """What an engine is compared with.

    Attributes:
        graph: Folder of the float graph that its variant began as.
        floor: The least share of labels that its passes allow.
        source: Folder of the graph that it was built from, in which a node that differs is looked for.
    """

    graph: Path
    floor: float
    source: Path


def measure(
    worker: WorkerProcess, manifest: EngineFile, reference: Reference | None, context: Context
) -> dict[str, Any] | None:
    """Compares an engine that a worker has open with a graph as it stands, on dev.

    Args:
        worker: The engine's process; the graph runs there too.
        manifest: The engine's own file.
        reference: The graph; None where the engine has none, such as one that runs a checkpoint.
        context: Data and threads.

    Returns:
        What :func:`parity.judge` gives; ``passed`` None and a ``reason`` where the graph cannot be run; None without a
        graph.
    """
    if reference is None or not (reference.graph / parity.MODEL_FILE).is_file():
        return None
    texts = context.dataset().dev.texts[: parity.MOST]
    found = _judged(worker, manifest, reference, texts[: parity.SAMPLE], context)
    if found["passed"] is False and len(texts) > parity.SAMPLE:
        found = _judged(worker, manifest, reference, texts, context)
    if found["passed"] is False:
        with tempfile.TemporaryDirectory(prefix="parity-", dir=context.work) as folder:
            file = Path(folder).resolve() / "texts.json"
            write_texts(file, texts[: parity.SAMPLE])
            asked: dict[str, Any] = {"graph": str(reference.source.resolve()), "texts": str(file), "scratch": folder}
            found["first"] = worker.call("diverging", floor=found["floor"], **asked)["first"]
    return found


def floor_of(passes: float, dialect: str, half: bool, precision: str) -> tuple[float, float]:
    """How far an engine must agree with the graph.

    Args:
        passes: The least share of labels that the passes since that graph allow.
        dialect: The graph's.
        half: Whether the graph holds values of half precision.
        precision: What the engine computes in, by its options.

    Returns:
        The least share of labels, and the largest |Δlogit|: 1 and 1e-2 for a float graph computed in single precision.
    """
    if dialect != "standard":
        return min(passes, INTEGER_FLOOR), math.inf
    if half or precision not in SINGLE_PRECISION:
        return min(passes, HALF_FLOOR), math.inf
    return passes, FLOAT_TOLERANCE if passes == 1 else math.inf


def _judged(
    worker: WorkerProcess, manifest: EngineFile, reference: Reference, texts: parity.Texts, context: Context
) -> dict[str, Any]:
    import numpy as np

    interface = read_interface(reference.graph)
    pad_to = min(parity.PADDED_TOKENS, interface.max_length)
    runs = ((texts, BATCH_SIZE, 0), (texts[:ALONE], 1, 0), (texts[:PADDED], BATCH_SIZE, pad_to))
    found, expected = list[Any](), list[Any]()
    with tempfile.TemporaryDirectory(prefix="parity-", dir=context.work) as folder:
        file = Path(folder).resolve() / "texts.json"
        paths = file.with_name("engine.npy"), file.with_name("graph.npy")
        graph: dict[str, Any] = {"graph": str(reference.graph.resolve()), "threads": context.threads}
        for chosen, batch_size, padded in runs:
            write_texts(file, chosen)
            shared: dict[str, Any] = {"texts": str(file), "batch_size": batch_size, "pad_to": padded}
            worker.call("logits", lambda done: None, out=str(paths[0]), **shared)
            reply = worker.call("reference", out=str(paths[1]), **graph, **shared)
            if "reason" in reply:
                return {"passed": None, "reason": f"its graph cannot be run to compare with: {reply['reason']}"}
            found.append(np.load(paths[0]))
            expected.append(np.load(paths[1]))
    dialect = checkpoint.read_json(reference.graph / "interface.json").get("dialect", "")
    precision = str(manifest.options.get("precision", SINGLE_PRECISION[0]))
    kind = kinds.get(interface.kind, interface.labels)
    limits = floor_of(reference.floor, dialect, reply["half"], precision)
    return parity.judge(kind, kinds.joined(expected), kinds.joined(found), *limits)
