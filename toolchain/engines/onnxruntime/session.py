"""A loaded ONNX Runtime engine: its sessions, how threads share the work, and where every node ran."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import kinds
from toolchain.core.errors import EngineError, MissingPackageError, require
from toolchain.core.session import INPUTS, TEXT_INPUT
from toolchain.engines.onnxruntime import tensorrt
from toolchain.engines.onnxruntime.cuda import Bindings, preload, provider_options
from toolchain.engines.onnxruntime.tuning import Options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs

#: The operators of a graph that holds its tokenizer.
EXTENSIONS_DOMAIN = "ai.onnx.contrib"

#: Execution providers by the names that the setting ``provider`` has for them.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}

#: What to do where a GPU was asked for and cannot be used.
NO_CUDA = (
    "'toolchain doctor' shows the GPU, its driver and the CUDA and cuDNN libraries that are missing; "
    "provider: cpu runs anywhere"
)

#: What to do where TensorRT was asked for.
NO_TENSORRT = "'toolchain doctor' shows the GPU, its driver and whether TensorRT 10 is there; provider: cuda needs none"

#: Of its messages, ONNX Runtime prints errors only; they are raised as well.
LOG_ERRORS = 3


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a file is opened, whoever runs it.

    Attributes:
        provider: A key of ``PROVIDERS``.
        optimization: A key of ``LEVELS``.
        disabled: ONNX Runtime's own rules to leave out.
        device_id: Which GPU.
        use_tf32: Products of fp32 numbers may round them to TF32, on a GPU.
        strict_norms: Layer-norms of half-precision sums add up in fp32, on a GPU.
        lengths: Attention reads lengths of rows in place of their mask.
        cuda_graph: Batches of up to ``graph_rows`` rows are captured as CUDA graphs, one for each shape.
        graph_rows: The most rows of a captured batch.
        graph_tokens: A captured batch is padded to a multiple of this.
        most_tokens: No batch is padded beyond this; 0 is any.
        form: What TensorRT's plans are built as, where that is the provider.
    """

    provider: str = "cpu"
    optimization: str = "all"
    disabled: tuple[str, ...] = ()
    device_id: int = 0
    use_tf32: bool = False
    strict_norms: bool = False
    lengths: bool = False
    cuda_graph: bool = False
    graph_rows: int = 8
    graph_tokens: int = 16
    most_tokens: int = 0
    form: tensorrt.Form | None = None

    @property
    def on_device(self) -> bool:
        """Whether it runs on a GPU."""
        return self.provider != "cpu"


