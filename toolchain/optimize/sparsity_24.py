"""2:4 sparsity by magnitude: in every four weights that a product sums over, the two smallest become zero.

Sparse tensor cores of NVIDIA GPUs from Ampere on skip those zeros; TensorRT uses them by ``sparse_weights``. See Mishra
et al., arXiv 2104.08378. Without training afterwards it costs accuracy, so layers that suffer stay dense: matrices are
ranked by the share of their weights' energy that they would lose, and as many of them, the least hurt first, become
sparse as keep dev accuracy within ``max_drop`` points of the dense graph's, found by bisection.

Nothing gets smaller: the zeros are stored, in the graph and in every engine. On a CPU nothing gets faster either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from toolchain import kinds
from toolchain.core.errors import ModelError, RecipeError
from toolchain.core.log import logger, progress
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.model import graph, two_four
from toolchain.optimize.shared import half, int8
from toolchain.optimize.shared.dev_accuracy import dev_accuracy, dev_batches

VERSION = 1
LIBRARIES = ("onnx", "onnxruntime")
TAKES = ("standard",)
GIVES = "standard"
AGREEMENT = 0.9
METHOD = "pruned"

#: It masks single precision.
requires = half.refusal


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of 2:4 sparsity.

    Attributes:
        max_drop: Points of dev accuracy that may be lost; matrices that cost more stay dense.
        samples: Dev sentences by which that is judged.
        exclude: Products, or weights, that stay dense: names or shell patterns.
    """

    max_drop: Annotated[float, Ge(0), Le(100)] = 0.5
    samples: Annotated[int, Ge(1), Le(100_000)] = 1000
    exclude: tuple[str, ...] = ()


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Masks the weights of ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard``, its tokenizer and interface.
        out: Folder to write.
        config: Settings.
        context: Dev sentences to judge by.

    Returns:
        nodes, parameters, sparse: matrices that became 2:4; dense: names of those that stayed, and could be; zeros: the
        weights that became zero; dev_accuracy and float_dev_accuracy, in percent, on the samples.

    Raises:
        ModelError: No matrix can be 2:4, or the model's labels are not the task's.
        RecipeError: An exclusion matches nothing.
    """
    path = source / "model.onnx"
    model = int8.load_float(path)
    chosen = _candidates(model, config.exclude, path)
    dense = {matrix.tensor.name: matrix.values.copy() for matrix in chosen}
    masks = {matrix.tensor.name: two_four.keep(matrix.values, matrix.axis) for matrix in chosen}
    order = sorted(chosen, key=lambda matrix: _lost(dense[matrix.tensor.name], masks[matrix.tensor.name]))
    samples, kind = dev_batches(source, context)[: config.samples], kinds.of_folder(source)

    with progress("sparsity_24", 3 + len(order).bit_length()) as bar:

        def accuracy(count: int) -> float:
            """Dev accuracy with the first so many matrices sparse; the graph stays so."""
            for index, matrix in enumerate(order):
                values, mask = dense[matrix.tensor.name], masks[matrix.tensor.name]
                _put(matrix.tensor, values * mask if index < count else values)
            bar.advance()
            return dev_accuracy(kind, model, samples, context.threads)[0]

        before = accuracy(0)
        count = _most(len(order), before - config.max_drop / 100, accuracy)
        after = accuracy(count)
    kept = [matrix.nodes[0] for matrix in order[count:]]
    if kept:
        logger.info(
            "    sparsity_24: %d of %d matrices stay dense: %s",
            len(kept),
            len(order),
            ", ".join([*kept[:4], *["…"][: len(kept) > 4]]),
        )
    graph.save(model, out / "model.onnx")
    zeros = sum(int((~masks[matrix.tensor.name]).sum()) for matrix in order[:count])
    return {
        "nodes": len(model.graph.node),
        "parameters": graph.parameters(model),
        "sparse": count,
        "dense": kept,
        "zeros": zeros,
        "float_dev_accuracy": before * 100,
        "dev_accuracy": after * 100,
    }


def _candidates(model: Any, exclude: Sequence[str], path: Path) -> list[two_four.Matrix]:
    """The matrices that may become 2:4."""
    found = [
        matrix
        for matrix in two_four.matrices(model)
        if matrix.tensor.dims[matrix.axis] % two_four.GROUP == 0 and matrix.tensor.data_type == 1
    ]
    unused = [
        pattern
        for pattern in exclude
        if not any(fnmatchcase(name, pattern) for m in found for name in (*m.nodes, m.tensor.name))
    ]
    if unused:
        names = ", ".join(node for matrix in found[:6] for node in matrix.nodes[:1])
        raise RecipeError(f"sparsity_24: exclude: {unused[0]!r} matches no product of {path}", f"there are: {names}, …")
    kept = [m for m in found if not any(fnmatchcase(name, p) for p in exclude for name in (*m.nodes, m.tensor.name))]
    if not kept:
        raise ModelError(
            f"{path} has no fp32 matrix whose inputs are a multiple of {two_four.GROUP} and that is not excluded",
            "put sparsity_24 before fp16, bf16 and quantization, exclude less, or take it out",
        )
    return kept


def _most(total: int, least: float, accuracy: Callable[[int], float]) -> int:
    """How many of the first matrices may be sparse, taking accuracy to fall with their number.

    Args:
        total: All of them.
        least: The least accuracy, 0 to 1.
        accuracy: Gives it for the first so many.
    """
    if accuracy(total) >= least - 1e-9:
        return total
    low, high = 0, total  # low holds, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accuracy(middle) >= least - 1e-9 else (low, middle)
    return low


def _lost(values: Any, mask: Any) -> float:
    """The share of a matrix's energy that its smallest two of four hold."""
    squares = np.square(values, dtype=np.float64)
    return float((squares * ~mask).sum() / max(float(squares.sum()), 1e-30))


def _put(tensor: Any, values: Any) -> None:
    tensor.raw_data = np.ascontiguousarray(values, dtype=np.float32).tobytes()
    del tensor.float_data[:]
