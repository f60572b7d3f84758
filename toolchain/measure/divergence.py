"""Finds the node at which two graphs part: both run with every value that they share by name as an output."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import kinds
from toolchain.core.errors import ToolchainError, refuse_lost, require
from toolchain.engines.shared.artifact import place
from toolchain.measure.parity import MODEL_FILE, Graph, GraphSession, Texts
from toolchain.model import graph, onnx_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Relative error, ``‖a − b‖ / ‖a‖``, beyond which a value has parted, by the floor of its graph's agreement.
EXACT_ERROR = 1e-4
HALF_ERROR = 0.02
INTEGER_ERROR = 0.3

#: Floors from here on are those of half precision; below, of integers.
HALF_FLOOR = 0.99


def first_diverging(
    reference: Path, candidate: Path, texts: Texts, floor: float, threads: int, scratch: Path
) -> str | None:
    """The first node, in the candidate's order, whose result is beyond what its floor makes plausible.

    Args:
        reference: Folder of the graph that is right.
        candidate: Folder of the graph that differs.
        texts: Real examples; the one whose logits differ most is looked into, alone, so that nothing is padded.
        floor: The candidate's floor of agreement.
        threads: Threads that compute.
        scratch: Where to write the two graphs with their values exposed.

    Returns:
        ``operator name (value): relative error …``, or None when the graphs share no value that differs so, or cannot
        be run so.
    """
    try:
        text = _worst(reference, candidate, texts, threads)
        with tempfile.TemporaryDirectory(prefix="divergence-", dir=scratch) as folder:
            return _first(reference, candidate, text, _bound(floor), threads, Path(folder))
    except ToolchainError as error:  # what cannot be run says so elsewhere; here it only leaves the node unnamed
        refuse_lost(error)
        return None


def relative_error(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """``‖a − b‖ / ‖a‖`` over the values that are finite in a; infinite where b has none there."""
    import numpy as np

    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    kept = np.isfinite(a) & (np.abs(a) < np.finfo(np.float16).max)  # masks hold the least float there is
    if not np.isfinite(b[kept]).all():
        return math.inf
    norm = float(np.linalg.norm(a[kept]))
    error = float(np.linalg.norm(a[kept] - b[kept]))
    return error / norm if norm else 0.0 if not error else math.inf


def _bound(floor: float) -> float:
    return EXACT_ERROR if floor == 1 else HALF_ERROR if floor >= HALF_FLOOR else INTEGER_ERROR


def _worst(reference: Path, candidate: Path, texts: Texts, threads: int) -> tuple[str, ...]:
    """Return the example whose answers differ most."""
    import numpy as np

    graphs = Graph(reference, threads), Graph(candidate, threads)
    expected, found = (kinds.joined([each.logits([text]) for text in texts]) for each in graphs)
    if expected.shape != found.shape:
        return texts[0]
    distance = graphs[0].predictor.kind.agree(expected, found).distance
    return texts[int(np.nan_to_num(distance, nan=np.inf).argmax())]


def _first(
    reference: Path, candidate: Path, text: tuple[str, ...], bound: float, threads: int, scratch: Path
) -> str | None:
    import numpy as np

    models = [graph.load(folder / MODEL_FILE, weights=False) for folder in (reference, candidate)]
    known = {name for node in models[0].graph.node for name in node.output}
    shared = {name: node for node in models[1].graph.node for name in node.output if name and name in known}
    values = [
        exposed_values(folder, list(shared), [[text]], threads, scratch / str(index))[0]
        for index, folder in enumerate((reference, candidate))
    ]
    largest = ("", 0.0)
    for name, node in shared.items():
        a, b = values[0][name], values[1][name]
        if a.shape != b.shape or not np.issubdtype(a.dtype, np.floating) or not np.issubdtype(b.dtype, np.floating):
            continue
        error = relative_error(a, b)
        told = f"{node.op_type} {node.name or name} (value {name}): relative error {error:.3g}"
        if error > bound:
            return told
        largest = max(largest, (told, error), key=lambda pair: pair[1])
    return f"none alone; the largest is {largest[0]}" if largest[1] > bound / 10 else None


def exposed_values(
    folder: Path, names: Sequence[str], batches: Sequence[Texts], threads: int, scratch: Path
) -> list[dict[str, NDArray[Any]]]:
    """Values inside a graph, by name, for each batch of texts.

    Args:
        folder: Folder of the graph.
        names: The values.
        batches: The batches.
        threads: Threads that compute.
        scratch: A folder to make, for the graph with these values as outputs.
    """
    import numpy as np

    onnx = require("onnx", "torch")
    scratch.mkdir()
    exposed = graph.load(folder / MODEL_FILE, weights=False)
    for name in onnx_file.inspect(folder / MODEL_FILE).external:
        place(folder / name, scratch / name)
    there = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    onnx.save(exposed, str(scratch / MODEL_FILE))
    session = GraphSession(scratch / MODEL_FILE, threads, names)
    source = Graph(folder, threads)
    return [dict(zip(names, map(np.asarray, session.values(source.feed(batch))), strict=True)) for batch in batches]
