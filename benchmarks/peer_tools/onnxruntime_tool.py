"""Plain ONNX Runtime: its transformer optimizer, and its dynamic and static quantizers, on a TorchScript export.

Settings: ``fused`` (run ``onnxruntime.transformers.optimizer``), ``quantize`` (``dynamic``, ``static`` or nothing).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))
from peer_tools.shared import Asked, batches, export, main


def work(asked: Asked, out: Path) -> Sequence[str]:
    """Exports, optimizes and quantizes; one ONNX file."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    path, target = Path("exported.onnx"), out / "model.onnx"
    export(asked, path)
    extra: dict[str, Any] = {}
    if asked["fused"]:
        path = _fused(asked, path)
        extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # shapes around fused nodes cannot be inferred
    if asked["quantize"] == "dynamic":
        quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8, extra_options=extra)
    elif asked["quantize"] == "static":
        quantize_static(
            path, target, _Reader(asked, path), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, extra_options=extra,
        )  # fmt: skip
    else:
        path.replace(target)
    return ["model.onnx"]


def _fused(asked: Asked, path: Path) -> Path:
    from onnxruntime.transformers.optimizer import optimize_model

    config = json.loads((Path(asked["checkpoint"]) / "config.json").read_text("utf-8"))
    fused = optimize_model(
        str(path), model_type="bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"]
    )
    fused.save_model_to_file("fused.onnx")
    return Path("fused.onnx")


class _Reader:
    """ONNX Runtime's calibration reader."""

    def __init__(self, asked: Asked, path: Path) -> None:
        import onnx

        inputs = [value.name for value in onnx.load(str(path)).graph.input]
        self._batches = iter(list(batches(asked, 8, inputs)))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


if __name__ == "__main__":
    main(work, ("onnxruntime", "onnx", "torch", "transformers"))
