"""2:4 sparsity of ONNX weights: two of every four numbers that an output sums up are zero, for sparse tensor cores.

A product ``Y = X·W`` with ``W`` ``[inputs, outputs]`` is summed along the inputs, so the fours lie along that axis. See
Mishra et al., arXiv 2104.08378.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Numbers of a group, and how many of them may be other than zero.
GROUP, KEPT = 4, 2


@dataclass(frozen=True)
class Matrix:
    """A weight that a product reads.

    Attributes:
        tensor: The ``TensorProto``.
        axis: The axis that products sum over.
        nodes: The products that read it.
    """

    tensor: Any
    axis: int
    nodes: tuple[str, ...]

    @property
    def values(self) -> NDArray[Any]:
        """The weight."""
        found: NDArray[Any] = require("onnx", "torch").numpy_helper.to_array(self.tensor)
        return found


def matrices(model: Any) -> Iterator[Matrix]:
    """Two-dimensional weights of products, quantized ones too, each once; those that are read along both axes are left.

    Args:
        model: An ``onnx.ModelProto``.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    made = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, dict[int, list[str]]] = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        name, axis = _source(node.input[1], int(turned), made, tensors)
        if name in tensors:
            found.setdefault(name, {}).setdefault(axis, []).append(node.name)
    for name, axes in found.items():
        if len(axes) == 1:
            ((axis, nodes),) = axes.items()
            yield Matrix(tensors[name], axis, tuple(nodes))


def keep(weight: NDArray[Any], axis: int) -> NDArray[np.bool_]:
    """Which numbers stay: the two of largest magnitude of every four along an axis, the earlier of equal ones.

    Args:
        weight: A matrix; its size along the axis is a multiple of four.
        axis: The axis that products sum over.
    """
    moved = np.moveaxis(np.abs(weight), axis, -1)
    fours = moved.reshape(*moved.shape[:-1], -1, GROUP)
    order = np.argsort(-fours, axis=-1, kind="stable")
    mask = np.zeros(fours.shape, dtype=bool)
    np.put_along_axis(mask, order[..., :KEPT], True, axis=-1)
    return np.moveaxis(mask.reshape(moved.shape), -1, axis)


def is_sparse(weight: NDArray[Any], axis: int) -> bool:
    """Whether at most two of every four numbers along an axis are other than zero."""
    if weight.shape[axis] % GROUP:
        return False
    moved = np.moveaxis(weight, axis, -1)
    fours = moved.reshape(*moved.shape[:-1], -1, GROUP)
    return bool(((fours != 0).sum(axis=-1) <= KEPT).all())


def _source(name: str, axis: int, made: Mapping[str, Any], tensors: Mapping[str, Any]) -> tuple[str, int]:
    """The initializer that a product's weight comes from, past Q/DQ, casts and transposes, and the axis in it."""
    while name not in tensors and name in made:
        node = made[name]
        if node.op_type == "Transpose":
            axis = 1 - axis
        elif node.op_type not in ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity"):
            break
        name = node.input[0]
    return name, axis
