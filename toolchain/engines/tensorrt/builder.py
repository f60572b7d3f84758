"""Builds plans: TensorRT's builder on an ONNX file, one code for TensorRT 11 and for TensorRT-RTX."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolchain.core.errors import EngineError, MissingPackageError, RecipeError, require
from toolchain.core.log import logger
from toolchain.engines.shared.cudart import absent
from toolchain.engines.shared.profiles import Profile
from toolchain.engines.shared.tensorrt_errors import explained
from toolchain.engines.tensorrt.layers import MARK

#: Import name and distribution of each library.
DISTRIBUTIONS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}

#: TensorRT 11 is the first whose networks are always strongly typed.
LEAST_MAJOR = 11

_CAPABILITY = "SM"


@dataclass(frozen=True)
class Wish:
    """What a plan is to be like; see the engine's ``Config``."""

    profiles: tuple[Profile, ...]
    compute_capabilities: tuple[int, ...] = ()
    tf32: bool = False
    sparse_weights: bool = False
    version_compatible: bool = False
    hardware_compatible: str = "none"
    optimization_level: int = 3
    workspace_mib: int = 0
    timing_cache: bytes = b""
    refit: bool = False


@dataclass(frozen=True)
class Built:
    """A plan, and what the builder said of it.

    Attributes:
        plan: Its bytes.
        inputs: Names of its inputs.
        listing: Its layers, as TensorRT lists them.
        seconds: What building took.
        timing_cache: What was timed; empty where the library times nothing.
    """

    plan: bytes
    inputs: tuple[str, ...]
    listing: str
    seconds: float
    timing_cache: bytes = field(default=b"", repr=False)


def choose(wanted: Literal["auto", "tensorrt", "tensorrt_rtx"]) -> str:
    """The library that serves: as asked; or TensorRT where it is installed beside a GPU, which its builder needs.

    Args:
        wanted: ``auto``, or an import name.

    Returns:
        Its import name; ``tensorrt_rtx`` where none is installed.
    """
    if wanted != "auto":
        return wanted
    there = [name for name in DISTRIBUTIONS if importlib.util.find_spec(name) is not None]
    if "tensorrt" in there and (len(there) == 1 or not absent()):
        return "tensorrt"
    return "tensorrt_rtx"


def version(library: str) -> str | None:
    """The installed version of a library; None where it is missing."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS[library])
    except importlib.metadata.PackageNotFoundError:
        return None


def load(library: str) -> Any:
    """Imports a library.

    Raises:
        MissingPackageError: It is not installed.
        EngineError: It is older than TensorRT 11.
    """
    if library == "tensorrt" and importlib.util.find_spec(library) is None:
        raise MissingPackageError(
            "tensorrt is not installed",
            "pip install 'tensorrt>=11' --extra-index-url https://pypi.nvidia.com, or take library: tensorrt_rtx",
        )
    trt = require(library, "rtx")
    if library == "tensorrt" and int(str(trt.__version__).split(".")[0]) < LEAST_MAJOR:
        raise EngineError(
            f"tensorrt {trt.__version__} is installed; its networks are not strongly typed by themselves",
            f"install tensorrt {LEAST_MAJOR} or newer, or pip install 'toolchain[rtx]'",
        )
    return trt


def listener(trt: Any) -> Any:
    """A logger of TensorRT's that keeps errors and the listing of layers, and tells the rest at -v."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.listing = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif MARK in message:
                self.listing = message
            elif severity == trt.ILogger.WARNING:
                logger.debug("%s: %s", trt.__name__, message)

    return Listener()


