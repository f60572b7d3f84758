"""What is compared: every peer's ways to make an engine of the checkpoint, and the variants of our recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.data import Dataset
from toolchain.core.registry import PACKAGE
from toolchain.pipeline import document, plan
from toolchain.pipeline import recipe as recipes

#: ONNX Runtime as whoever opens a session without options has it; a test compares.
ONNXRUNTIME = {
    "provider": "cpu", "optimization": "all", "offline": False, "attention": "fused", "residuals": "fused",
    "spinning": True, "arena": True, "single_threads": 0, "streams": 1,
}  # fmt: skip

#: OpenVINO with its latency hint: one stream, batches as they come. Its precision is named beside it, for what it takes
#: by itself is not the same on every CPU. A test holds that none of what our engine adds is left on.
OPENVINO: dict[str, Any] = {
    "performance": "latency", "attention": "fused", "single_attention": "fused", "lengths": [], "streams": 1,
    "split": False,
}  # fmt: skip

#: The same with its throughput hint: one stream per thread, several whole batches at a time.
OPENVINO_STREAMS: dict[str, Any] = {**OPENVINO, "performance": "throughput", "streams": 0}

#: A peer's batches: as few as 32 texts each allow, whatever padding that takes; a request of 32 stays one batch.
WHOLE_BATCHES: dict[str, Any] = {"batching": {"call": 1e9, "attention": 1e9, "token_budget": 10**9}}


@dataclass(frozen=True)
class Task:
    """What every tool is given.

    Attributes:
        checkpoint: The fine-tuned model.
        digest: SHA-256 of its weights.
        data: SST-2.
        folder: Where the data is read from; None for the hub.
        identity: What decides the data.
        calibration: File with the calibration sentences.
        max_length: Longest input in tokens.
        pad_id: Token that pads.
    """

    checkpoint: Path
    digest: str
    data: Dataset
    folder: Path | None
    identity: dict[str, Any]
    calibration: Path
    max_length: int
    pad_id: int


@dataclass(frozen=True)
class Job:
    """One engine.

    Attributes:
        name: Its name in the table.
        tool: Who makes it: a script ``TOOL_tool.py``, and that tool's environment.
        settings: What the script is asked.
        engine: The runtime that opens it; empty where the tool makes an engine folder of ours.
        options: How it is opened.
        whose: ``peer``; ``ours``; ``reference`` for the fp32 engine that accuracy is compared with; ``mixed`` for a
            peer's engine whose batches our predictor chooses.
        made: What the tool makes, where several engines open the same file.
        depends: Whatever else decides what is made.
    """

    name: str
    tool: str
    settings: dict[str, Any]
    engine: str
    options: dict[str, Any]
    whose: str = "peer"
    made: str = ""
    depends: str = ""


def peers() -> Iterator[Job]:
    """Every peer engine; the first one is the fp32 reference."""
    yield _onnx("onnxruntime", "fp32", whose="reference", fused=False, quantize="")
    yield _onnx("onnxruntime", "fp32, fused", fused=True, quantize="")
    yield _onnx("onnxruntime", "dynamic int8", fused=False, quantize="dynamic")
    yield _onnx("onnxruntime", "dynamic int8, fused", fused=True, quantize="dynamic")
    yield _onnx("onnxruntime", "dynamic int8, fused, our batches", whose="mixed", fused=True, quantize="dynamic")
    yield _onnx("onnxruntime", "static int8", fused=False, quantize="static")
    yield _onnx("optimum", "O2 fp32", level="O2", quantize="")
    yield _onnx("optimum", "O3 fp32", level="O3", quantize="")
    yield _onnx("optimum", "avx512_vnni dynamic", level="", quantize="dynamic")
    yield _onnx("optimum", "O2, avx512_vnni dynamic", level="O2", quantize="dynamic")
    yield _onnx("optimum", "avx512_vnni static", level="", quantize="static")
    yield _onnx("olive", "optimize, quantize dynamic", quantize="dynamic")
    yield _onnx("olive", "optimize int8", quantize="static")
    yield _onnx("inc", "dynamic", quantize="dynamic")
    yield _onnx("inc", "static", quantize="static")
    for precision in ("f32", "bf16"):
        yield _openvino("fp32 from onnx", precision)
        yield _openvino("NNCF int8 from onnx", precision)
        yield _openvino("NNCF int8 from onnx, slow bias correction", precision)
        yield _openvino("NNCF int8 from onnx, streams", precision, OPENVINO_STREAMS)
        yield _openvino("NNCF int8 from onnx, our batches", precision, whose="mixed")
        yield _openvino("NNCF int8 from pytorch", precision)


def ours(path: Path, task: Task) -> Iterator[Job]:
    """Every variant of a recipe for every engine that takes it, made from the checkpoint.

    Args:
        path: The recipe; its own model and training stages are replaced by the checkpoint.
        task: The checkpoint and the data.
    """
    root = _on_checkpoint(document.read(path).value, task)
    source = source_digest()
    for row in plan.make(recipes.parse(document.Document(root, None)), "build").rows:
        engine = next(item for item in root["engines"] if _label(item) == row.engine)
        one = {**root, "variants": {row.variant: root["variants"][row.variant]}, "engines": [engine]}
        yield Job(
            name=f"ours · {row.name}", tool="toolchain", settings={"recipe": json.dumps(one)}, engine="", options={},
            whose="ours", depends=source,
        )  # fmt: skip


def source_digest() -> str:
    """Digest of this package's source: what we make depends on all of it."""
    files = sorted(PACKAGE.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _onnx(tool: str, what: str, *, whose: str = "peer", **settings: Any) -> Job:
    return Job(f"{tool} · {what}", tool, settings, "onnxruntime", ONNXRUNTIME, whose)


def _openvino(what: str, precision: str, options: Mapping[str, Any] = OPENVINO, whose: str = "peer") -> Job:
    quantize, frontend = "int8" in what, "pytorch" if "pytorch" in what else "onnx"
    return Job(
        name=f"openvino · {what}, {precision} hint", tool="openvino",
        settings={"frontend": frontend, "quantize": quantize, "fast": "slow" not in what}, engine="openvino",
        options={**options, "precision": precision}, whose=whose, made=f"openvino · {what}",
    )  # fmt: skip


def _on_checkpoint(root: dict[str, Any], task: Task) -> dict[str, Any]:
    """The recipe with the checkpoint for a model, without what trains one."""
    kept = {key: value for key, value in root.items() if key not in ("model", "models", "stages", "baseline", "test")}
    folder = {"folder": str(task.folder)} if task.folder else {}
    return {**_plain(kept), "model": str(task.checkpoint), "task": {"sst2": folder}}


def _plain(value: Any) -> Any:
    """What was read from YAML as what JSON has."""
    return json.loads(json.dumps(value))


def _label(engine: Any) -> str:
    """The name under which a recipe's engine stands in the table."""
    if isinstance(engine, str):
        return engine
    name, settings = next(iter(engine.items()))
    return str((settings or {}).get("as", name))
