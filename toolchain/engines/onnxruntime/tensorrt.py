"""ONNX Runtime's TensorRT provider: whether TensorRT 10 is here, and what the provider is told of a graph.

The provider links to TensorRT 10. Its networks are weakly typed: fp16, bf16 and int8 are allowed by flags, so the graph
is read for what it computes in, and nothing else is allowed. It gets the graph as it was exported: TensorRT does not
know ONNX Runtime's fused operators, and fuses by itself. Its execution context stays on the first profile of shapes, so
there is one, which takes every batch. The plans that it builds are kept beside the graph. They are code, and ONNX
Runtime finds them by a graph's names and shapes, not by its weights: each engine has a folder of its own, and their
digests are compared before the folder is named to it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolchain.core.errors import EngineError
from toolchain.core.session import INPUTS
from toolchain.core.store import digest
from toolchain.engines.shared import cudart
from toolchain.engines.shared.artifact import ENGINE_FILE, EngineFile, stored_digest
from toolchain.engines.shared.profiles import BATCH_SIZES, Profile, profiles_of
from toolchain.engines.shared.samples import Samples
from toolchain.engines.shared.tensorrt_errors import PLAIN, SYMMETRIC

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The libraries that the provider is linked to, in the order in which they need each other.
LIBRARIES = (
    ("nvinfer_10.dll", "nvonnxparser_10.dll")
    if sys.platform == "win32"
    else ("libnvinfer.so.10", "libnvonnxparser.so.10")
)

#: The package folder that NVIDIA's wheels put them into, of every version.
WHEEL = "tensorrt_libs"

INSTALL = "pip install 'tensorrt-cu13-libs>=10.13,<11' --extra-index-url https://pypi.nvidia.com"

#: What keeps fp32 products from TF32: the provider has no option for it.
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"

#: The least that a profile takes: placement is read from a batch of so many rows.
LEAST_ROWS = 3

#: Endings of what ONNX Runtime keeps: plans, the shapes that they are for, and what was timed.
KEPT = (".engine", ".profile", ".timing")

_FLOAT16, _BFLOAT16 = 10, 16


class Wanted(Protocol):
    """What of an engine's opening concerns the provider; see its ``Config``."""

    @property
    def device_id(self) -> int:
        """Return the GPU's number."""
        ...

    @property
    def strict_norms(self) -> bool:
        """Return whether layer normalization is computed in float32."""
        ...

    @property
    def cuda_graph(self) -> bool:
        """Return whether runs are recorded as CUDA graphs."""
        ...


@dataclass(frozen=True)
class Form:
    """What plans of a graph are built as; recorded in ``engine.json``.

    Attributes:
        inputs: Names of its inputs.
        profile: The shapes that it takes.
        fp16: Its products are of half precision.
        bf16: They are of bfloat16.
        int8: Some are quantized.
        sparse: It has weights of which two of every four are zero.
    """

    inputs: tuple[str, ...]
    profile: Profile
    fp16: bool = False
    bf16: bool = False
    int8: bool = False
    sparse: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Form:
        """The form that ``dataclasses.asdict`` gave, out of JSON.

        Raises:
            KeyError, TypeError: It is none.
        """
        shapes = record["profile"]
        profile = Profile(tuple(shapes["rows"]), tuple(shapes["tokens"]))
        return cls(**{**record, "inputs": tuple(record["inputs"]), "profile": profile})


@functools.cache
def missing() -> str:
    """Why TensorRT 10 cannot be used here; empty where it can.

    What is loaded stays: the provider is linked to these names, and finds those that are there.
    """
    for name in LIBRARIES:
        told = _library(name)
        if isinstance(told, str):
            return told
    return ""


def version() -> str | None:
    """The version of TensorRT 10 that is here, such as 10.16.1; None without."""
    library = None if missing() else _library(LIBRARIES[0])
    if library is None or isinstance(library, str):
        return None
    number = int(library.getInferLibVersion())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def check_tensorrt() -> None:
    """Raises an error where TensorRT 10 is missing.

    Raises:
        EngineError: With what was found, and what to install.
    """
    if told := missing():
        raise EngineError(
            f"provider tensorrt was asked for, and it needs TensorRT 10: {told}",
            f"{INSTALL}, where no TensorRT 11 is; or the engine tensorrt, or provider: cuda",
        )


def form_of(model: Any, path: Path, samples: Samples, batch_sizes: tuple[int, ...]) -> Form:
    """Reads what plans of a graph are to be built as.

    Args:
        model: The ``onnx.ModelProto``.
        path: Where it lies, for errors.
        samples: Encoded dev texts, whose lengths the shapes are made for.
        batch_sizes: The largest batches; none: 1 and 32.

    Raises:
        EngineError: TensorRT takes no such graph.
    """
    from toolchain.model import graph, two_four

    dialect = graph.dialect(model)
    if dialect not in ("standard", "qdq"):
        raise EngineError(
            f"{path} is of dialect {dialect}, and provider: tensorrt takes standard, qdq",
            SYMMETRIC if dialect == "qdq-asymmetric" else PLAIN,
        )
    tensors = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    types = {tensors[name] for node in products for name in node.input if name in tensors}
    most = max(*(batch_sizes or BATCH_SIZES), LEAST_ROWS)
    (profile,) = profiles_of(samples, (most,))
    read = {value.name for value in model.graph.input} - set(tensors)
    return Form(
        inputs=tuple(name for name in INPUTS if name in read),
        profile=profile,
        fp16=_FLOAT16 in types,
        bf16=_BFLOAT16 in types,
        int8=dialect == "qdq",
        sparse=any(two_four.is_sparse(matrix.values, matrix.axis) for matrix in two_four.matrices(model)),
    )


