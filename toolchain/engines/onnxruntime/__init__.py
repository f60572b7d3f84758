"""ONNX Runtime: fp32 and int8 graphs on the CPU, fp32 and fp16 on an NVIDIA GPU, there by TensorRT 10 too.

The graph is lowered once, at build time: by our fusion (``fusion``) and our integer products (``integer``), then by
ONNX Runtime's own optimizer at its hardware-independent level, so that the file that is delivered is the file that is
measured; a session then adds what its machine allows. How threads are used is tuned on dev texts and recorded.
TensorRT 10 gets the graph as it is, and the plans that it builds are delivered beside it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import EngineError, RecipeError, first_line
from toolchain.core.processors import processor
from toolchain.core.session import TEXT_INPUT, ConcurrentSession
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.core.store import digest
from toolchain.engines.onnxruntime import integer, tensorrt
from toolchain.engines.onnxruntime.lowering import Forms, counts, rewrite
from toolchain.engines.onnxruntime.session import (
    LEVELS,
    PROVIDERS,
    OnnxRuntimeSession,
    Opening,
    check_provider,
    open_file,
    session_options,
)
from toolchain.engines.onnxruntime.tuning import BATCH_SIZE, REQUESTS, TEXTS, Options, tune
from toolchain.engines.shared import contention, fusion_claim
from toolchain.engines.shared.artifact import need_space, place, read_engine, write_engine
from toolchain.engines.shared.samples import encode_dev
from toolchain.model import checkpoint

VERSION = 7
LIBRARIES = ("onnxruntime",)
ACCEPTS = ("standard", "qdq", "qdq-asymmetric", "ort")
EXTRA = "cpu"
GPU_PROVIDERS = ("cuda", "tensorrt")

#: Either wheel brings the same module.
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}
EXCLUSIVE = True

#: Modules that ``open_session`` loads; timing imports them before it times the session itself.
MODULES = ("onnxruntime",)

_MODEL_FILE = "model.onnx"

#: A lowered file may grow by this share (folded constants); above it, the source stays.
_MAX_GROWTH = 0.02


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How ONNX Runtime builds and runs the model."""

    #: Where the model runs; tensorrt is TensorRT 10 on a GPU, which has to be installed beside it.
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    #: How far ONNX Runtime optimizes the graph.
    optimization: Literal["all", "extended", "basic", "disabled"] = "all"
    #: Lower the graph at build time; otherwise the file is kept as it came and every session optimizes it.
    offline: bool = True
    #: Attention as one operator each, quicker at batch 1; plain leaves products and softmax, quicker at batches of 8.
    attention: Literal["fused", "plain"] = "fused"
    #: Residual additions inside layer-norms and biases inside GELUs; auto: where those kernels are quick, on a GPU.
    residuals: Literal["auto", "fused", "plain"] = "auto"
    #: Let idle compute threads spin for work: quicker at batch 1, at the price of CPU time; null is as tuned.
    spinning: bool | None = None
    #: Keep freed memory for the next batch: quicker, at the price of memory; null is as tuned.
    arena: bool | None = None
    #: Threads for a single text: 0 is all, 1 spares handing work over; null is as tuned.
    single_threads: Annotated[int, Ge(0), Le(1)] | None = None
    #: Batches computed at a time: 0 is one on each thread, 1 is one by all threads; null is as tuned.
    streams: Annotated[int, Ge(0), Le(1)] | None = None
    #: Time what is null on dev texts while building, and keep the best; otherwise the defaults stand.
    tune: bool = True
    #: How long tuning may take, in seconds.
    tune_seconds: Annotated[float, Gt(0), Le(3600)] = 4.0
    #: Which GPU.
    device_id: Annotated[int, Ge(0), Le(63)] = 0
    #: Round fp32 numbers to TF32 (10 bits of 23) in products, on a GPU: quicker, and no longer fp32.
    use_tf32: bool = False
    #: What attention reads of padding: the mask as it came in, or the length of every row, which lets cuDNN's flash
    #: attention serve fp16 on a GPU. Lengths are right for texts that are padded at their end alone, as ours are.
    mask: Literal["padding", "lengths"] = "padding"
    #: Add up fp16 layer-norms of sums in fp32, on a GPU: closer to PyTorch, and slower.
    strict_norms: bool = False
    #: On a GPU, record the kernels of each shape of batch once and replay them: quicker where a batch is small.
    cuda_graph: bool = False
    #: With cuda_graph: batches of more rows run without; their kernels take longer than their launch.
    graph_rows: Annotated[int, Ge(1), Le(4096)] = 8
    #: With cuda_graph: such batches are padded to a multiple of so many tokens, for fewer shapes; 1 pads none.
    graph_tokens: Annotated[int, Ge(1), Le(512)] = 16
    #: The largest batches that TensorRT's plan takes, where that is the provider; none: the recipe's batch sizes.
    batch_sizes: tuple[Annotated[int, Ge(1), Le(4096)], ...] = ()