class OnnxRuntimeSession:
    """A loaded engine.

    Args:
        path: The ONNX file.
        threads: Threads to compute with; 0 leaves it to ONNX Runtime.
        opening: How the file is opened.
        options: How the threads are used.

    Attributes:
        inputs: Names of the inputs that it reads.
        concurrency: Batches that it computes at a time.

    Raises:
        EngineError: The file cannot be loaded, has other inputs, or would run elsewhere than it was built for.
    """

    def __init__(self, path: Path, threads: int, opening: Opening, options: Options) -> None:
        check_provider(opening.provider)
        self._path, self._threads, self._opening, self._options = path, threads, opening, options
        # TensorRT's provider records one shape in a session: what is recorded has sessions of its own.
        shared = opening if opening.form is None else replace(opening, cuda_graph=False)
        self._session = open_file(path, session_options(opening, options, threads), shared)
        alone = threads == 1 or options.streams == 1 or opening.on_device
        self.concurrency = 1 if alone else threads or os.cpu_count() or 1
        self._lock = threading.Lock()
        self._one_thread: Any = self._session if threads == 1 or opening.on_device else None
        self._pool: ThreadPoolExecutor | None = None
        types = {item.name: item.type for item in self._session.get_inputs()}
        integers = ("tensor(int64)", "tensor(int32)")
        unknown = [name for name, kind in types.items() if name not in INPUTS or kind not in integers]
        self._reads_text = types == {TEXT_INPUT: "tensor(string)"}
        if not self._reads_text and (unknown or "input_ids" not in types):
            listed = ", ".join(f"{name}: {kind}" for name, kind in types.items())
            raise EngineError(f"{self._path} has the inputs {listed}; known are {', '.join(INPUTS)} as int64 or int32")
        self.inputs = (TEXT_INPUT,) if self._reads_text else tuple(name for name in INPUTS if name in types)
        self._narrow = {name for name, kind in types.items() if kind == "tensor(int32)"}
        there = [item.name for item in self._session.get_outputs()]
        outputs = {name: there[place] for name, place in kinds.places(kinds.of_folder(path.parent), there).items()}
        self._names, self._outputs = tuple(outputs), list(outputs.values())
        recorder = None if opening.form is None else self._recorder
        #: The shapes that are bound to a GPU's buffers; None where there are none.
        binds = opening.on_device and not self._reads_text
        self.bindings = Bindings(self._session, opening, outputs, recorder=recorder) if binds else None
        #: How many nodes of each operator ran; ``placement`` fills it.
        self.operators: dict[str, int] = {}
        if options.single_threads == 1:
            self._single()  # here, and not while the first text waits

    def run(self, batch: Mapping[str, NDArray[Any]]) -> Outputs:
        """Return the outputs of one padded batch."""
        form = self._opening.form
        if form is not None and len(batch[self.inputs[0]]) > form.profile.rows[2]:
            given = {name: batch[name] for name in self.inputs}
            parts = [self._run(self._session, part) for part in tensorrt.parts(given, form.profile.rows[2])]
            return {name: np.concatenate([part[name] for part in parts]) for name in self._names}
        single = self._options.single_threads == 1 and len(batch[self.inputs[0]]) == 1
        return self._run(self._single() if single else self._session, batch)

    def feed(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Those of a batch's inputs that the graph reads, in its types."""
        return {name: batch[name].astype(np.int32) if name in self._narrow else batch[name] for name in self.inputs}

    def run_many(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> list[Outputs]:
        """Return the outputs of several padded batches: one on each thread, or in turn, as the options say."""
        if self.concurrency == 1 or len(batches) < 2:
            return [self.run(batch) for batch in batches]
        session, pool = self._single(), self._workers()
        return list(pool.map(lambda batch: self._run(session, batch), batches))

    def placement(self, scratch: Path | None = None) -> dict[str, int]:
        """How many nodes ran on each provider; on a GPU, without those that ONNX Runtime keeps on the CPU on purpose.

        Args:
            scratch: Folder for the profile.

        Raises:
            EngineError: A node that computes ran elsewhere than on the provider that was asked for.
        """
        with tempfile.TemporaryDirectory(prefix="profile-", dir=scratch) as folder:
            options = session_options(self._opening, self._options, self._threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            if self._reads_text:
                _add_extensions(options)
            session = open_file(self._path, options, replace(self._opening, cuda_graph=False))
            self._run(session, _probe(self.inputs))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        provider = PROVIDERS[self._opening.provider]
        strays = stray_nodes(nodes, provider)
        if strays:
            raise EngineError(
                f"{len(strays)} nodes of {self._path} fell back to another provider than "
                f"{provider}: {', '.join(strays[:8])}{', …' if len(strays) > 8 else ''}",
                "this provider has no kernel for them: build the unquantized variant for it, or another provider",
            )
        self.operators = dict(Counter(str(event["args"]["op_name"]) for event in nodes))
        found = Counter(str(event["args"]["provider"]) for event in nodes)
        # What is left elsewhere computes shapes and positions, as ``stray_nodes`` has told.
        return {provider: found[provider]} if self._opening.on_device else dict(found)

    def _single(self) -> Any:
        """The session of one thread; several batches may run in it at a time."""
        with self._lock:
            if self._one_thread is None:
                self._one_thread = open_file(
                    self._path, session_options(self._opening, self._options, 1), self._opening
                )
            return self._one_thread

    def _recorder(self) -> Any:
        """A session for one shape, whose kernels it records."""
        return open_file(self._path, session_options(self._opening, self._options, self._threads), self._opening)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.concurrency, "onnxruntime")
            return self._pool

    def _run(self, session: Any, batch: Mapping[str, NDArray[Any]]) -> Outputs:
        feed = self.feed(batch)
        try:
            if self.bindings is not None and session is self._session:
                return self.bindings.run(feed)
            values = session.run(self._outputs, feed)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in feed.items())
            raise EngineError(f"ONNX Runtime failed on {self._path} with {shapes}: {error}") from error
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(self._names, values, strict=True)}