def check_tf32(form: Form, use_tf32: bool) -> None:
    """Holds that fp32 products stay fp32, which the provider itself cannot be asked for.

    Raises:
        EngineError: They would be rounded to TF32, which was not asked for.
    """
    if use_tf32 or form.fp16 or form.bf16 or os.environ.get(TF32_VARIABLE) == "0":
        return
    raise EngineError(
        "use_tf32 is false, and ONNX Runtime's TensorRT provider rounds fp32 products to TF32 unless the environment "
        f"forbids it: {TF32_VARIABLE} is {os.environ.get(TF32_VARIABLE, 'not set')}",
        f"start with {TF32_VARIABLE}=0 in the environment, which holds for the whole process; or use_tf32: true",
    )


def provider_options(wanted: Wanted, form: Form, folder: Path) -> dict[str, str]:
    """Options of the TensorRT provider.

    Args:
        wanted: How the engine is opened.
        form: What its plans are built as.
        folder: Where plans and timings are kept.
    """
    flags = {
        "trt_fp16_enable": form.fp16,
        "trt_bf16_enable": form.bf16,
        "trt_int8_enable": form.int8,
        "trt_sparsity_enable": form.sparse,
        "trt_layer_norm_fp32_fallback": wanted.strict_norms,
        "trt_cuda_graph_enable": wanted.cuda_graph,
        "trt_engine_cache_enable": True,
        "trt_timing_cache_enable": True,
    }
    shapes = {
        f"trt_profile_{name}_shapes": ",".join(
            f"{key}:{'x'.join(map(str, form.profile.shape(which)))}" for key in form.inputs
        )
        for which, name in enumerate(("min", "opt", "max"))
    }
    where = {"trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}
    return {"device_id": str(wanted.device_id)} | {n: str(int(on)) for n, on in flags.items()} | where | shapes


def kept(folder: Path) -> Iterator[Path]:
    """The files of ONNX Runtime's that an engine folder keeps, in order."""
    yield from sorted(path for path in folder.iterdir() if path.suffix in KEPT)


def built_for(device_id: int) -> dict[str, Any]:
    """What plans depend on: TensorRT's version, and the GPU of that number with its driver."""
    return {"tensorrt": version(), **cudart.gpu(device_id)}


def check_plans(folder: Path, manifest: EngineFile) -> None:
    """Holds that an engine's plans and its graph are those that were built: a plan is code, and a graph can hold one.

    The digests are those in ``engine.json``, and the store's ``manifest.json``, where there is one, must name them too.

    Raises:
        EngineError: One was changed, is missing or has been added.
    """
    recorded = manifest.extra.get("plans")
    names = {*manifest.files, *(path.name for path in kept(folder))}
    found = {name: digest(folder / name) for name in names}
    if not isinstance(recorded, dict) or not recorded:
        raise EngineError(
            f"{folder / ENGINE_FILE} holds no digests of plans: a plan is code, and is loaded only where it is known "
            "to be ours",
            "build the engine again",
        )
    changed = sorted(
        name
        for name in {*recorded, *found}
        if recorded.get(name) != found.get(name) or stored_digest(folder, name) not in (None, found.get(name))
    )
    if changed:
        state = "missing" if changed[0] not in found else "added" if changed[0] not in recorded else "another"
        raise EngineError(
            f"{folder / changed[0]} is not what was built: by the SHA-256 in {ENGINE_FILE} it is {state}; nothing is "
            "loaded",
            "build the engine again, or copy the folder again from where it was built",
        )


def check_built_for(folder: Path, manifest: EngineFile) -> None:
    """Holds that plans were built for this GPU and this TensorRT: otherwise the provider would build, and keep, others.

    Raises:
        EngineError: They were built for others.
    """
    recorded, here = dict(manifest.extra.get("built_for") or {}), built_for(int(manifest.options["device_id"]))
    differs = [name for name in ("tensorrt", "compute_capability") if recorded.get(name) != here.get(name)]
    if differs:
        told = ", ".join(f"{name} {recorded.get(name)}, and here is {here.get(name)}" for name in differs)
        raise EngineError(f"{folder} was built for {told}", "build the engine again on this machine")


def parts(batch: Mapping[str, NDArray[Any]], most: int) -> Iterator[dict[str, NDArray[Any]]]:
    """A batch, cut where it has more rows than the profile takes."""
    rows = len(next(iter(batch.values())))
    for start in range(0, max(rows, 1), most):
        yield {name: value[start : start + most] for name, value in batch.items()}


@functools.cache
def _library(name: str) -> ctypes.CDLL | str:
    """A library, loaded where the wheel or the linker has it; or why it cannot be."""
    spec = importlib.util.find_spec(WHEEL)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    for place in (*(str(folder / name) for folder in folders if (folder / name).is_file()), name):
        try:
            return ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            told = str(error)
    stem = name.partition(".so")[0].partition("_")[0]
    others = sorted({path.name for folder in folders for path in folder.glob(f"{stem}[._]*") if path.name != name})
    return f"{told}; {WHEEL} has {', '.join(others[:3])}" if others else told
