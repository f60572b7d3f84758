"""ONNX Runtime: fp32 and int8 graphs on the CPU, fp32 on an NVIDIA GPU.

The graph is lowered once, at build time, by our rewrites of its Q/DQ pairs (``_lowering``) and by ONNX Runtime's own
optimizer at its hardware-independent level, so that the file that is delivered is the file that is measured; a session
then adds what its machine allows. On a 6-layer encoder the optimizer's part changed no latency or throughput beyond
noise against optimizing in every session, and made fp32 and dynamic int8 sessions a fifth quicker to load; the rewrites
made symmetric int8 six times as fast at batch 1 and twice as fast at batch 32.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from toolchain.core.errors import EngineError, require
from toolchain.core.session import Session
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.engines._artifact import need_space, place, read_engine, write_engine
from toolchain.engines._lowering import rewritten

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1
LIBRARIES = ("onnxruntime",)
ACCEPTS = ("standard", "qdq", "ort")

#: Modules that ``open_session`` loads; timing imports them before it times the session itself.
MODULES = ("onnxruntime",)

MODEL_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}

#: A lowered file may grow by this share (folded constants); above it, the source stays.
MAX_GROWTH = 0.02

#: Of its messages, ONNX Runtime prints errors only; they are raised as well.
LOG_ERRORS = 3


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How ONNX Runtime builds and runs the model."""

    #: Where the model runs.
    provider: Literal["cpu", "cuda"] = "cpu"
    #: How far ONNX Runtime optimizes the graph.
    optimization: Literal["all", "extended", "basic", "disabled"] = "all"
    #: Lower the graph at build time; otherwise the file is kept as it came and every session optimizes it.
    offline: bool = True
    #: Let idle compute threads spin for work: quicker at batch 1, at the price of CPU time.
    spinning: bool = True
    #: Keep freed memory for the next batch: quicker, at the price of memory.
    arena: bool = True
    #: Which GPU, where the provider is cuda.
    device_id: Annotated[int, Ge(0), Le(63)] = 0


def fingerprint(config: Config) -> dict[str, Any]:
    """The facts that the lowered graph depends on: processor family and the wheel that lowers it."""
    return {"machine": platform.machine(), **_distribution(config)}


