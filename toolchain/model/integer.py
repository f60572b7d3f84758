"""Quantized layers as ONNX has them: integers, steps, and QuantizeLinear/DequantizeLinear pairs around products.

``QuantizedLinear`` becomes ``MatMul(DQ(Q(x)), DQ(W)) + b`` with W as int8, ``[in, out]``, and a lookup
``Gather(DQ(T), i)``: the form that every engine's int8 kernels are found by. Steps and zero points are the trained
ones. Weights whose levels are no integers stay floats, rounded. Uniform weights of 4 bits and fewer stand in the
file as int4, two to a byte, which operator set 21 has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from toolchain.core.errors import require
from toolchain.model import quantized
from toolchain.model.shapes import replace

#: Operator set with int4.
INT4_OPSET = 21

#: Version of the quantization operators that the exporter notes; those of int8 are the same since.
_VERSION = 20


def lower(model: Any) -> bool:
    """Puts what is exported in the places of a model's quantized layers; it can be traced, and no longer be run.

    Args:
        model: A sequence classifier.

    Returns:
        Whether there were any.
    """
    found = quantized.layers(model)
    quantizers: dict[Any, _Pair] = {}
    for name, module in found.items():
        if isinstance(module, quantized.QuantizedEmbedding):
            replace(model, name, _Lookup(module))
        else:
            # Layers that read one tensor through one quantizer read one pair.
            pair = quantizers.setdefault(module.reads, _Pair(module.reads)) if module.reads is not None else None
            replace(model, name, _Product(module, pair))
    return bool(found)


def least_opset(model: Any) -> int:
    """The least operator set that a quantized model is exported with."""
    return INT4_OPSET if any(_narrow(module.weights) for module in quantized.layers(model).values()) else 1


def _narrow(quantizer: quantized.WeightQuantizer) -> bool:
    return quantizer.format.levels == "uniform" and quantizer.format.bits <= 4


def finish(model: Any) -> None:
    """Merges pairs that round one tensor alike, and packs weights of 4 bits two to a byte.

    Args:
        model: The exported ``onnx_ir.Model``.
    """
    require("onnx_ir.passes.common", "torch").CommonSubexpressionEliminationPass()(model)
    ir = require("onnx_ir", "torch")
    narrow = require("ml_dtypes", "torch").int4
    for name, value in list(model.graph.initializers.items()):
        if not name.endswith(f".{_NARROW}"):
            continue
        packed = ir.tensor(value.const_value.numpy().astype(narrow), name=name)
        value.const_value, value.dtype = packed, packed.dtype


@contextmanager
def reading_floats(model: Any) -> Iterator[None]:
    """Inside of it, a quantized model rounds its weights alone."""
    quantizers = [module for module in model.modules() if isinstance(module, quantized.ActivationQuantizer)]
    for module in quantizers:
        module.idle = True
    try:
        yield
    finally:
        for module in quantizers:
            module.idle = False


def without_pairs(source: Path, target: Path) -> None:
    """Writes a graph in which activations are not rounded.

    Args:
        source: An ``.onnx`` file.
        target: The file to write.
    """
    ir = require("onnx_ir", "torch")
    model = ir.load(source)
    for node in list(model.graph):
        quantize = node.inputs[0].producer() if node.op_type == "DequantizeLinear" else None
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            ir.convenience.replace_all_uses_with(node.outputs[0], quantize.inputs[0])
    require("onnx_ir.passes.common", "torch").RemoveUnusedNodesPass()(model)
    beside = source.with_name(f"{source.name}.data")
    ir.save(model, target, external_data=beside.name if beside.is_file() else None)


#: Name of buffers that hold a weight of at most 4 bits.
_NARROW = "int4"


class _Pair(torch.nn.Module):  # type: ignore[misc]
    """Q and DQ of what a layer reads."""

    def __init__(self, source: quantized.ActivationQuantizer) -> None:
        super().__init__()
        self.dtype = torch.int8 if source.format.symmetric else torch.uint8
        self.register_buffer("step", source.log_step.detach().exp()[0].clone())
        self.register_buffer("zero", source.zero[0].to(self.dtype))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        whole = _operator("QuantizeLinear", (values, self.step, self.zero), self.dtype, values.shape)
        return _operator("DequantizeLinear", (whole, self.step, self.zero), torch.float32, values.shape)


class _Weight(torch.nn.Module):  # type: ignore[misc]
    """A constant matrix: DQ of integers, or floats where its levels are none."""

    def __init__(self, quantizer: quantized.WeightQuantizer, weight: torch.Tensor, *, turned: bool) -> None:
        super().__init__()
        values, step = quantizer.integers(weight)
        form = quantizer.format
        self.axis = None if step.numel() == 1 else int(turned)
        self.name = ""
        if form.levels == "table" and not form.top:
            whole = values * (step[:, None] if step.numel() > 1 else step)
            self.register_buffer("floats", (whole.T if turned else whole).contiguous())
            return
        whole = values.round().to(torch.int8)
        self.name = _NARROW if _narrow(quantizer) else "int8"
        self.register_buffer(self.name, (whole.T if turned else whole).contiguous())
        self.register_buffer("step", step[0].clone() if step.numel() == 1 else step.clone())

    def forward(self) -> torch.Tensor:
        if not self.name:
            floats: torch.Tensor = self.floats
            return floats
        whole: torch.Tensor = getattr(self, self.name)
        attributes = {} if self.axis is None else {"axis": self.axis}
        return _operator("DequantizeLinear", (whole, self.step), torch.float32, whole.shape, attributes)


class _Product(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, source: quantized.QuantizedLinear, pair: _Pair | None) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight = _Weight(source.weights, source.weight, turned=True)
        self.pair, self.bias = pair, source.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = torch.matmul(values if self.pair is None else self.pair(values), self.weight())
        return found if self.bias is None else found + self.bias


class _Lookup(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, source: quantized.QuantizedEmbedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = source.num_embeddings, source.embedding_dim
        self.weight = _Weight(source.weights, source.weight, turned=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(ids, self.weight())


def _operator(
    kind: str, inputs: tuple[torch.Tensor, ...], dtype: Any, shape: Any, attributes: dict[str, int] | None = None
) -> torch.Tensor:
    made: torch.Tensor = torch.onnx.ops.symbolic(
        kind, inputs, attributes or {}, dtype=dtype, shape=shape, version=_VERSION
    )
    return made