def build_plan(library: str, path: Path, wish: Wish) -> Built:
    """Builds a plan.

    Args:
        library: The import name of the library.
        path: The ``.onnx`` file.
        wish: What it is to be like.

    Raises:
        EngineError: TensorRT cannot read or build the graph, with what to change.
        RecipeError: A setting names what the library does not have.
        MissingPackageError: The library is not installed.
    """
    trt = load(library)
    said = listener(trt)
    builder = _made(trt.Builder, said, path)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, said)
    read = parser.parse_from_file(str(path))
    if not read or not network.num_outputs:
        raise _unread(parser, path, said.errors)
    config = builder.create_builder_config()
    _set(trt, config, wish)
    _aim(trt, config, wish)
    inputs = tuple(network.get_input(index).name for index in range(network.num_inputs))
    for wanted in wish.profiles:
        profile = builder.create_optimization_profile()
        for name in inputs:
            profile.set_shape(name, *(wanted.shape(which) for which in range(3)))
        config.add_optimization_profile(profile)
    cache = _timing_cache(trt, config, wish.timing_cache)
    started = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    seconds = time.monotonic() - started
    if plan is None:
        raise explained("build", path, said.errors)
    timed = bytes(memoryview(cache.serialize())) if cache is not None else b""
    return Built(bytes(memoryview(plan)), inputs, said.listing, seconds, timed)


def offered(library: str) -> tuple[int, ...]:
    """Compute capabilities that a library can build for without such a device; none for TensorRT."""
    capabilities = getattr(load(library), "ComputeCapability", None)
    names = capabilities.__members__ if capabilities is not None else ()
    return tuple(sorted(int(name[2:]) for name in names if name.startswith(_CAPABILITY)))


def _made(builder: Any, said: Any, path: Path) -> Any:
    try:
        made = builder(said)
    except (RuntimeError, TypeError) as error:  # the binding's factory gives nothing, and says why in the log
        raise explained("build", path, said.errors or [str(error)]) from error
    return made


def _unread(parser: Any, path: Path, logged: Sequence[str]) -> EngineError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return explained("read", path, logged or ["it holds no graph, or one without outputs"])
    first = errors[0]
    where = f"{first.node_name() or '?'} ({first.node_operator()})"
    return explained("read", path, [*(error.desc() for error in errors), *logged], where)


def _set(trt: Any, config: Any, wish: Wish) -> None:
    flags: Mapping[str, bool] = {
        "TF32": wish.tf32,
        "SPARSE_WEIGHTS": wish.sparse_weights,
        "VERSION_COMPATIBLE": wish.version_compatible,
        "REFIT": wish.refit,
    }
    for name, on in flags.items():
        flag = getattr(trt.BuilderFlag, name)
        config.set_flag(flag) if on else config.clear_flag(flag)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = wish.optimization_level
    if wish.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wish.workspace_mib << 20)
    if wish.hardware_compatible != "none":
        level = getattr(trt.HardwareCompatibilityLevel, wish.hardware_compatible.upper())
        config.hardware_compatibility_level = level


def _aim(trt: Any, config: Any, wish: Wish) -> None:
    """Sets the compute capabilities that the plan is for."""
    if not wish.compute_capabilities:
        return
    capabilities = getattr(trt, "ComputeCapability", None)
    if capabilities is None or not hasattr(config, "set_compute_capability"):
        raise RecipeError(
            f"compute_capabilities is {list(wish.compute_capabilities)}, and TensorRT builds for the GPU that it is on",
            "leave compute_capabilities out, take hardware_compatible, or library: tensorrt_rtx",
        )
    known = offered(trt.__name__)
    unknown = [number for number in wish.compute_capabilities if number not in known]
    if unknown:
        raise RecipeError(
            f"compute_capabilities: {', '.join(map(str, unknown))} is not among those of {trt.__name__} "
            f"{trt.__version__}: {', '.join(map(str, known))}",
            "name one of these; GPUs of other capabilities, such as 90, are TensorRT's: library: tensorrt",
        )
    config.num_compute_capabilities = len(wish.compute_capabilities)
    for index, number in enumerate(wish.compute_capabilities):
        if not config.set_compute_capability(getattr(capabilities, f"{_CAPABILITY}{number}"), index):
            raise EngineError(f"{trt.__name__} refuses compute capability {number}", "leave it out")


def _timing_cache(trt: Any, config: Any, known: bytes) -> Any:
    """The cache that timings are kept in; None where the library times nothing while it builds."""
    if hasattr(trt, "ComputeCapability"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = config.create_timing_cache(known)
        config.set_timing_cache(cache, ignore_mismatch=True)
    return cache
