"""Int8 products on processors without VNNI: which pairs overflow 16 bits, by the weights alone and on real text.

``vpmaddubsw``, the instruction of AVX2 and AVX-512 without VNNI, multiplies unsigned activations ``a`` by signed
weights ``b`` and adds neighbours of the inner dimension in 16 bits, saturating::

    min(max(a[2j]·b[2j, n] + a[2j+1]·b[2j+1, n], −32768), 32767)

With ``|b[2j, n]| + |b[2j+1, n]| ≤ 128`` no activation can overflow it (255 · 128 < 32768): that is what
``reduce_range``, weights of 7 bits, is for. VNNI and AMX add in 32 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import require
from toolchain.measure.divergence import exposed_values
from toolchain.measure.parity import MODEL_FILE, Texts
from toolchain.model import graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The largest sum of two neighbouring weights' magnitudes that no pair of unsigned bytes can overflow.
SAFE = 128

LOWEST, HIGHEST = -(2**15), 2**15 - 1

#: Pairs that are multiplied at a time: 64 kB for each token.
CHUNK = 1 << 14


@dataclass(frozen=True)
class Product:
    """A matrix product of quantized activations with constant 8-bit weights.

    Attributes:
        name: Its node.
        activations: Name of the quantized activations, uint8 or int8, ``[…, K]``.
        weights: ``[K, N]``, int8 or uint8.
    """

    name: str
    activations: str
    weights: NDArray[Any]


def count(folder: Path, texts: Texts, threads: int, scratch: Path) -> dict[str, Any]:
    """Counts pairs of weights that can overflow, and results that do on real text.

    Int8 activations count as ONNX Runtime and oneDNN compute them: shifted by 128.

    Args:
        folder: Folder of a quantized graph, as it was before any runtime fused it.
        texts: Real examples, run one at a time.
        threads: Threads that compute.
        scratch: Where to write the graph with its activations exposed.

    Returns:
        ``products`` (matrix products), ``pairs`` (of weights), ``risky`` (those that can overflow), ``results`` (of the
        risky products on the texts), ``saturated`` (results in which a pair overflows) and ``worst`` (the node with the
        largest share of them).
    """
    # Two unsigned bytes are multiplied by another instruction, which adds in 32 bits.
    found = [each for each in products(graph.load(folder / MODEL_FILE)) if each.weights.dtype == np.int8]
    risky = {product.name: risky_pairs(product.weights) for product in found}
    exposed = [product for product in found if len(risky[product.name][0])]
    rows: dict[str, list[NDArray[np.int32]]] = {product.activations: [] for product in exposed}
    with tempfile.TemporaryDirectory(prefix="saturation-", dir=scratch) as place:
        batches = [[text] for text in texts]
        for values in exposed_values(folder, list(rows), batches, threads, Path(place) / "graph") if exposed else ():
            for name, value in values.items():
                rows[name].append(unsigned(value))
    shares, results, saturated = {}, 0, 0
    for product in exposed:
        activations = np.concatenate(rows[product.activations])
        hit = saturating(activations, product.weights, risky[product.name])
        total = len(activations) * product.weights.shape[1]
        shares[product.name] = hit / total
        results, saturated = results + total, saturated + hit
    return {
        "products": len(found),
        "pairs": sum(product.weights.size // 2 for product in found),
        "risky": sum(len(risky[product.name][0]) for product in found),
        "results": results,
        "saturated": saturated,
        "worst": max(shares, key=lambda name: shares[name]) if saturated else None,
    }


def products(model: Any) -> Iterator[Product]:
    """The products of 8-bit weights in a graph: integer operators, and Q/DQ pairs around MatMul and Gemm."""
    onnx = require("onnx", "torch")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}

    def constant(name: str) -> NDArray[Any] | None:
        return onnx.numpy_helper.to_array(constants[name]) if name in constants else None

    def quantized(name: str, kind: str) -> str:
        maker = makers.get(name)
        return str(maker.input[0]) if maker is not None and maker.op_type == kind else ""

    for node in model.graph.node:
        activations, weights = "", None
        if node.op_type in ("MatMulInteger", "MatMulIntegerToFloat"):
            activations, weights = node.input[0], constant(node.input[1])
        elif node.op_type == "QLinearMatMul":
            activations, weights = node.input[0], constant(node.input[3])
        elif node.op_type in ("MatMul", "Gemm"):
            activations = quantized(node.input[0], "DequantizeLinear")
            weights = constant(quantized(node.input[1], "DequantizeLinear"))
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            weights = weights.T if weights is not None and turned else weights
        if activations and weights is not None and weights.dtype in (np.int8, np.uint8) and weights.ndim == 2:
            yield Product(node.name or node.output[0], activations, weights)


def risky_pairs(weights: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of neighbouring weights that some activations can overflow: rows ``j`` of the pair, and columns ``n``."""
    magnitudes = np.abs(_paired(weights).astype(np.int16))
    rows, columns = np.nonzero(magnitudes.sum(axis=1) > SAFE)
    return rows, columns


def saturating(
    activations: NDArray[np.int32], weights: NDArray[np.int8], pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> int:
    """How many results of a product hold a pair that overflows.

    Args:
        activations: ``[rows, K]``, 0 to 255.
        weights: ``[K, N]``.
        pairs: The pairs to look at, as :func:`risky_pairs` gives them.
    """
    paired = _paired(weights).astype(np.int32)
    even, odd = _even(activations)[:, 0::2], _even(activations)[:, 1::2]
    hit = np.zeros((len(activations), weights.shape[1]), bool)
    for start in range(0, len(pairs[0]), CHUNK):
        rows, columns = pairs[0][start : start + CHUNK], pairs[1][start : start + CHUNK]
        sums = even[:, rows] * paired[rows, 0, columns] + odd[:, rows] * paired[rows, 1, columns]
        where, which = np.nonzero((sums > HIGHEST) | (sums < LOWEST))
        hit[where, columns[which]] = True
    return int(hit.sum())


def unsigned(activations: NDArray[Any]) -> NDArray[np.int32]:
    """Quantized activations ``[…, K]`` as rows of 0 to 255."""
    shift = 128 if activations.dtype == np.int8 else 0
    return activations.reshape(-1, activations.shape[-1]).astype(np.int32) + shift


def _paired(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights ``[K, N]`` as pairs of neighbouring rows, ``[K / 2, 2, N]``."""
    filled = np.pad(weights, ((0, len(weights) % 2), (0, 0)))
    return filled.reshape(len(filled) // 2, 2, weights.shape[1])


def _even(activations: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.pad(activations, ((0, 0), (0, activations.shape[1] % 2)))
