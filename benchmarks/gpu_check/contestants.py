"""How each contestant computes a batch: from device buffers alone, and from host memory to host memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.model import checkpoint

Batch = Mapping[str, NDArray[np.int64]]
Call = Callable[[], Any]

#: PyTorch's rows: name → precision, and the mode of ``torch.compile`` or none.
TORCH = {
    "torch fp32": ("float32", ""),
    "torch tf32": ("float32", ""),
    "torch fp16": ("float16", ""),
    "torch bf16": ("bfloat16", ""),
}
COMPILED = {
    "torch.compile fp32": ("float32", "default"),
    "torch.compile fp16": ("float16", "default"),
    "torch.compile fp16, CUDA graphs": ("float16", "reduce-overhead"),
}


class TorchModel:
    """A checkpoint in PyTorch on a device.

    Args:
        folder: The checkpoint.
        kind: Name of PyTorch's type that it computes in.
        mode: Mode of ``torch.compile``; empty for eager.
        device: ``cuda`` or ``cpu``.
        tf32: Let fp32 products round to TF32.
    """

    def __init__(self, folder: Path, kind: str, mode: str, device: str, *, tf32: bool = False) -> None:
        import torch

        self._torch: Any = torch
        self._device, self._tf32 = device, tf32
        self._model: Any = checkpoint.load_model(folder).to(device=device, dtype=getattr(torch, kind))
        self._call: Any = torch.compile(self._model, mode=mode, dynamic=False) if mode else self._model
        segments = int(getattr(self._model.config, "type_vocab_size", 0) or 0)
        self.inputs = ("input_ids", "attention_mask", "token_type_ids")[: 3 if segments > 1 else 2]

    def on_device(self, batch: Batch) -> Call:
        """A call that reads what lies on the device and waits for its end."""
        inputs = self._moved(batch)

        def call() -> None:
            self._forward(inputs)
            self._wait()

        return call

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of a batch of host memory, as sessions do."""
        return {"logits": self._forward(self._moved(batch)).float().cpu().numpy()}

    def _moved(self, batch: Batch) -> dict[str, Any]:
        return {name: self._torch.from_numpy(batch[name]).to(self._device) for name in self.inputs}

    def _forward(self, inputs: Mapping[str, Any]) -> Any:
        torch = self._torch
        torch.backends.cuda.matmul.allow_tf32 = self._tf32
        with torch.inference_mode():
            return self._call(**inputs).logits

    def _wait(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()


def stays(model: Any) -> bool:
    """Whether it can be timed without copies: plans of TensorRT copy in the same stream as they compute."""
    return isinstance(model, TorchModel) or hasattr(model, "bindings")


def on_device(model: Any, batch: Batch) -> Call:
    """A call without copies: of PyTorch, or of an ONNX Runtime session that is bound to device buffers.

    A session on the processor has no buffers of its own: there, in a rehearsal, it is the call with copies.
    """
    if isinstance(model, TorchModel):
        return model.on_device(batch)
    if model.bindings is None:
        return with_copies(model, batch)
    call: Call = model.bindings.bind(model.feed(batch)).run
    return call


def with_copies(model: Any, batch: Batch) -> Call:
    """A call from host memory to host memory."""
    return lambda: model.run(batch)
