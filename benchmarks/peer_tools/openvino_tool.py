"""OpenVINO and NNCF: an IR in int8 by ``nncf.quantize`` for transformers, which smooths, or as it was converted.

Settings: ``frontend`` (``onnx``: from a TorchScript export; ``pytorch``: from the model itself, with its fused
attention), ``quantize`` (whether to), ``fast`` (biases corrected by each layer's own error, NNCF's default, or slowly).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))
from peer_tools.shared import Asked, batches, export, load, main, names


def work(asked: Asked, out: Path) -> Sequence[str]:
    """Converts and quantizes; an IR and its weights."""
    import nncf
    import openvino as ov

    model: Any
    if asked["frontend"] == "onnx":
        export(asked, Path("exported.onnx"))
        model = ov.convert_model("exported.onnx")
        inputs: Sequence[str] = [value.get_any_name() for value in model.inputs]
    else:
        model, inputs = _converted(asked)
    if asked["quantize"]:
        model = nncf.quantize(
            model, nncf.Dataset(list(batches(asked, 1, inputs))), model_type=nncf.ModelType.TRANSFORMER,
            fast_bias_correction=asked["fast"], subset_size=asked["calibrated"],
        )  # fmt: skip
    ov.save_model(model, str(out / "model.xml"), compress_to_fp16=False)
    return ["model.xml", "model.bin"]


def _converted(asked: Asked) -> tuple[Any, tuple[str, ...]]:
    import openvino as ov
    import torch

    classifier = load(asked)
    inputs = names(classifier)
    example = {name: torch.tensor(value) for name, value in next(batches(asked, 2, inputs)).items()}
    shape = ov.PartialShape([-1, -1])
    model = ov.convert_model(classifier, example_input=example, input={name: (shape, ov.Type.i64) for name in inputs})
    given = {name for value in model.inputs for name in value.get_names()}
    lost = [name for name in inputs if name not in given]  # by its trace, in the order of forward
    for value in model.inputs:  # one name each: a trace may number an input beside its name
        value.get_tensor().set_names(value.get_names() & set(inputs) or {lost.pop(0)})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model, inputs


if __name__ == "__main__":
    main(work, ("openvino", "nncf", "onnx", "torch", "transformers"))
