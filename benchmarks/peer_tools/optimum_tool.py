"""Optimum: its export, its ``ORTOptimizer`` (O2, O3) and its ``ORTQuantizer`` for AVX512-VNNI, dynamic and static.

Settings: ``level`` (``O2``, ``O3`` or nothing), ``quantize`` (``dynamic``, ``static`` or nothing). The static run
leaves layer norm, GELU and the residual sums in float, as Optimum's own text-classification example does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))
from peer_tools.shared import Asked, batches, main


def work(asked: Asked, out: Path) -> Sequence[str]:
    """Exports, optimizes and quantizes; one ONNX file."""
    from optimum.onnxruntime import AutoOptimizationConfig, ORTModelForSequenceClassification, ORTOptimizer

    model: Any = ORTModelForSequenceClassification.from_pretrained(asked["checkpoint"], export=True)
    folder, name = Path("exported"), "model.onnx"
    model.save_pretrained(folder)
    if asked["level"]:
        level = getattr(AutoOptimizationConfig, asked["level"])()
        ORTOptimizer.from_pretrained(model).optimize(save_dir="optimized", optimization_config=level)
        folder, name = Path("optimized"), "model_optimized.onnx"
    if asked["quantize"]:
        _quantize(asked, folder, name)
        folder, name = Path("quantized"), f"{Path(name).stem}_quantized.onnx"
    (folder / name).replace(out / "model.onnx")
    return ["model.onnx"]


def _quantize(asked: Asked, folder: Path, name: str) -> None:
    import onnx
    from datasets import Dataset
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig
    from optimum.onnxruntime.preprocessors import QuantizationPreprocessor
    from optimum.onnxruntime.preprocessors.passes import (
        ExcludeGeLUNodes,
        ExcludeLayerNormNodes,
        ExcludeNodeAfter,
        ExcludeNodeFollowedBy,
    )

    quantizer = ORTQuantizer.from_pretrained(folder, file_name=name)
    static = asked["quantize"] == "static"
    settings = AutoQuantizationConfig.avx512_vnni(is_static=static, per_channel=True)
    if not static:
        quantizer.quantize(settings, save_dir="quantized")
        return
    preprocessor = QuantizationPreprocessor()
    for found in (
        ExcludeLayerNormNodes(), ExcludeGeLUNodes(), ExcludeNodeAfter("Add", "Add"), ExcludeNodeAfter("Gather", "Add"),
        ExcludeNodeFollowedBy("Add", "Softmax"),
    ):  # fmt: skip
        preprocessor.register_pass(found)
    inputs = [value.name for value in onnx.load(str(folder / name)).graph.input]
    rows = [{n: value[0].tolist() for n, value in batch.items()} for batch in batches(asked, 1, inputs)]
    data = Dataset.from_list(rows)
    ranges = quantizer.fit(
        data, AutoCalibrationConfig.minmax(data), operators_to_quantize=settings.operators_to_quantize
    )
    quantizer.quantize(settings, "quantized", calibration_tensors_range=ranges, preprocessor=preprocessor)


if __name__ == "__main__":
    main(work, ("optimum-onnx", "optimum", "onnxruntime", "onnx", "torch", "transformers"))
