"""What TensorRT says when a graph, a device or a plan does not fit, as what to change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from toolchain.core.errors import EngineError

SYMMETRIC = (
    "quantize symmetrically: static_int8: {symmetric: true}, inc_static: {symmetric: true}, nncf_static: "
    "{preset: performance}; learned_qat, uniform_qat: {activations: {symmetric: true}}"
)
PLAIN = "build from the graph that export gives, or from one of dialect qdq; ONNX Runtime fuses its own files alone"

#: Patterns of vendor messages, what they mean, and what to change; the first that fits is told.
_KNOWN = (
    (
        r"Non-zero zero point|shiftIsAllZeros|UINT8|DynamicQuantizeLinear",
        "the graph's int8 has zero points, and TensorRT multiplies symmetric int8 alone",
        SYMMETRIC,
    ),
    (
        r"Plugin not found|No importer registered|checkFallbackPluginImporter",
        "the graph has an operator that TensorRT does not know",
        PLAIN,
    ),
    (
        r"Attention operation was not supported|is_decomposable",
        "the graph holds attention as ONNX's own Attention operator (opset 23 and later) in a precision that has no "
        "kernel for it, such as fp32",
        "export: {opset: 21} or lower, or put the pass fp16 behind the export",
    ),
    (
        r"mha_fusion",
        "this form of attention; PyTorch's exporter guards softmax against NaN, which fp16 plans do not take",
        "build from a graph that 'toolchain export' writes, which has no such guard, or leave fp16 out",
    ),
    (
        r"Turing \(SM75\)",
        "compute capability 75 was asked for, whose kernels take fp16 alone",
        "leave 75 out of compute_capabilities, or put the pass fp16 behind the export",
    ),
    (
        r"HW-specific datatypes",
        "the graph is of a precision that one of these GPUs does not multiply; FP8 takes compute capability 89 and up",
        "compute_capabilities: [89, 120], or none of your own; int8 by static_int8 runs from 80 on",
    ),
    (
        r"libnvinfer_lean",
        "a version-compatible plan carries the lean runtime, which is not installed",
        "pip install tensorrt-lean-cu13 of the same version, or version_compatible: false",
    ),
    (
        r"Serialization assertion|serialization version|VERSION_MISMATCH",
        "the plan is of another version of TensorRT, or damaged",
        "build the engine again with the TensorRT that runs it",
    ),
    (
        r"cudaError 35|CUDA driver version is insufficient|CUDA initialization failure|cudaErrorNoDevice|cudaError 100",
        "this needs an NVIDIA driver and a GPU, and there is none",
        "do it on a machine with an NVIDIA GPU, or build for a device by its number: compute_capabilities: [89]",
    ),
    (
        r"CHECK\(status == CUDA_SUCCESS\)|CHECK\(sm_vers_",
        "the builder had to run kernels, which takes an NVIDIA driver and a GPU",
        "build on a machine with an NVIDIA GPU",
    ),
    (
        r"[Oo]ut of memory|cudaErrorMemoryAllocation|insufficient memory",
        "the GPU's memory does not suffice",
        "take smaller batches (batch_sizes), or a smaller max_length",
    ),
    (
        r"compute capability|generated on an incompatible device|UNSUPPORTED_CC",
        "the plan was built for other GPUs",
        "name this GPU in compute_capabilities, or build the engine here",
    ),
)  # fmt: skip


def explained(what: str, path: Path, said: Sequence[str], node: str = "") -> EngineError:
    """An error of ours for what TensorRT said.

    Args:
        what: What it could not do: ``read``, ``build`` or ``load``.
        path: The graph or the plan.
        said: Its messages, the most telling first.
        node: The node that it names.
    """
    text = "\n".join(said)
    at = f", at node {node}" if node else ""
    first = shortened(next((line for line in said if line.strip()), "it did not say why"))
    for pattern, meaning, hint in _KNOWN:
        if re.search(pattern, text):
            return EngineError(f"TensorRT cannot {what} {path}{at}: {meaning} ({first})", hint)
    return EngineError(f"TensorRT cannot {what} {path}{at}: {first}", "build with -v to see all that it says")


def shortened(said: str) -> str:
    """A message without the places in the vendor's source, at most 300 characters of it."""
    plain = re.sub(r"\s+In \w+ at /\S+", "", said.strip().splitlines()[0] if said.strip() else "")
    plain = re.sub(r"^(?:\[[\w.:]+\] |I\w+::\w+: )", "", plain)
    return plain if len(plain) <= 300 else plain[:297] + "..."
