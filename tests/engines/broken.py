"""Graphs that no engine takes."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.builders import tiny_onnx_folder


def unknown_operator(path: Path) -> Path:
    """The small model with an operator that no runtime has, ``NoSuchOperator``."""
    source = tiny_onnx_folder(path)
    model = onnx.load(source / "model.onnx")
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "NoSuchOperator"
    onnx.save(model, source / "model.onnx")
    return source


def unknown_input(path: Path) -> Path:
    """The small model with an input named ``words`` instead of ``input_ids``."""
    source = tiny_onnx_folder(path)
    model = onnx.load(source / "model.onnx")
    for names in (node.input for node in model.graph.node):
        for index, name in enumerate(names):
            names[index] = "words" if name == "input_ids" else name
    model.graph.input[0].name = "words"
    onnx.save(model, source / "model.onnx")
    return source
