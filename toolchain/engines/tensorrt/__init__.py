"""TensorRT 11 and TensorRT-RTX: plans for NVIDIA GPUs, in the precision that the graph has.

Networks are strongly typed: what is computed in fp32, fp16, bf16 or int8 is what the graph says by its casts and its
symmetric Q/DQ pairs, so the passes decide (``fp16``, ``bf16``, ``static_int8``, ``static_fp8``, …). TensorRT-RTX builds
for GPUs that are not there, several of them in one plan, and compiles its kernels where the plan is opened; TensorRT
builds on the GPU that the plan is for. A plan holds code: it is loaded only where its digest is the one that was
written beside it.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import EngineError, RecipeError
from toolchain.core.hooks import NewWeights
from toolchain.core.log import logger
from toolchain.core.session import ConcurrentSession
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.engines.shared import cudart
from toolchain.engines.shared.artifact import need_space, read_engine, write_engine
from toolchain.engines.shared.profiles import BATCH_SIZES, profiles_of
from toolchain.engines.shared.samples import encode_dev
from toolchain.engines.tensorrt import builder, layers
from toolchain.engines.tensorrt import refit as refitting
from toolchain.engines.tensorrt.session import DEVICE, PLAN_FILE, checked_plan, open_plan
from toolchain.model import two_four

VERSION = 1
LIBRARIES = ("tensorrt-rtx",)
ACCEPTS = ("standard", "qdq", "qdq-fp8")
EXTRA = "rtx"

#: Either library serves; each has a module of its own.
DISTRIBUTIONS = {"tensorrt-rtx": ("tensorrt-rtx", "tensorrt")}

__all__ = [
    "DEVICE", "Config", "absent", "build", "check_code", "fingerprint", "holds_code", "new_weights", "open_session",
    "unbuilt",
]  # fmt: skip

#: Modules that ``open_session`` loads; timing imports them before it times the session itself.
MODULES = ("numpy",)

_MODEL_FILE = "model.onnx"
_TIMING_CACHE_FILE = "timing.cache"

#: Versions of TensorRT whose documentation says that refittable plans may compute something else.
_FAULTY_REFIT = ("11.3.",)

#: What is built for where nobody says: TensorRT-RTX's devices from here on, because 75 takes fp16 alone; with FP8 from
#: the first that multiplies it.
_LEAST_CAPABILITY, _LEAST_FP8_CAPABILITY = 80, 89


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How a plan is built and run."""

    #: Which library builds and runs it; auto: TensorRT where it is installed beside a GPU, else TensorRT-RTX.
    library: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto"
    #: Compute capabilities that the plan is for, 89 for 8.9 (TensorRT-RTX); none: every one that it offers from 80 on,
    #: from 89 on with FP8.
    compute_capabilities: tuple[Annotated[int, Ge(10), Le(999)], ...] = ()
    #: The largest batches, each with a profile of shapes of its own; none: the recipe's batch sizes.
    batch_sizes: tuple[Annotated[int, Ge(1), Le(4096)], ...] = ()
    #: Round fp32 numbers to TF32 (10 bits of 23) in products: quicker, and no longer fp32.
    tf32: bool = False
    #: Use sparse kernels for weights of which two of every four are zero; null: where the graph has such.
    sparse_weights: bool | None = None
    #: Runs with later versions of TensorRT too (TensorRT): a larger plan, and some kernels are left out.
    version_compatible: bool = False
    #: Runs on other GPUs too (TensorRT): from Ampere on, or of the same compute capability; slower kernels.
    hardware_compatible: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    #: How long kernels are sought, 0 to 5 (TensorRT); TensorRT-RTX compiles where the plan is opened.
    optimization_level: Annotated[int, Ge(0), Le(5)] = 3
    #: Memory in MiB that a kernel may work in; 0 is the library's own limit.
    workspace_mib: Annotated[int, Ge(0)] = 0
    #: A timing cache of an earlier build (TensorRT), a file timing.cache: no kernel that is in it is timed again.
    timing_cache: str = ""
    #: Its weights can be replaced later by those of the same graph, trained anew ('toolchain refit'); built on a GPU
    #: alone, for that GPU, and slower.
    refit: bool = False
    #: Which GPU runs it.
    device_id: Annotated[int, Ge(0), Le(63)] = 0
    #: Record the kernels of each shape of batch once and replay them: quicker where a batch is small.
    cuda_graph: bool = False
    #: With cuda_graph: batches of more rows run without; their kernels take longer than their launch.
    graph_rows: Annotated[int, Ge(1), Le(4096)] = 8
    #: With cuda_graph: such batches are padded to a multiple of so many tokens, for fewer shapes; 1 pads none.
    graph_tokens: Annotated[int, Ge(1), Le(512)] = 16

    def __post_init__(self) -> None:
        """Checks what ranges cannot say."""
        if self.refit and self.sparse_weights:
            raise ValueError(
                "refit and sparse_weights exclude each other: sparse kernels skip zeros that other weights need not "
                "have"
            )