def fingerprint(config: Config) -> dict[str, Any]:
    """The facts that the engine depends on: processor family, the wheel that lowers it, and who tuned or built it."""
    by = tensorrt.built_for(config.device_id) if profiled(config) else processor() if tunes(config) else {}
    return {"machine": platform.machine(), **_distribution(), "onnx-ir": _version("onnx-ir"), **by}


def tunes(config: Config) -> bool:
    """Whether dev texts and the number of threads decide how it is run, or what it is built for."""
    return profiled(config) or (config.tune and config.provider == "cpu")


def profiled(config: Config) -> bool:
    """Whether it is built for batch sizes: TensorRT's plans have profiles of shapes."""
    return config.provider == "tensorrt"


def lacks(provider: str) -> str:
    """What a provider lacks besides packages that have names; empty where it has all."""
    told = tensorrt.missing() if provider == "tensorrt" else ""
    return f"TensorRT 10 missing ({told}): {tensorrt.INSTALL}" if told else ""


def holds_code(record: Mapping[str, Any]) -> bool:
    """Whether plans of TensorRT lie beside the graph."""
    return "plans" in record


def check_code(folder: Path) -> None:
    """Raise EngineError if a plan of TensorRT, or the graph beside it, is not what was built."""
    manifest = read_engine(folder)
    if holds_code(manifest.extra):
        tensorrt.check_plans(folder, manifest)


