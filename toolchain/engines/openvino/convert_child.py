"""ONNX → OpenVINO IR in a process of its own: a graph that keeps the converter busy for ever is ended with it.

It imports only the standard library and OpenVINO; :mod:`toolchain.engines.openvino.ir` runs it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import openvino as ov
from openvino import _offline_transformations as transformations


def main() -> None:
    """Convert a graph, and write what inputs it has; nothing is converted whose inputs a session could not fill."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = ov.Core().read_model(request["source"])
    # What OpenVINO's own converter does after reading; read_model alone sends no telemetry and tries no other format.
    transformations.apply_moc_transformations(model, False)
    inputs = {item.get_any_name(): item.get_element_type().get_type_name() for item in model.inputs}
    if "input_ids" in inputs and set(inputs) <= set(request["known"]):
        _name(model, request["named"])
        ov.save_model(model, request["graph"], compress_to_fp16=request["compress"])
    Path(sys.argv[2]).write_text(json.dumps({"inputs": inputs}), encoding="utf-8")


def _name(model: Any, named: list[str]) -> None:
    """Name nodes after their place where OpenVINO counted them through the process, or where we look for them.

    The executed graph tells what was fused by the names of what it was fused from.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind in named or re.fullmatch(r"[A-Z][A-Za-z0-9]*_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}.{index}")


if __name__ == "__main__":
    main()
