"""ONNX → OpenVINO IR, the same bytes at every build; and what the graph that runs has to have."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core import child, limits
from toolchain.core.errors import EngineError, require
from toolchain.core.session import INPUTS
from toolchain.model import graph

SOURCE_FILE = "model.onnx"
GRAPH_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"

#: Kinds of node that are recognized by name in the executed graph.
NAMED = ("Softmax", "Gelu", "MVN")

_SCRIPT = Path(__file__).parent / "convert_child.py"

#: Operators that move values and change none: a product after one of them still reads quantized values.
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather", "GatherND", "Slice", "Split", "Identity")


@dataclass(frozen=True)
class Expected:
    """What the source graph has, and the executed graph must have.

    Attributes:
        int8_products: Products of a quantized activation and a quantized weight.
        attention: Softmaxes: one for each attention.
        gelu: GELUs, whole or spelled with Erf.
        layer_norm: Layer normalizations.
    """

    int8_products: int
    attention: int
    gelu: int
    layer_norm: int


@functools.cache
def core() -> Any:
    """OpenVINO's Core, the only one of this process.

    Each makes a stack of its own for signal handlers and puts the one before it back when it goes; of two that do not
    go in reverse order, the process is left with a stack that is freed, and the next Ctrl-C ends it with a
    segmentation fault.
    """
    return require("openvino", "openvino").Core()


def expectations(path: Path) -> Expected:
    """Counts, in an ONNX file, what the executed graph must have.

    Args:
        path: The ``.onnx`` file.
    """
    model = graph.load(path, weights=False)
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    kinds = [node.op_type for node in model.graph.node]

    def dequantized(name: str) -> Any:
        """The DequantizeLinear that a value comes from, through operators that only move values."""
        node = producers.get(name)
        while node is not None and node.op_type in _MOVES:
            node = producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    products = 0
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            activation, weight = dequantized(node.input[0]), dequantized(node.input[1])
            constant = weight is not None and weight.input[0] in constants
            products += constant and activation is not None and activation.input[0] not in constants
    return Expected(
        int8_products=products,
        attention=kinds.count("Softmax"),
        gelu=kinds.count("Gelu") + kinds.count("Erf"),
        layer_norm=kinds.count("LayerNormalization"),
    )


def convert(source: Path, out: Path, *, compress: bool) -> None:
    """Writes ``model.xml`` and ``model.bin``.

    A weight that several operators read, as ALBERT's layers do, stands in the file once; int8 weights stay int8.

    Args:
        source: The ``.onnx`` file.
        out: Folder to write.
        compress: Store float weights as fp16.

    Raises:
        EngineError: OpenVINO lacks an operator, or the inputs are none that a session knows.
    """
    ov = require("openvino", "openvino")
    request = {
        "source": str(source.resolve()), "graph": str((out / GRAPH_FILE).resolve()), "compress": compress,
        "known": INPUTS, "named": NAMED,
    }  # fmt: skip
    hint = "a graph of dialect standard or qdq, from this package's export, is one that it takes"
    seconds = limits.limit("convert_seconds")
    with tempfile.TemporaryDirectory(prefix="toolchain-convert-") as work:
        try:
            answer = child.run(
                _SCRIPT, request, python="", work=Path(work), threads=1, what="OpenVINO", limit_s=seconds
            )
        except child.ChildError as error:
            if "was ended after" in error.said:
                hint = limits.way_out("convert_seconds")
            raise EngineError(
                f"OpenVINO {ov.__version__} cannot convert {source}: {reason(error.said)}", hint
            ) from error
    _check_types(answer["inputs"], source)


def check_inputs(model: Any, path: Path) -> None:
    """Refuses inputs that a session could not fill.

    Raises:
        EngineError: An input has another name or type.
    """
    _check_types({item.get_any_name(): item.get_element_type().get_type_name() for item in model.inputs}, path)


def _check_types(types: Mapping[str, str], path: Path) -> None:
    unknown = [name for name, kind in types.items() if name not in INPUTS or kind not in ("i64", "i32")]
    if unknown or "input_ids" not in types:
        listed = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        raise EngineError(f"{path} has the inputs {listed}; known are {', '.join(INPUTS)} as i64 or i32")


def reason(text: str) -> str:
    """Return the line of an OpenVINO error that says why: its first ones only name source files."""
    lines = [line.strip(" -\t") for line in text.splitlines()]
    told = [line for line in lines if line and not re.match(r"(Exception from|Check '|FrontEnd API|Summary:)", line)]
    named = [line for line in told if line.startswith(("No conversion rule", "Conversion is failed", "NotFound"))]
    return (*named, *told, text.strip() or "it gives no reason")[0]