def fingerprint(config: Config) -> dict[str, Any]:
    """The facts that the plan depends on: the library; and the GPU and its driver, where they take part in building."""
    library = builder.choose(config.library)
    facts = {"machine": platform.machine(), "library": library, "version": builder.version(library)}
    return facts | (cudart.gpu(config.device_id) if library == "tensorrt" else {})


def tunes(config: Config) -> bool:
    """Whether dev texts decide how it is built: profiles hold their lengths."""
    return True


def profiled(config: Config) -> bool:
    """Whether it is built for batch sizes: each has a profile."""
    return True


def absent(config: Config) -> str:
    """Why plans cannot run on this machine, though it may build them; empty where they can."""
    return cudart.absent()


def unbuilt(config: Config) -> str:
    """Why plans cannot be built on this machine; empty where they can: TensorRT's builder runs on the GPU."""
    return cudart.absent() if config.refit or builder.choose(config.library) == "tensorrt" else ""


def holds_code(record: Mapping[str, Any]) -> bool:
    """Whether an engine holds native code: a plan is."""
    return True


def check_code(folder: Path) -> None:
    """Raise EngineError if a plan is not the one that was built."""
    checked_plan(folder, read_engine(folder))


def new_weights(folder: Path, source: Path) -> NewWeights:
    """Return how a plan that was built with ``refit: true`` is given a graph's weights.

    Raises:
        EngineError: The plan cannot be refitted, the graph is another, or a record of the plan is damaged.
        ModelError: The graph or its interface is missing or damaged.
    """
    return refitting.check(folder, source)


