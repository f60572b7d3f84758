"""What the Intel Neural Compressor passes share: its process, its files, its errors, and what its graphs still need.

The package is version 3.7.1, the last that quantizes ONNX. It runs in a child process (``quantize_child``), with this
interpreter or another one: it takes seconds to import, answers an error with None or ``sys.exit``, prints, and writes
into the current folder.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import kinds
from toolchain.core import child
from toolchain.core.child import ChildError
from toolchain.core.errors import ModelError, RecipeError, ToolchainError
from toolchain.core.log import Progress, logger, progress
from toolchain.core.stage import DIALECTS, Context, Metrics
from toolchain.model import graph, labels, tokens
from toolchain.optimize.shared import int8
from toolchain.optimize.shared.calibration import calibration_batches
from toolchain.optimize.shared.inc import errors, graph_edits

#: Distributions whose versions decide the result.
LIBRARIES = ("neural-compressor", "onnxruntime", "onnx", "numpy")

#: What it cannot be imported without, beside these.
_TOOLS = ("setuptools",)

_SCRIPT = Path(__file__).with_name("quantize_child.py")

#: The package's word for a node that stays in floating point.
FLOAT = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How long to search, and for what.

    Attributes:
        max_drop: Dev accuracy that may be lost, of 0 to 1.
        trials: Graphs to try at most.
        minutes: Time, the package's start included, after which the best so far is taken.
        dev_samples: Dev sentences to judge on, the first ones.
    """

    max_drop: float
    trials: int
    minutes: float
    dev_samples: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the package is asked to do with one graph.

    Attributes:
        technique: The pass, for messages.
        settings: Keyword arguments of its ``PostTrainingQuantConfig``, JSON values.
        dialect: Of the graph that comes out, or one that fewer engines take.
        python: Interpreter that has the package; empty for this one.
        exclude: Nodes, or weights, that stay in floating point.
        embeddings: Quantize the embedding tables too.
        attention: Quantize the products of two activations too.
        calibration_samples: Training sentences to calibrate on; 0 when none are needed.
        readings: How often the package reads them, for the progress bar.
        equal_lengths: Whether it wants calibration sentences of one length.
        smooth: Whether layers that share a weight must get equal scales.
        tuning: The search, if there is one.
    """

    technique: str
    settings: dict[str, Any]
    dialect: str
    python: str
    exclude: Sequence[str]
    embeddings: bool
    attention: bool = False
    calibration_samples: int = 0
    readings: int = 1
    equal_lengths: bool = False
    smooth: bool = False
    tuning: Tuning | None = None


def job(technique: str, config: Any, **rest: Any) -> Job:
    """What a pass asks for: the settings that all of them have, from its own, and the rest.

    Args:
        technique: The pass.
        config: Its settings.
        rest: What its settings do not name as :class:`Job` does.
    """
    shared = ("python", "exclude", "embeddings", "attention", "calibration_samples")
    return Job(technique=technique, **{name: getattr(config, name) for name in shared if hasattr(config, name)} | rest)


def fingerprint(config: Any) -> dict[str, str]:
    """Versions in the interpreter that a pass's settings name; empty for this one, whose versions the key holds."""
    return child.versions(config.python, LIBRARIES) if config.python else {}


def static(symmetric: bool, reduce_range: bool) -> dict[str, Any]:
    """Settings of static Q/DQ; symmetric int8 is what the package makes for TensorRT, on any machine."""
    backend = {"backend": "onnxrt_trt_ep", "device": "gpu"} if symmetric else {}
    return {"approach": "static", "quant_format": "QDQ", "reduce_range": reduce_range, **backend}


def weights(per_channel: bool, algorithm: str = "") -> dict[str, Any]:
    """Settings of the two kinds of operator that are quantized; no algorithm leaves it to the package.

    A table has one scale: ONNX Runtime then looks up int8 rows and widens those, not the table.
    """
    activation: dict[str, Any] = {"activation": {"algorithm": [algorithm]}} if algorithm else {}
    granularity = "per_channel" if per_channel else "per_tensor"
    return {
        "MatMul": {"weight": {"granularity": [granularity]}, **activation},
        "Gather": {"weight": {"granularity": ["per_tensor"]}},
    }


def load(source: Path) -> Any:
    """Opens the float graph as the package wants it: no Gemm, no notes of shapes, equal weights once."""
    model = int8.replace_gemm(int8.load_float(source / "model.onnx"))
    size_bytes = graph.size_bytes(model)
    if size_bytes > graph.MAX_BYTES:
        raise ModelError(
            f"{source / 'model.onnx'} has {size_bytes} bytes; Intel Neural Compressor is given at most "
            f"{graph.MAX_BYTES}",
            "use static_int8 or dynamic_int8, which keep weights as external data",
        )
    graph_edits.deduplicate(model)
    return model


