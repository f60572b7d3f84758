"""The tiny models' graphs in every precision that TensorRT takes; each is made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.builders import context
from tests.optimize.variants import exported
from tests.shared import once
from toolchain.core.registry import get

STATIC = {"calibration": "min_max", "calibration_samples": 8}
PASSES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "fp32": [],
    "fp16": [("fp16", {})],
    "int8": [("static_int8", STATIC)],
    "fp8": [("fp16", {}), ("static_fp8", {"calibration_samples": 8})],
}


def graph_folder(family: str, precision: str) -> Path:
    """The tiny model's graph in a precision; made once."""
    return once(f"plan-graph-{family}-{precision}", lambda out: _graph(family, precision, out))


def _graph(family: str, precision: str, out: Path) -> None:
    shutil.copytree(exported(family), out, dirs_exist_ok=True)
    for name, settings in PASSES[precision]:
        module = get("optimize", name).module
        made = out / "made"
        made.mkdir()
        module.apply(out, made, module.Config(**settings), context(out))
        (made / "model.onnx").replace(out / "model.onnx")
        shutil.rmtree(made)