#: Rows of the batch that placement is read from; tells tensors that carry examples from those that do not.
_PROBE_ROWS = 3


def _probe(inputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """A small batch of anything."""
    if inputs == (TEXT_INPUT,):
        return {TEXT_INPUT: np.array(["a b c d e"] * _PROBE_ROWS, dtype=object)}
    feed = {name: np.ones((_PROBE_ROWS, 7), dtype=np.int64) for name in inputs}
    feed["input_ids"] = np.arange(_PROBE_ROWS * 7, dtype=np.int64).reshape(_PROBE_ROWS, 7) % 5
    if "token_type_ids" in feed:
        feed["token_type_ids"][:] = 0
    return feed


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


def check_provider(provider: str) -> None:
    """Raises an error where this ONNX Runtime lacks a provider, or the provider its libraries.

    Raises:
        EngineError: With the wheel that has it.
    """
    ort = require("onnxruntime", "cpu" if provider == "cpu" else "gpu")
    if provider != "cpu":
        preload()
    available = ort.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise EngineError(
            f"provider {provider} was asked for, and this onnxruntime has {', '.join(available)}",
            "pip uninstall onnxruntime; pip install 'toolchain[gpu]'   (never both wheels together)",
        )
    if provider == "tensorrt":
        tensorrt.check_tensorrt()


def session_options(opening: Opening, options: Options, threads: int) -> Any:
    """ONNX Runtime's ``SessionOptions``."""
    ort = require("onnxruntime", "cpu")
    made = ort.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[opening.optimization])
    made.enable_cpu_mem_arena = options.arena
    made.log_severity_level = LOG_ERRORS
    made.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    return made


def open_file(path: Path, options: Any, opening: Opening) -> Any:
    """An ``InferenceSession``.

    Raises:
        EngineError: The file cannot be loaded, or would run elsewhere than it was asked to.
    """
    ort = require("onnxruntime", "cpu")
    wanted = PROVIDERS[opening.provider]
    providers: list[Any] = [(wanted, provider_options(opening))] if opening.on_device else [wanted]
    if opening.form is not None:
        # What TensorRT does not take is to be seen on the GPU, by name, and not to fail.
        beside = provider_options(replace(opening, cuda_graph=False))
        given = tensorrt.provider_options(opening, opening.form, path.absolute().parent)
        providers = [(wanted, given), (PROVIDERS["cuda"], beside)]

    def opened() -> Any:
        # Its own fall-back would open the session again on the CPU, now or when a batch fails on the device.
        more = {"enable_fallback": 0} if opening.on_device else {}
        disabled = list(opening.disabled)
        return ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=disabled, **more)

    try:
        try:
            session = opened()
        except Exception as error:  # ONNX Runtime's errors share no public base class
            if EXTENSIONS_DOMAIN not in str(error):
                raise
            _add_extensions(options)
            session = opened()
    except MissingPackageError:
        raise
    except Exception as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}", remedy(error)) from error
    if wanted not in session.get_providers():
        raise EngineError(
            f"{path} was asked to run on {wanted} and would silently become CPU: the session has "
            f"{', '.join(session.get_providers())}",
            NO_CUDA if opening.form is None else NO_TENSORRT,
        )
    return session


def remedy(error: Exception) -> str:
    """What to do about an error of ONNX Runtime's; empty where it is not known."""
    if "NOT_IMPLEMENTED" in str(error):  # an operator has no kernel, such as bf16 arithmetic on a CPU
        return (
            "leave out the pass that writes this operator (bf16: {compute: false} writes none), or take another engine"
        )
    if "graph capture" in str(error) or "CUDA Graph" in str(error):
        return "nodes of this graph run on the CPU, which a CUDA graph cannot hold: cuda_graph: false"
    if "TensorRT" in str(error):
        return NO_TENSORRT
    if "CUDA" in str(error):
        return NO_CUDA
    return ""


def _add_extensions(options: Any) -> None:
    options.register_custom_ops_library(require("onnxruntime_extensions", "text").get_library_path())