def build(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Builds a plan from an ONNX model, and reads back what its layers compute in.

    Args:
        source: Folder with ``model.onnx``, its tokenizer and interface.
        out: The engine folder; gets ``model.plan`` and ``engine.json``, ``timing.cache`` where there is one, and
            ``graph.json`` where it can be refitted.
        config: The engine's settings.
        context: Dev texts, whose lengths the plan is made for.

    Returns:
        ``bytes``, ``source_bytes``, ``build_s``; ``layers`` and ``products`` by precision, ``int8_products``: how
        many of the graph's int8 and FP8 ones are computed so, of how many; ``sparse_weights``: 2:4, of all;
        ``library``, ``compute_capabilities`` and ``profiles``.

    Raises:
        ModelError: The source is missing, damaged, or keeps data outside of its folder.
        EngineError: TensorRT cannot build it; the message says what to change.
        RecipeError: A setting asks for what the library does not have.
    """
    from toolchain.model import graph
    from toolchain.model.onnx_file import inspect

    found = inspect(source / _MODEL_FILE)
    library = builder.choose(config.library)
    _check(config, library)
    need_space(out, 2 * found.bytes)
    model = graph.load(source / _MODEL_FILE)
    matrices = [two_four.is_sparse(matrix.values, matrix.axis) for matrix in two_four.matrices(model)]
    quantized = layers.quantized_products(model)
    least = _LEAST_FP8_CAPABILITY if graph.dialect(model) == "qdq-fp8" else _LEAST_CAPABILITY
    described = refitting.keep(out, model) if config.refit else ""
    del model
    profiles = profiles_of(encode_dev(source, context), config.batch_sizes or BATCH_SIZES)
    targets = _targets(config, library, least)
    wish = builder.Wish(
        profiles=profiles,
        compute_capabilities=targets if library == "tensorrt_rtx" else config.compute_capabilities,
        tf32=config.tf32,
        sparse_weights=any(matrices) and not config.refit if config.sparse_weights is None else config.sparse_weights,
        version_compatible=config.version_compatible,
        hardware_compatible=config.hardware_compatible,
        optimization_level=config.optimization_level,
        workspace_mib=config.workspace_mib,
        timing_cache=_read_cache(config.timing_cache),
        refit=config.refit,
    )
    if library == "tensorrt" or config.refit:  # kernels are run while it is built, on the calling thread's device
        cudart.Cuda(config.device_id)
    built = builder.build_plan(library, source / _MODEL_FILE, wish)
    (out / PLAN_FILE).write_bytes(built.plan)
    if built.timing_cache:
        (out / _TIMING_CACHE_FILE).write_bytes(built.timing_cache)
    precision = layers.describe(layers.read(built.listing), quantized)
    lost = precision.pop("float_products")
    if lost:
        logger.warning("    tensorrt: %d quantized products run in float: %s", len(lost), ", ".join(lost[:4]))
    record = {
        "library": {"name": library, "version": builder.version(library)},
        "compute_capabilities": list(targets),
        "profiles": [asdict(profile) for profile in profiles],
    }
    kept = {name: getattr(config, name) for name in ("device_id", "cuda_graph", "graph_rows", "graph_tokens", "refit")}
    compatible = {name: getattr(config, name) for name in ("version_compatible", "hardware_compatible")}
    half = {"fp16", "bf16"} & set(precision["products"])
    options = record | kept | compatible | {"inputs": list(built.inputs), "precision": "mixed" if half else "fp32"}
    digest = {"sha256": hashlib.sha256(built.plan).hexdigest(), "bytes": len(built.plan)}
    extra = {"plan": digest, "precision": precision} | ({"graph": described} if described else {})
    write_engine(out, "tensorrt", (PLAN_FILE,), options, extra)
    sparse = {"sparse_weights": [sum(matrices), len(matrices)]}
    sizes = {"bytes": len(built.plan), "source_bytes": found.bytes, "build_s": round(built.seconds, 3)}
    return {**sizes, **precision, **sparse, **record}


def open_session(folder: Path, threads: int) -> ConcurrentSession:
    """Loads an engine folder onto a GPU.

    Args:
        folder: The engine folder.
        threads: Not needed: a GPU computes.

    Raises:
        EngineError: The plan is not the one that was built, there is no driver, or the plan is for other GPUs or
            another version of the library.
        MissingPackageError: The library is not installed.
    """
    return open_plan(folder)


def _targets(config: Config, library: str, least: int) -> tuple[int, ...]:
    """The compute capabilities that the plan is for: as asked, or those from the least on that are offered.

    A plan that can be refitted is built by running kernels, so it is for the GPU that is here.
    """
    if config.compute_capabilities:
        return tuple(sorted(set(config.compute_capabilities)))
    if library == "tensorrt_rtx" and not config.refit:
        return tuple(number for number in builder.offered(library) if number >= least)
    here = cudart.gpu(config.device_id).get("compute_capability")
    return (here,) if here else ()


def _check(config: Config, library: str) -> None:
    if config.refit:
        _check_refit(config, library)
    if library != "tensorrt_rtx":
        return
    asked = [name for name in ("version_compatible", "timing_cache") if getattr(config, name)]
    asked += ["hardware_compatible"] if config.hardware_compatible != "none" else []
    if asked:
        raise RecipeError(
            f"tensorrt: {' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} TensorRT's, and TensorRT-RTX has "
            "no such choice: it compiles kernels where a plan is opened",
            f"leave {' and '.join(asked)} out, name compute_capabilities, or take library: tensorrt",
        )


def _check_refit(config: Config, library: str) -> None:
    """Holds that a plan can be built whose weights are replaced later."""
    if lacking := cudart.absent():
        raise EngineError(
            f"tensorrt: refit: true was asked for, and {library} runs kernels while it builds such a plan: {lacking}",
            "build on a machine with an NVIDIA GPU, or leave refit out",
        )
    version = builder.version(library) or ""
    if library == "tensorrt" and version.startswith(_FAULTY_REFIT):
        raise EngineError(
            f"tensorrt: refit: true was asked for, and NVIDIA says of TensorRT {version} that such plans may leave out "
            "biases of products, refitted or not",
            "install another version, such as tensorrt>=11.4, or leave refit out",
        )


def _read_cache(path: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise EngineError(
            f"timing_cache: {path} cannot be read: {error.strerror or error}", "name the timing.cache of an engine"
        ) from error
