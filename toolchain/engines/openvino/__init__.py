"""OpenVINO on the CPU: float and int8 graphs as IR, with settings that are tuned on dev texts and recorded.

The precision is always asked for, because OpenVINO by itself computes an fp32 model in bf16 where the processor can;
and the graph that was executed is read back, so that an int8 product that ran in float is counted. Two things cost
OpenVINO most on texts, whose lengths differ: a graph of dynamic shape is prepared anew whenever the shape changes,
which at batch 1 takes longer than computing it, so single texts run in graphs of fixed length; and a batch is padded
to its longest text, so a batch is split into parts of like length, which run on one stream each.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import EngineError, RecipeError
from toolchain.core.processors import processor
from toolchain.core.session import Session
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.engines.openvino import ir
from toolchain.engines.openvino.graph import describe
from toolchain.engines.openvino.session import DEVICE, Plan, open_plan
from toolchain.engines.openvino.tuning import tuned
from toolchain.engines.shared import fusion_claim
from toolchain.engines.shared.artifact import need_space, read_engine, write_engine
from toolchain.engines.shared.batching import BATCHING_KEY, Batching

VERSION = 5
LIBRARIES = ("openvino",)
ACCEPTS = ("standard", "qdq", "qdq-asymmetric")
EXTRA = "openvino"

#: oneDNN computes the products.
NARROWED_BY = {"ONEDNN_MAX_CPU_ISA": "AVX2"}

__all__ = ["DEVICE", "Config", "build", "fingerprint", "open_session"]

#: Modules that ``open_session`` loads; timing imports them before it times the session itself.
MODULES = ("openvino",)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How OpenVINO builds and runs the model."""

    #: What float operators compute in; int8 products stay int8, which goes with f32 and bf16. OpenVINO's own default is
    #: bf16 where there is AMX.
    precision: Literal["f32", "bf16", "f16"] = "f32"
    #: Store float weights as fp16: half the bytes, rounded to 11 bits.
    compress_to_fp16: bool = False
    #: What the threads are for: one text at a time, several batches at a time, or each as it comes.
    performance: Literal["auto", "latency", "throughput"] = "auto"
    #: Batches computed at a time; 0 is one per thread, or as tuned. With performance latency it is one.
    streams: Annotated[int, Ge(0), Le(256)] = 0
    #: Attention as OpenVINO's one kernel, or as products and softmax; auto is the quicker one, as tuned.
    attention: Literal["auto", "fused", "plain"] = "auto"
    #: Graphs of fixed length for single texts, at lengths that pad the dev texts least; 0 is none, and so is any number
    #: with performance throughput.
    static_lengths: Annotated[int, Ge(0), Le(32)] = 6
    #: Memory in MiB that the graphs of fixed length may take together; each holds the weights once.
    static_memory_mib: Annotated[int, Ge(0)] = 512
    #: What one more part of a batch costs, in tokens of work; 0 is as tuned.
    call_tokens: Annotated[int, Ge(0), Le(100_000)] = 0
    #: Group size in which activations before int8 or int4 weights are quantized as they come; 0 keeps them float.
    dynamic_quantization: Annotated[int, Ge(0), Le(4096)] = 0
    #: Time settings on dev texts while building and keep the best.
    tune: bool = True
    #: About how long tuning may time, in seconds; a large model is timed on fewer batches, each setting at least twice.
    tune_seconds: Annotated[float, Gt(0), Le(3600)] = 8.0


def fingerprint(config: Config) -> dict[str, Any]:
    """The facts that the engine depends on: processor family and OpenVINO; what tuned it, where it is tuned."""
    try:
        version = importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        version = None
    tuned_on = processor() if config.tune else {}
    return {"machine": platform.machine(), "openvino": version, **tuned_on}


def tunes(config: Config) -> bool:
    """Whether dev texts and the number of threads decide how it is run; fixed lengths are those of dev texts."""
    return config.tune or config.static_lengths > 0


def build(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Converts an ONNX model to IR, tunes how it is run, and reads back what was executed.

    Args:
        source: Folder with ``model.onnx``, its tokenizer and interface.
        out: The engine folder; gets ``model.xml``, ``model.bin`` and ``engine.json``.
        config: The engine's settings.
        context: Threads to tune for; dev texts.

    Returns:
        ``bytes``, ``source_bytes``, ``placement``, ``fusion``, ``precision``, and ``tuning``: every setting tried.

    Raises:
        ModelError: The source is missing, damaged, or keeps data outside of its folder.
        EngineError: OpenVINO lacks an operator of the model, or cannot compute as it was asked to.
        RecipeError: The settings contradict each other.
    """
    from toolchain.model.onnx_file import inspect

    _check(config)
    found = inspect(source / ir.SOURCE_FILE)
    need_space(out, found.bytes)
    expected = ir.expectations(source / ir.SOURCE_FILE)
    if config.precision == "f16" and expected.int8_products:
        raise EngineError(
            f"{source / ir.SOURCE_FILE} has {expected.int8_products} int8 products, and precision f16 was asked for: "
            "beside f16, OpenVINO computes them by reference kernels, many times slower than in f32",
            "precision: f32 or bf16 for int8 graphs; f16 for float ones",
        )
    ir.convert(source / ir.SOURCE_FILE, out, compress=config.compress_to_fp16)
    files = (ir.GRAPH_FILE, ir.WEIGHTS_FILE)
    size_bytes = sum((out / name).stat().st_size for name in files)
    plan, tuning = tuned(source, out, config, context)
    plan = replace(plan, int8_products=expected.int8_products)
    session = open_plan(out, plan, context.threads)
    told = describe(session.executed(), expected, plan.precision, plan.attention)
    batching = Batching(call=plan.call_tokens).record()
    extra = fusion_claim.record(told["fusion"], source) | {"precision": told["precision"]}
    write_engine(out, "openvino", files, asdict(plan), extra | {BATCHING_KEY: batching})
    return {
        "bytes": size_bytes,
        "source_bytes": found.bytes,
        "placement": session.placement(),
        **extra,
        "tuning": tuning,
    }


def open_session(folder: Path, threads: int) -> Session:
    """Loads an engine folder.

    Args:
        folder: The engine folder.
        threads: Threads to compute with; 0 leaves it to OpenVINO.

    Raises:
        EngineError: The engine cannot be loaded, or would compute in another precision than it was built for.
    """
    options = read_engine(folder).options
    try:
        plan = Plan(**{**options, "lengths": tuple(options["lengths"])})
    except (TypeError, KeyError) as error:
        message = f"{folder} has options that this version does not know: {dict(options)}"
        raise EngineError(message, "build the engine again") from error
    return open_plan(folder, plan, threads)


def _check(config: Config) -> None:
    if config.performance == "latency" and config.streams > 1:
        raise RecipeError(
            f"openvino: streams is {config.streams}, and performance latency computes one batch at a time, by all "
            "threads; it goes with streams 0 and 1",
            "leave streams out, or performance: throughput (or auto)",
        )