def build(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Lowers an ONNX model into an engine folder, proves that it loads and runs, and tunes how.

    Args:
        source: Folder with ``model.onnx``, its tokenizer and interface.
        out: The engine folder; gets ``model.onnx`` (and its external data), ``engine.json`` and TensorRT's plans.
        config: The engine's settings.
        context: Threads to build and tune with; dev texts.

    Returns:
        ``kept_source``: whether the file is the source's own, ``source_bytes`` and ``bytes``, ``placement``,
        ``fusion``: by kind, how many of how many there must be, and ``tuning``: every setting tried. ``profile``: the
        shapes that TensorRT's plan takes.

    Raises:
        ModelError: The source is missing, damaged, or keeps data outside of its folder.
        EngineError: ONNX Runtime cannot run the model where it was asked to.
        RecipeError: Settings exclude each other.
    """
    check_provider(config.provider)
    _check_settings(config)
    _check_padding(config, source / "interface.json")
    from toolchain.model.onnx_file import inspect

    found = inspect(source / _MODEL_FILE)
    need_space(out, 2 * found.bytes)  # our rewriting of it is there while ONNX Runtime writes its own
    files = (_MODEL_FILE, *found.external)
    forms = _forms(config)
    form = _form(source, config, context) if profiled(config) else None
    lowered = config.offline and config.optimization != "disabled" and form is None
    if lowered:
        lower = _lower if config.provider == "cpu" else _lower_for_device
        files = lower(source / _MODEL_FILE, out, config, context)
        lowered = bool(files) and _total_bytes(out, files) <= found.bytes * (1 + _MAX_GROWTH)
    if not lowered:
        for name in files:
            (out / name).unlink(missing_ok=True)
        files = (_MODEL_FILE, *found.external)
        for name in files:
            place(source / name, out / name)
    given = {name: value for name, value in _given(asdict(config)).items() if value is not None}
    opening = _opening(config, source, form)
    session = OnnxRuntimeSession(out / _MODEL_FILE, context.threads, opening, Options(**given))
    options, tuning = _tuned(source, out, config, given, session, context)
    placement = session.placement(context.work)
    asked = config.optimization in ("all", "extended") and form is None
    fusion = counts(session.operators, source / _MODEL_FILE, forms) if asked else {}
    extra = fusion_claim.record(fusion, source)
    told: dict[str, Any] = {}
    if form is not None:
        files = (*files, *(path.name for path in tensorrt.kept(out)))
        plans = {name: digest(out / name) for name in files}
        extra |= {"form": asdict(form), "plans": plans, "built_for": tensorrt.built_for(config.device_id)}
        told = {"profile": asdict(form.profile)}
    write_engine(out, "onnxruntime", files, asdict(config) | asdict(options), extra)
    metrics = {"kept_source": not lowered, "source_bytes": found.bytes, "bytes": _total_bytes(out, files)}
    return {**metrics, "fusion": fusion, "placement": placement, "tuning": tuning, **told}


def open_session(folder: Path, threads: int) -> ConcurrentSession:
    """Loads an engine folder.

    Args:
        folder: The engine folder.
        threads: Threads that compute one batch; 0 leaves it to ONNX Runtime.

    Raises:
        EngineError: The engine cannot be loaded, or would run elsewhere than it was built for.
    """
    manifest = read_engine(folder)
    found = manifest.options
    if found.get("provider") not in PROVIDERS or found.get("optimization") not in LEVELS:
        raise EngineError(
            f"{folder} has options that this version does not know: {dict(found)}", "build the engine again"
        )
    config = Config(**{name: value for name, value in found.items() if name in Config.__dataclass_fields__})
    given = {name: value for name, value in _given(found).items() if value is not None}
    try:
        form = tensorrt.Form.of(manifest.extra["form"]) if profiled(config) else None
        if form is not None:
            check_provider(config.provider)
            tensorrt.check_plans(folder, manifest)
            tensorrt.check_built_for(folder, manifest)
            tensorrt.check_tf32(form, config.use_tf32)
        return OnnxRuntimeSession(folder / _MODEL_FILE, threads, _opening(config, folder, form), Options(**given))
    except (TypeError, ValueError, KeyError) as error:
        raise EngineError(
            f"{folder} has options that are not valid: {dict(found)}: {first_line(error)}", "build the engine again"
        ) from error


def _tuned(
    source: Path, out: Path, config: Config, given: dict[str, Any], session: OnnxRuntimeSession, context: Context
) -> tuple[Options, dict[str, Any]]:
    """Options, and a record of what was tried; empty where nothing is open to choice."""
    opening = _opening(config, source)
    open_names = {field.name for field in fields(Options)} - set(given)
    if not config.tune or config.provider != "cpu" or not open_names or session.inputs == (TEXT_INPUT,):
        return Options(**given), {}
    if not all((source / name).is_file() for name in ("tokenizer.json", "interface.json")):
        return Options(**given), {"skipped": "there is no tokenizer to read dev texts with"}
    samples = encode_dev(source, context).shuffled(context.seed)
    others = contention.watch()
    options, trials = tune(
        given,
        lambda options: OnnxRuntimeSession(out / _MODEL_FILE, context.threads, opening, options),
        samples.batches(1, TEXTS),
        lambda concurrency: samples.requests(BATCH_SIZE, REQUESTS, concurrency),
        context.threads,
        config.tune_seconds,
    )
    return options, {"threads": context.threads, "trials": trials, "others_cpus": others()}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an engine's options that say how a session is opened and used."""
    return {field.name: options.get(field.name) for field in fields(Options)}


def _form(source: Path, config: Config, context: Context) -> tensorrt.Form:
    """What TensorRT's plans of a graph are built as.

    Raises:
        EngineError: TensorRT takes no such graph, or would compute it in less than it has.
    """
    from toolchain.model import graph

    path = source / _MODEL_FILE
    form = tensorrt.form_of(graph.load(path), path, encode_dev(source, context), config.batch_sizes)
    tensorrt.check_tf32(form, config.use_tf32)
    return form


def _opening(config: Config, folder: Path | None = None, form: tensorrt.Form | None = None) -> Opening:
    """How the file is opened; the folder's interface tells how long texts may be."""
    interface = folder / "interface.json" if folder is not None and config.cuda_graph else None
    most = checkpoint.read_json(interface).get("max_length", 0) if interface is not None and interface.is_file() else 0
    return Opening(
        provider=config.provider,
        optimization=config.optimization,
        disabled=_forms(config).disabled,
        device_id=config.device_id,
        use_tf32=config.use_tf32,
        strict_norms=config.strict_norms,
        lengths=config.mask == "lengths",
        cuda_graph=config.cuda_graph and config.provider != "cpu",
        graph_rows=config.graph_rows,
        graph_tokens=config.graph_tokens,
        most_tokens=int(most),
        form=form,
    )


def _distribution() -> dict[str, str | None]:
    names = ("onnxruntime", "onnxruntime-gpu")
    name = next((name for name in names if _version(name)), None)
    return {"distribution": name, "version": _version(name) if name else None}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_settings(config: Config) -> None:
    """Holds that there will be an attention that can read lengths, and nothing fused for TensorRT.

    Raises:
        RecipeError: Settings exclude each other.
    """
    asked = ["mask: lengths"] if config.mask == "lengths" else []
    asked += ["residuals: fused"] if config.residuals == "fused" else []
    if profiled(config) and asked:
        raise RecipeError(
            f"onnxruntime: {' and '.join(asked)} is about operators of ONNX Runtime's own, and TensorRT, which fuses "
            "by itself, takes none",
            f"leave out {' and '.join(asked)}, or provider: tensorrt",
        )
    unfused = "attention: plain" if config.attention == "plain" else "" if config.offline else "offline: false"
    unfused = unfused or (
        f"optimization: {config.optimization}" if config.optimization in ("basic", "disabled") else ""
    )
    if config.mask == "lengths" and unfused:
        raise RecipeError(
            f"onnxruntime: mask: lengths is what fused attention reads, and {unfused} leaves none",
            f"leave out mask: lengths, or {unfused}",
        )


def _check_padding(config: Config, interface: Path) -> None:
    """Raise RecipeError if the engine would count tokens from the left of rows that are padded there."""
    known = checkpoint.read_json(interface) if config.mask == "lengths" and interface.is_file() else {}
    if known.get("padding_side") == "left":
        raise RecipeError(
            f"onnxruntime: mask: lengths counts tokens from the left, and {interface} has padding_side: left",
            "leave out mask: lengths",
        )


def _forms(config: Config) -> Forms:
    if profiled(config):
        return Forms(attention=False, integers=False)
    on_device = config.provider == "cuda"
    wanted = {"auto": on_device, "fused": True, "plain": False}
    return Forms(
        attention=config.attention == "fused",
        residuals=wanted[config.residuals],
        integers=not on_device,
        half=on_device,
        lengths=config.mask == "lengths",
    )


def _lower_for_device(model: Path, out: Path, config: Config, context: Context) -> tuple[str, ...]:
    """Saves the graph as we fuse it; the session does the rest, which is bound to the device and cannot be saved.

    Returns:
        Names of the files written; none where no rule applied.
    """
    if config.optimization == "basic" or rewrite(model, out, _forms(config)) == model:
        return ()
    data = f"{_MODEL_FILE}.data"
    return (_MODEL_FILE, data) if (out / data).is_file() else (_MODEL_FILE,)


def _lower(model: Path, out: Path, config: Config, context: Context) -> tuple[str, ...]:
    """Saves the graph as we and ONNX Runtime optimize it for any machine; gives the names of the files written."""
    level = "extended" if config.optimization == "all" else config.optimization
    opening = Opening(optimization=level, disabled=_forms(config).disabled)
    options = session_options(opening, Options(arena=False), context.threads)
    options.optimized_model_filepath = str(out / _MODEL_FILE)
    data = f"{_MODEL_FILE}.data"
    with tempfile.TemporaryDirectory(prefix="lower-", dir=context.work) as folder:
        rewritten = rewrite(model, Path(folder), _forms(config)) if level == "extended" else model
        if (rewritten.parent / data).is_file():
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        open_file(rewritten, options, opening)
        integer.pack(out / _MODEL_FILE)
    return (_MODEL_FILE, data) if (out / data).is_file() else (_MODEL_FILE,)


def _total_bytes(folder: Path, files: tuple[str, ...]) -> int:
    return sum((folder / name).stat().st_size for name in files)