def quantize(model: Any, source: Path, out: Path, job: Job, context: Context) -> Metrics:
    """Has the package quantize a graph, and writes ``model.onnx``.

    Args:
        model: What :func:`load` gave; changed in place.
        source: Folder with tokenizer and interface.
        out: Folder to write.
        job: What to do.
        context: Data, threads, and a folder to work in.

    Returns:
        nodes, parameters, int8_weights, float_weights, the package's versions, and of a search what it found.

    Raises:
        MissingPackageError: The interpreter has no package that works.
        ModelError: The package gave no graph, or one of another dialect.
        RecipeError: A pattern of ``exclude`` matches nothing, or there is no such interpreter.
    """
    parameters = graph.parameters(model)
    excluded = int8.excluded_nodes(model, job.exclude, embeddings=job.embeddings, attention=job.attention)
    log = context.work / "inc.log"
    with tempfile.TemporaryDirectory(prefix="inc-", dir=context.work) as name:
        folder = Path(name).resolve()
        # Its TensorRT backend fails on weights that several nodes read; copies become one again below.
        groups = graph_edits.unshare(model) if job.smooth or "backend" in job.settings else {}
        graph.save(model, folder / "model.onnx")
        request: dict[str, Any] = {
            "model": str(folder / "model.onnx"), "output": str(folder / "quantized.onnx"),
            "progress": str(folder / "progress"), "workspace": str(folder / "workspace"), "calibration": None,
            "threads": context.threads, "groups": groups, "settings": _settings(model, job, excluded), "tuning": None,
        }  # fmt: skip
        steps = 0
        if job.calibration_samples:
            batches = calibration_batches(source, job.calibration_samples, context)
            batches = _of_one_length(batches) if job.equal_lengths else batches
            steps = len(batches) * job.readings
            request["calibration"] = str(_write(folder / "calibration.npz", batches))
            request["settings"]["calibration_sampling_size"] = [len(batches)]
        found: dict[str, Any] = {"inc": child.versions(job.python, (*LIBRARIES, *_TOOLS))}
        if job.tuning:
            request["tuning"] = _tuning(job.tuning, folder, source, context)
            steps = job.tuning.trials
        try:
            if early := _run(job, request, context, log, steps).get("ended_by"):
                logger.warning("    %s: the search ended in an error, %s; the best graph is kept", job.technique, early)
        except ChildError as error:
            if not (folder / "best.json").is_file():
                raise _explained(error, job, found["inc"], log) from error
            logger.warning("    %s; the best graph until then is kept", error.message.splitlines()[0])
        path = folder / "quantized.onnx"
        if job.tuning:
            best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
            path = folder / best.pop("file")
            found |= _judged(best, job)
        made = graph.load(path)
    graph_edits.deduplicate(made)
    graph_edits.fold_quantized_weights(made)
    graph_edits.deduplicate(made)
    del made.graph.value_info[:]
    given = graph.dialect(made)
    if given == "standard" or DIALECTS.index(given) > DIALECTS.index(job.dialect):
        raise ModelError(
            f"{job.technique}: Intel Neural Compressor gave a graph of dialect {given}, not {job.dialect}",
            "it left everything in floating point: exclude less" if given == "standard" else "report the graph",
        )
    graph.save(made, out / "model.onnx")
    log.unlink(missing_ok=True)
    return int8.report(made) | {"parameters": parameters} | found


def _settings(model: Any, job: Job, excluded: Sequence[str]) -> dict[str, Any]:
    """The package's settings for this graph: only matrix products and lookups, and not those that are excluded."""
    kinds = {node.op_type for node in model.graph.node} - {"MatMul", "Gather"}
    settings = {"excluded_precisions": ["bf16", "fp16"], "quant_level": "auto", **job.settings}
    settings["recipes"] = {
        # The package would fuse for ONNX Runtime first; that is lowering, and the engine's.
        "graph_optimization_level": "DISABLE_ALL",
        "optypes_to_exclude_output_quant": ["MatMul", "Gather"],
        **job.settings.get("recipes", {}),
    }
    settings["op_type_dict"] = {kind: FLOAT for kind in sorted(kinds)} | job.settings.get("op_type_dict", {})
    settings["op_name_dict"] = {re.escape(name): FLOAT for name in excluded}
    return settings


