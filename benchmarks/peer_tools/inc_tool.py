"""Plain Intel Neural Compressor 3.7.1: ``quantization.fit`` on a TorchScript export, with its own defaults.

Settings: ``quantize`` (``static`` or ``dynamic``).
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))
from peer_tools.shared import Asked, batches, export, main


def work(asked: Asked, out: Path) -> Sequence[str]:
    """Exports and quantizes; one ONNX file."""
    _restore_onnx_mapping()
    import onnx
    from neural_compressor import PostTrainingQuantConfig, quantization, set_workspace

    set_workspace("workspace")
    export(asked, Path("exported.onnx"))
    inputs = [value.name for value in onnx.load("exported.onnx").graph.input]
    settings = PostTrainingQuantConfig(approach=asked["quantize"], calibration_sampling_size=[asked["calibrated"]])
    model: Any = quantization.fit("exported.onnx", settings, calib_dataloader=_Loader(asked, inputs))
    if model is None:
        raise RuntimeError("Neural Compressor gave no model; its log says why")
    model.save(str(out / "model.onnx"))
    return ["model.onnx"]


def _restore_onnx_mapping() -> None:
    """Neural Compressor imports a module that onnx has since taken out."""
    import onnx
    from onnx.helper import get_all_tensor_dtypes, tensor_dtype_to_np_dtype

    known = {kind: tensor_dtype_to_np_dtype(kind) for kind in get_all_tensor_dtypes() if kind}
    mapping: Any = types.ModuleType("onnx.mapping")
    mapping.TENSOR_TYPE_TO_NP_TYPE = known
    mapping.NP_TYPE_TO_TENSOR_TYPE = {numpy: kind for kind, numpy in known.items()}
    sys.modules["onnx.mapping"] = onnx.mapping = mapping


class _Loader:
    """Batches with labels that nobody reads, as Neural Compressor wants them."""

    batch_size = 8

    def __init__(self, asked: Asked, inputs: Sequence[str]) -> None:
        self._batches = list(batches(asked, self.batch_size, inputs))

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        return ((batch, 0) for batch in self._batches)


if __name__ == "__main__":
    main(work, ("neural-compressor", "onnxruntime", "onnx", "torch", "transformers"))