def build(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Lowers an ONNX model into an engine folder and proves that it loads and runs.

    Args:
        source: Folder with ``model.onnx``.
        out: The engine folder; gets ``model.onnx`` (and its external data) and ``engine.json``.
        config: The engine's settings.
        context: Threads to build with.

    Returns:
        ``kept_source``: whether the file is the source's own, ``source_bytes`` and ``bytes``, and ``placement``.

    Raises:
        ModelError: The source is missing, damaged, or keeps data outside of its folder.
        EngineError: ONNX Runtime cannot run the model where it was asked to.
    """
    _check_provider(config.provider)
    from toolchain.model.onnx_file import inspect

    found = inspect(source / MODEL_FILE)
    need_space(out, found.bytes)
    files = (MODEL_FILE, *found.external)
    # A lowered graph is bound to the provider that it was lowered for, and what CUDA's needs cannot be saved.
    lowered = config.offline and config.optimization != "disabled" and config.provider == "cpu"
    if lowered:
        files = _lower(source / MODEL_FILE, out, config, context.threads, context.work, external=bool(found.external))
        lowered = _total_bytes(out, files) <= found.bytes * (1 + MAX_GROWTH)
    if not lowered:
        for name in files:
            (out / name).unlink(missing_ok=True)
        files = (MODEL_FILE, *found.external)
        for name in files:
            place(source / name, out / name)
    write_engine(out, "onnxruntime", files, asdict(config))
    placement = _load(out, context.threads).placement(context.work)
    metrics = {"kept_source": not lowered, "source_bytes": found.bytes, "bytes": _total_bytes(out, files)}
    return {**metrics, "placement": placement}


def open_session(folder: Path, threads: int) -> Session:
    """Loads an engine folder.

    Args:
        folder: The engine folder.
        threads: Threads that compute one batch; 0 leaves it to ONNX Runtime.

    Raises:
        EngineError: The engine cannot be loaded, or would run elsewhere than it was built for.
    """
    return _load(folder, threads)


def _load(folder: Path, threads: int) -> _OnnxRuntimeSession:
    options = read_engine(folder).options
    if options.get("provider") not in PROVIDERS or options.get("optimization") not in LEVELS:
        raise EngineError(f"{folder} has options that this version does not know: {options}", "build the engine again")
    config = Config(**{name: value for name, value in options.items() if name in Config.__dataclass_fields__})
    return _OnnxRuntimeSession(folder, threads, config)


class _OnnxRuntimeSession:
    def __init__(self, folder: Path, threads: int, config: Config) -> None:
        _check_provider(config.provider)
        self._path, self._threads, self._config = folder / MODEL_FILE, threads, config
        self._session = _open(self._path, _options(config, threads), config)
        types = {item.name: item.type for item in self._session.get_inputs()}
        integers = ("tensor(int64)", "tensor(int32)")
        unknown = [name for name, kind in types.items() if name not in INPUTS or kind not in integers]
        if unknown or "input_ids" not in types:
            listed = ", ".join(f"{name}: {kind}" for name, kind in types.items())
            raise EngineError(f"{self._path} has the inputs {listed}; known are {', '.join(INPUTS)} as int64 or int32")
        self.inputs = tuple(name for name in INPUTS if name in types)
        self._narrow = {name for name, kind in types.items() if kind == "tensor(int32)"}
        self._output = [self._session.get_outputs()[0].name]

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        return _run(self._session, self._output, self._feed(batch), self._path)

    def placement(self, scratch: Path | None = None) -> dict[str, int]:
        with tempfile.TemporaryDirectory(prefix="profile-", dir=scratch) as folder:
            options = _options(self._config, self._threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = _open(self._path, options, self._config)
            feed = {name: np.ones((_PROBE_ROWS, 7), dtype=np.int64) for name in self.inputs}
            feed["input_ids"] = np.arange(_PROBE_ROWS * 7, dtype=np.int64).reshape(_PROBE_ROWS, 7) % 5
            if "token_type_ids" in feed:
                feed["token_type_ids"][:] = 0
            _run(session, self._output, self._feed(feed), self._path)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        strays = stray_nodes(nodes, PROVIDERS[self._config.provider])
        if strays:
            raise EngineError(
                f"{len(strays)} nodes of {self._path} fell back to another provider than "
                f"{PROVIDERS[self._config.provider]}: {', '.join(strays[:8])}{', …' if len(strays) > 8 else ''}",
                "this provider has no kernel for them: build the unquantized variant for it, or provider: cpu",
            )
        return dict(Counter(str(event["args"]["provider"]) for event in nodes))

    def _feed(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
        return {n: batch[n].astype(np.int32) if n in self._narrow else batch[n] for n in self.inputs}


#: Rows of the batch that placement is read from; tells tensors that carry examples from those that do not.
_PROBE_ROWS = 3


def stray_nodes(events: list[dict[str, Any]], provider: str) -> list[str]:
    """The compute nodes, of a profile's node events, that ran elsewhere than on a provider.

    ONNX Runtime keeps on the CPU, on purpose, the nodes that compute shapes and positions, and adds nodes that copy.
    Those are no compute nodes: every output is an integer or truth value and carries no example, being of rank 0 or 1
    or having one row where the batch has more.

    Args:
        events: ``Node`` events of ONNX Runtime's profile, of a batch of more than one row.
        provider: Full name of the provider that was asked for.

    Returns:
        ``name (operator)`` of each stray node, in order of execution.
    """
    strays = []
    for event in events:
        arguments = event["args"]
        if arguments["provider"] == provider or arguments["op_name"].startswith("Memcpy"):
            continue
        outputs = [(kind, dims) for output in arguments.get("output_type_shape", ()) for kind, dims in output.items()]
        if not all(kind.startswith(("int", "uint", "bool")) and (len(d) < 2 or d[0] == 1) for kind, d in outputs):
            strays.append(f"{event['name'].removesuffix('_kernel_time')} ({arguments['op_name']})")
    return strays


def _distribution(config: Config) -> dict[str, str | None]:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return {"distribution": name, "version": importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"distribution": None, "version": None}


def _check_provider(provider: str) -> None:
    ort = require("onnxruntime", "gpu" if provider == "cuda" else "cpu")
    available = ort.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise EngineError(
            f"provider {provider} was asked for, and this onnxruntime has {', '.join(available)}",
            "pip uninstall onnxruntime; pip install 'toolchain[gpu]'   (never both wheels together)",
        )


def _options(config: Config, threads: int) -> Any:
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[config.optimization])
    options.enable_cpu_mem_arena = config.arena
    options.log_severity_level = LOG_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.spinning)))
    return options


def _open(path: Path, options: Any, config: Config) -> Any:
    ort = require("onnxruntime", "cpu")
    wanted = PROVIDERS[config.provider]
    providers: list[Any] = [(wanted, {"device_id": config.device_id})] if config.provider == "cuda" else [wanted]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error
    if wanted not in session.get_providers():
        raise EngineError(
            f"{path} was asked to run on {wanted} and would silently become CPU: the session has "
            f"{', '.join(session.get_providers())}",
            "'toolchain doctor' shows the GPU, its driver and the CUDA and cuDNN libraries that are missing",
        )
    return session


def _run(session: Any, outputs: list[str], feed: dict[str, Any], path: Path) -> NDArray[np.float32]:
    try:
        logits = session.run(outputs, feed)[0]
    except Exception as error:  # ONNX Runtime's errors share no public base class
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in feed.items())
        raise EngineError(f"ONNX Runtime failed on {path} with {shapes}: {error}") from error
    return np.asarray(logits, dtype=np.float32)


def _lower(model: Path, out: Path, config: Config, threads: int, scratch: Path, *, external: bool) -> tuple[str, ...]:
    """Saves the graph as ONNX Runtime optimizes it for any machine; gives the names of the files written."""
    level = "extended" if config.optimization == "all" else config.optimization
    options = _options(Config(optimization=level, arena=False), threads)
    options.optimized_model_filepath = str(out / MODEL_FILE)
    if not external:
        with tempfile.TemporaryDirectory(prefix="lower-", dir=scratch) as folder:
            _open(rewritten(model, Path(folder)), options, config)
        return (MODEL_FILE,)
    data = f"{MODEL_FILE}.data"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    _open(model, options, config)
    return (MODEL_FILE, data) if (out / data).is_file() else (MODEL_FILE,)


def _total_bytes(folder: Path, files: tuple[str, ...]) -> int:
    return sum((folder / name).stat().st_size for name in files)