def _tuning(tuning: Tuning, folder: Path, source: Path, context: Context) -> dict[str, Any]:
    dev, metric = context.dataset().dev, kinds.of_folder(source).METRIC
    if not metric.binary:
        raise RecipeError(
            f"this technique keeps the accuracy of labels, and the task is judged by {metric.name}",
            "nncf_static with accuracy_control keeps any metric",
        )
    gold = labels.dev_labels(source, context.dataset())
    count = min(tuning.dev_samples, len(dev))
    batches, positions = _dev_batches(source, dev.texts[:count])
    return {
        "dev": str(_write(folder / "dev.npz", batches)), "labels": [gold[i] for i in positions],
        "max_drop": tuning.max_drop, "trials": tuning.trials, "seconds": 60 * tuning.minutes, "best": str(folder),
    }  # fmt: skip


def _dev_batches(source: Path, texts: Sequence[tuple[str, ...]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Tokenized sentences in batches of equal length, and the position of each."""
    encoded = tokens.encode(source, texts)
    groups = tokens.by_length(encoded, 32)
    batches = [tokens.padded(source, [encoded[index] for index in group]) for group in groups]
    return batches, [index for group in groups for index in group]


def _of_one_length(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Single sentences cut to the median of the lengths, for what stacks them; shorter ones are left out."""
    lengths = [batch["input_ids"].shape[1] for batch in batches for _ in batch["input_ids"]]
    length = int(np.median(lengths))
    return [
        {name: values[row : row + 1, :length] for name, values in batch.items()}
        for batch in batches
        for row in range(len(batch["input_ids"]))
        if batch["input_ids"].shape[1] >= length
    ]


def _write(path: Path, batches: list[dict[str, Any]]) -> Path:
    np.savez(
        path, **{f"{number}:{name}": value for number, batch in enumerate(batches) for name, value in batch.items()}
    )
    return path


def _run(job: Job, request: dict[str, Any], context: Context, log: Path, steps: int) -> dict[str, Any]:
    path = Path(request["progress"])
    path.touch()
    limit = 60 * job.tuning.minutes if job.tuning else None
    label = "trials" if job.tuning else "calibrating"
    with contextlib.ExitStack() as bars, path.open(encoding="utf-8") as lines:
        # The bar begins when the package has been imported, or that would count as slow work. A trial reads the
        # calibration sentences as well; what is counted then is trials.
        watch = _watcher(lines.readline, lambda: bars.enter_context(progress(label, steps)), trials=bool(job.tuning))
        return child.run(
            _SCRIPT, request, python=job.python, work=context.work, threads=context.threads,
            what=errors.what(job.technique), keep_log=log, watch=watch, limit_s=limit,
        )  # fmt: skip


def _watcher(line: Callable[[], str], start: Callable[[], Progress], *, trials: bool) -> Callable[[], None]:
    """Reads what the child has said since it was last called; the first line says that work starts."""
    pending, bar = "", None

    def watch() -> None:
        nonlocal pending, bar
        while read := line():
            pending += read
            if not pending.endswith("\n"):
                return
            said, pending = json.loads(pending), ""
            bar = bar or start()
            if said["advance"] and bool(said["note"]) == trials:
                bar.advance(said["advance"], said["note"])

    return watch


def _explained(error: ChildError, job: Job, versions: dict[str, str], log: Path) -> ToolchainError:
    """The error in our words; a search that ran out of time before its first graph is one of its own."""
    if error.kind in ("MissingError", "ModuleNotFoundError"):
        return errors.missing(error.said, versions, job.technique, job.python)
    if job.tuning and (error.kind == "TooLateError" or error.said.startswith("was ended after")):
        return ModelError(
            f"{errors.what(job.technique)} finished no trial within minutes: {job.tuning.minutes:g}; "
            f"all that it said: {log}",
            "raise minutes, or lower calibration_samples and dev_samples",
        )
    return errors.explained(error, job.technique, log)


def _judged(best: dict[str, Any], job: Job) -> dict[str, Any]:
    """What the search found, for the manifest; says so when that is not what was asked for."""
    assert job.tuning is not None
    drop = best["baseline"] - best["accuracy"]
    if not best["reached"]:
        logger.warning(
            "    %s: none of %d graphs kept within %g of the float graph's %.4f on dev; the best, %.4f, is %.4f below",
            job.technique, best["trials"], job.tuning.max_drop, best["baseline"], best["accuracy"], drop,
        )  # fmt: skip
    return {
        "target_reached": best["reached"], "trials": best["trials"], "accuracy_drop_dev": drop,
        "accuracy_dev": best["accuracy"], "accuracy_dev_float": best["baseline"],
    }  # fmt: skip
