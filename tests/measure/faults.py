"""Real graphs with one thing wrong in each: what the gates have to find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def copied(source: Path, out: Path) -> Path:
    """A folder that may be changed."""
    return Path(shutil.copytree(source, out))


def edited(source: Path, out: Path, change: Callable[[Any], None], dialect: str = "") -> Path:
    """A copy of an ONNX or engine folder whose graph a function has changed."""
    copied(source, out)
    model = onnx.load(out / "model.onnx")
    change(model)
    onnx.save(model, out / "model.onnx")
    if dialect:
        interface = json.loads((out / "interface.json").read_text())
        (out / "interface.json").write_text(json.dumps(interface | {"dialect": dialect}))
    return out


def scale_weight(name: str, factor: float) -> Callable[[Any], None]:
    """Multiplies one weight."""

    def change(model: Any) -> None:
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), name))

    return change


def ignore_mask(model: Any) -> None:
    """Every token counts, padding too: whatever read the mask now reads ones."""
    readers = [node for node in model.graph.node if "attention_mask" in node.input]
    assert readers
    for node in readers:
        node.input[list(node.input).index("attention_mask")] = "mask.ones"
    kind = next(item for item in model.graph.input if item.name == "attention_mask").type.tensor_type.elem_type
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    for name, value in (("mask.zero", 0), ("mask.one", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, numpy_kind), name))
    nothing = helper.make_node("Mul", ["attention_mask", "mask.zero"], ["mask.zeros"], name="mask.nothing")
    ones = helper.make_node("Add", ["mask.zeros", "mask.one"], ["mask.ones"], name="mask.everything")
    nodes = [nothing, ones, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def weights_of(folder: Path) -> list[tuple[str, str]]:
    """``(name, node)`` of each weight of two dimensions that a matrix product reads, and that product, in order."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    found = [
        (name, node.name)
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        for name in node.input
        if name in matrices
    ]
    assert found
    return found
