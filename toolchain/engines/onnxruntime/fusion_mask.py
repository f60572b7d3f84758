"""Tells whether what is added to attention scores is the padding mask and nothing else, by running it.

An exporter spells ``(1 - mask)·(-3.4e38)`` in a dozen operators, differently in every release. Its part of the graph
depends on the inputs alone and is small, so it is cut out and run on masks that leave no other reading: random ones, of
several shapes, with holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolchain.core.errors import require

#: The largest part of a graph that is still a mask.
MAX_NODES = 64

#: What is added to a masked score must at least outweigh any real score: e^-1000 is 0 in fp32.
MASKED = -1000.0

#: Shapes ``[batch, tokens]`` that the mask is run at.
#: the long ones tell a window of attention, which short texts do not reach the end of, from padding.
_SHAPES = ((1, 1), (1, 6), (2, 5), (3, 9), (5, 4), (2, 300), (1, 1025))


def is_padding_mask(model: Any, value: Any) -> bool:
    """Whether a value is 0 where ``attention_mask`` is 1, and below -1000 where it is 0, for every query.

    Args:
        model: The ``onnx_ir.Model`` that the value belongs to.
        value: What is added to scores ``[batch, heads, queries, keys]``.
    """
    import numpy as np

    part = _part(model, value)
    if part is None:
        return False
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        for mask in _masks():
            feed = {
                item.name: (mask if item.name == "attention_mask" else np.ones_like(mask)).astype(
                    np.int32 if item.type == "tensor(int32)" else np.int64
                )
                for item in session.get_inputs()
            }
            added = session.run(None, feed)[0]
            if added.ndim != 4 or added.shape[0] not in (1, len(mask)) or added.shape[1] != 1:
                return False
            keep = np.broadcast_to(mask[:, None, None, :] == 1, (len(mask), *added.shape[1:3], mask.shape[1]))
            full = np.broadcast_to(added, keep.shape)
            if not ((full[keep] == 0).all() and (full[~keep] <= MASKED).all()):
                return False
    except Exception:  # ONNX Runtime's errors share no base class; a part that cannot be run is not known to be a mask
        return False
    return True


def _masks() -> Iterator[Any]:
    """Masks, ``[batch, tokens]`` int64, whose every row keeps its first token."""
    import numpy as np

    generator = np.random.default_rng(0)
    for shape in _SHAPES:
        yield np.ones(shape, dtype=np.int64)
        mask = generator.integers(0, 2, shape)
        mask[:, 0] = 1
        yield mask.astype(np.int64)


def _part(model: Any, value: Any) -> bytes | None:
    """The nodes that a value depends on, as a model of its own; None when they are many, or more than the inputs."""
    ir = require("onnx_ir", "torch")
    inputs = {item for item in model.graph.inputs if item.name in ("attention_mask", "input_ids", "token_type_ids")}
    used: set[Any] = set()
    nodes: set[Any] = set()
    constants: set[Any] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        node = current.producer()
        if current in inputs:
            used.add(current)
        elif current.const_value is not None:
            constants.add(current)
        elif node is None or len(nodes) > MAX_NODES:
            return None
        elif node not in nodes:
            nodes.add(node)
            pending += [item for item in node.inputs if item is not None]
    if not any(item.name == "attention_mask" for item in used):
        return None
    onnx = require("onnx", "torch")
    ordered = [ir.to_proto(node) for node in model.graph if node in nodes]
    read = [item for item in model.graph.inputs if item in used]
    graph = onnx.helper.make_graph(
        ordered,
        "mask",
        [onnx.helper.make_tensor_value_info(item.name, _type(item, "INT64"), ["batch", "tokens"]) for item in read],
        [onnx.helper.make_tensor_value_info(value.name, _type(value, "FLOAT"), None)],
        [ir.to_proto(_named(item)) for item in sorted(constants, key=lambda item: item.name)],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    made = onnx.helper.make_model(graph, opset_imports=imports, ir_version=min(model.ir_version, 10))
    found: bytes = made.SerializeToString()
    return found


def _type(value: Any, otherwise: str) -> int:
    """ONNX's number of a value's type."""
    return int(value.dtype if value.dtype is not None else getattr(require("onnx_ir", "torch").DataType, otherwise))


def _named(value: Any) -> Any:
    """A constant's tensor under the name by which nodes read it."""
    ir = require("onnx_ir", "torch")
    return ir.tensor(value.const_value.numpy(), name=value.name)
