"""Exports a checkpoint to ONNX in dialect ``standard`` and proves that the two agree.

The graph comes from PyTorch's current exporter (``torch.export``) with dynamic batch and sequence, or from Optimum's,
which runs in a process, and if need be an environment, of its own. It is checked by
``onnx.checker`` and compared with PyTorch on real text at shapes that were not traced; when they differ, the error
names the first node that diverges. Weights stand in the file as the matrix products read them, ``[in, out]``, and
weights that layers share (ALBERT) stand there once.
"""

from __future__ import annotations

import functools
import gc
import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolchain import kinds
from toolchain.core.errors import GateError, ModelError, require
from toolchain.core.garbage import uncollected
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.kinds.contract import Kind
from toolchain.model import blueprint, checkpoint, graph, optimum, shapes, tidy, tokens, vocabulary

VERSION = 2
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript")

#: Longest input, in tokens, that the graph is compared at: attention written out takes memory by its square.
COMPARED_TOKENS = 512

#: Of a checkpoint that is quantized in training: largest mean |Δlogit| to PyTorch that rounding activations may make,
#: and the share of labels that an engine must give as its graph does.
QUANTIZED_TOLERANCE = 0.1
QUANTIZED_AGREEMENT = 0.995


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the export.

    Attributes:
        opset: ONNX operator set; from 22 on TensorRT does not take it. Weights of 4 bits have 21 at least.
        tolerance: Largest |Δlogit| to PyTorch that is accepted, in fp32.
        exporter: PyTorch's, or Optimum's (extra ``optimum``), which runs in a child process.
        python: Interpreter of an environment with Optimum; empty for the one that runs this.
    """

    opset: Annotated[int, Ge(18), Le(21)] = 20
    tolerance: Annotated[float, Gt(0), Le(0.1)] = 1e-4
    exporter: Literal["torch", "optimum"] = "torch"
    python: str = ""


def fingerprint(config: Config) -> dict[str, str]:
    """Versions in the environment that exports, where that is another one."""
    return optimum.versions(config.python) if config.exporter == "optimum" else {}


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Writes ``model.onnx`` and the interface that names its inputs.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Gives the real text to compare on.

    Returns:
        max_difference per shape, parameters, nodes, opset.

    Raises:
        ModelError: The architecture cannot be exported.
        GateError: The graph and PyTorch disagree.
    """
    torch, onnx = require("torch", "torch"), require("onnx", "torch")
    require("onnxscript", "torch")
    torch.set_num_threads(context.threads)
    # Attention as plain products and softmax: every quantizer, fusion and runtime knows that shape of it.
    model = checkpoint.load_model(source, attention="eager")
    tokenizer = checkpoint.load_tokenizer(source)
    vocabulary.check(model, tokenizer, source)
    interface = checkpoint.read_json(source / "interface.json")
    names = checkpoint.model_inputs(model, tokenizer)
    batches = list(example_batches(tokenizer, context, interface["max_length"], names))
    kind = kinds.of_folder(source)
    wrapper = outputs_only(model, names, kind).eval()
    quantized = shapes.QUANTIZERS in model.config.to_dict()
    opset = config.opset
    path = out / "model.onnx"

    if quantized and config.exporter == "optimum":
        raise ModelError(
            f"{source} is quantized in training, which Optimum's exporter does not know",
            "use export: {exporter: torch}",
        )
    if quantized:
        from toolchain.model import integer

        opset = max(opset, integer.least_opset(model))
    external = checkpoint.count_parameters(model) * 4 > graph.MAX_BYTES

    def exported(*, anew: bool = False) -> Any:
        traced = wrapper
        if quantized:
            traced = outputs_only(checkpoint.load_model(source, attention="eager"), names, kind).eval()
            integer.lower(traced.model)
        program = trace(traced, batches[0][1], names, opset, source, context.traces, kind=kind, anew=anew)
        if quantized:
            integer.finish(program.model)
        tidy.store_transposed(program.model)
        tidy.strip(program.model)
        return program

    versions = {}
    if config.exporter == "optimum":
        versions = _export_with_optimum(source, path, config, context, external=external)
    else:
        exported().save(str(path), external_data=external)  # not kept: made again in the rare case that it is needed
    onnx.checker.check_model(str(path), full_check=False)
    if quantized:
        differences, rounding = _quantized_parity(path, wrapper, batches[1:], config.tolerance, context)
    else:
        program = functools.partial(exported, anew=True) if config.exporter == "torch" else None
        differences = parity(path, wrapper, batches[1:], config.tolerance, context.threads, program)
    proto = graph.load(path, weights=False)
    checkpoint.copy_tokenizer(source, out)
    checkpoint.write_json(out / "interface.json", interface | {"inputs": list(names), "dialect": graph.dialect(proto)})
    mean = mean_tokens(tokenizer, context, interface["max_length"])
    return {
        "max_difference": max(differences.values()),
        "differences": differences,
        "opset": opset,
        "nodes": len(proto.graph.node),
        "mean_tokens": mean,
        "flops": operations(model, round(mean)),
        "parameters": checkpoint.count_parameters(model),
        **({"exporter": versions} if versions else {}),
        **({"rounding": rounding, "parity": {"floor": QUANTIZED_AGREEMENT}} if quantized else {}),
    }


def example_batches(
    tokenizer: Any, context: Context, max_length: int, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Real text at several shapes: the first batch is traced, the rest are compared.

    Yields:
        A name such as ``1x3``, and the inputs, each ``[batch, tokens]`` int64.
    """
    texts = context.dataset().train.texts[:32]
    joined = tuple(" ".join(column) for column in zip(*texts, strict=True))
    special = tokenizer.num_special_tokens_to_add(pair=len(joined) > 1)
    shortest, longest = special + len(joined), min(max_length, COMPARED_TOKENS)
    fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}

    def batch(chosen: Sequence[tuple[str, ...]], length: int) -> tuple[str, dict[str, Any]]:
        rows = tokens.tokenize(tokenizer.backend_tokenizer, chosen, length, tokenizer.truncation_side)
        inputs = tokens.pad(rows, names, fills, tokenizer.padding_side)
        return "x".join(map(str, inputs["input_ids"].shape)), {name: torch.from_numpy(inputs[name]) for name in names}

    torch = require("torch", "torch")
    yield batch(texts[:2], longest)
    yield batch([joined], shortest)
    yield batch(texts[:1], longest)
    yield batch([joined, *texts[1:5]], longest)
    yield batch(texts, min(longest, 48))
    yield batch([joined], longest)


def mean_tokens(tokenizer: Any, context: Context, max_length: int) -> float:
    """Mean length of the task's dev examples in tokens."""
    texts = context.dataset().dev.texts
    rows = tokens.tokenize(tokenizer.backend_tokenizer, texts, max_length, tokenizer.truncation_side)
    return sum(map(len, rows)) / len(rows)


def parity(
    path: Path,
    wrapper: Any,
    batches: Sequence[tuple[str, dict[str, Any]]],
    tolerance: float,
    threads: int,
    program: Callable[[], Any] | None,
) -> dict[str, float]:
    """Largest |Δlogit| between the file and PyTorch for every batch.

    Args:
        path: The ONNX file, as it is on disk.
        wrapper: PyTorch module that takes the inputs in order and gives logits.
        batches: Shapes with their inputs.
        tolerance: Largest difference accepted.
        threads: Threads of both.
        program: Gives the exporter's program, to find the first diverging node with; None where there is none.

    Raises:
        GateError: A difference is above the tolerance; it names the shape and the first diverging node.
    """
    differences: dict[str, float] = {}
    for (shape, inputs), found in zip(batches, distances(path, wrapper, batches, threads), strict=True):
        differences[shape] = max(float(found.max()), differences.get(shape, 0.0))
        if not differences[shape] <= tolerance:
            first = first_diverging(program(), tuple(inputs.values()), tolerance) if program else None
            where = first or ("not found, every node agrees alone" if program else "not known for such a graph")
            raise GateError(
                f"export: at shape {shape} the ONNX graph differs from PyTorch by {differences[shape]:.3g} in a logit "
                f"(allowed {tolerance:g}); first diverging node: {where}",
                "if this model computes in low precision by design, raise export: {tolerance: …}; otherwise report it",
            )
    return differences


def distances(
    path: Path,
    wrapper: Any,
    batches: Sequence[tuple[str, dict[str, Any]]],
    threads: int,
    *,
    as_written: bool = False,
) -> list[NDArray[np.float64]]:
    """|Δlogit| between the file and PyTorch for every batch, a row of numbers each; infinite where the shapes differ.

    Args:
        path: The ONNX file, as it is on disk.
        wrapper: PyTorch module that takes the inputs in order and gives the outputs.
        batches: Shapes with their inputs.
        threads: Threads of both.
        as_written: Run the nodes that stand in the file. Optimized, int8 pairs around a product become an integer
            kernel, whose sums saturate on processors without VNNI.
    """
    torch, ort = require("torch", "torch"), require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")  # a third copy of the weights, for speed alone
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    differences = []
    for _, inputs in batches:
        with torch.inference_mode():
            given = wrapper(*inputs.values())
        expected = [each.numpy() for each in (given if isinstance(given, tuple) else (given,))]
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[: len(expected)]
        alike = [each.shape for each in found] == [each.shape for each in expected]
        far = [np.abs(a - b, dtype=np.float64).ravel() for a, b in zip(found, expected, strict=True)] if alike else []
        differences.append(np.concatenate(far) if alike else np.full(1, np.inf))
    return differences


def _quantized_parity(
    path: Path, wrapper: Any, batches: Sequence[tuple[str, dict[str, Any]]], tolerance: float, context: Context
) -> tuple[dict[str, float], float]:
    """As :func:`parity` without the rounding of activations; and the mean |Δlogit| with it.

    Where a sum comes out a little different, a number is rounded to the next integer, and all is different from there
    on: that can be judged in the mean alone.
    """
    from toolchain.model import integer

    with tempfile.TemporaryDirectory(prefix="floats-", dir=context.work) as folder:
        floats = Path(folder) / path.name
        integer.without_pairs(path, floats)
        with integer.reading_floats(wrapper):
            differences = parity(floats, wrapper, batches, tolerance, context.threads, None)
    found = distances(path, wrapper, batches, context.threads, as_written=True)
    mean = float(np.concatenate([distance.ravel() for distance in found]).mean())
    if not mean <= QUANTIZED_TOLERANCE:
        raise GateError(
            f"export: the ONNX graph differs from the quantized PyTorch model by {mean:.3g} in a logit, in the mean "
            f"(allowed {QUANTIZED_TOLERANCE:g})",
            "the model answers at random where its activations round: more bits, or more training; otherwise report it",
        )
    return differences, mean


def first_diverging(program: Any, inputs: tuple[Any, ...], tolerance: float) -> str | None:
    """Name of the first value whose ONNX result leaves PyTorch's, in topological order.

    Args:
        program: The exporter's ONNX program, which still holds the PyTorch graph.
        inputs: One batch, in the order of the inputs.
        tolerance: Largest absolute difference accepted.
    """
    verification = require("torch.onnx.verification", "torch")
    gc.freeze()  # it collects garbage after every node, which takes half a second over everything that is loaded
    try:
        with checkpoint.quiet():
            found = verification.verify_onnx_program(program, args=inputs, compare_intermediates=True)
    finally:
        gc.unfreeze()
    for item in found:
        if not item.max_abs_diff <= max(tolerance, 1e-5 * float(item.expected_dtype.is_floating_point)):
            return f"{item.name} (|Δ| {item.max_abs_diff:.3g})"
    return None


def outputs_only(model: Any, names: Sequence[str], kind: Kind) -> Any:
    """Return a module that takes the named inputs in order and gives the kind's outputs: one, or a tuple of several."""
    torch = require("torch", "torch")

    class Logits(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            outputs = tuple(kind.forward(self.model, dict(zip(names, inputs, strict=True))).values())
            return outputs if len(outputs) > 1 else outputs[0]

    return Logits()


def trace(
    wrapper: Any, inputs: dict[str, Any], names: Sequence[str], opset: int, source: Path,
    traces: Path | None = None, *, kind: Kind, anew: bool = False,
) -> Any:  # fmt: skip
    """Return the exporter's program of a module, for batches and texts of any size.

    Args:
        wrapper: The module.
        inputs: One batch.
        names: Names of the inputs.
        opset: Version of ONNX.
        source: The module's folder, for messages.
        traces: Folder of traced graphs, which may have this one; None for none.
        kind: The kind of task, which names the outputs.
        anew: Trace although a module of equal shape has been traced: the program then holds the PyTorch graph too.

    Raises:
        ModelError: It cannot be exported.
    """
    torch = require("torch", "torch")
    axes = {0: "batch", 1: "tokens"}
    outputs = [output.name for output in kind.OUTPUTS]

    def export() -> Any:
        return torch.onnx.export(
            wrapper,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(names),
            output_names=outputs,
            dynamic_shapes=(tuple(axes for _ in names),),
            opset_version=opset,
            optimize=False,
            verbose=False,
        )

    try:
        with checkpoint.quiet(), uncollected():  # millions of objects that stay: a quarter of the time
            settings = (tuple(names), opset, str(kind))
            return blueprint.traced(wrapper, inputs, settings, export, traces, anew=anew)
    except Exception as error:  # the exporter wraps whatever the model's own code raised
        cause = inspect.cleandoc(str(error.__cause__ or error)).splitlines()[0]
        raise ModelError(
            f"{source}: this architecture cannot be exported by torch {torch.__version__}: {cause}",
            "see the whole message with -v; report the architecture, or use a transformers version that exports it",
        ) from error


def _export_with_optimum(
    source: Path, path: Path, config: Config, context: Context, *, external: bool
) -> dict[str, str]:
    """Writes Optimum's graph as ours is written: weights as products read them, and once; gives versions."""
    ir = require("onnx_ir", "torch")
    with tempfile.TemporaryDirectory(prefix="optimum-", dir=context.work) as folder:
        versions = optimum.export(
            source, Path(folder), opset=config.opset, python=config.python, work=context.work, threads=context.threads
        )
        model = ir.load(Path(folder) / "model.onnx")
        tidy.store_transposed(model)
        tidy.strip(model)
        ir.save(model, path, external_data=f"{path.name}.data" if external else None)
    return versions


def operations(model: Any, tokens: int) -> int:
    """Floating-point operations of one example of so many tokens, as PyTorch's own counter counts them."""
    torch = require("torch", "torch")
    counter = require("torch.utils.flop_counter", "torch").FlopCounterMode(display=False)
    ids = torch.ones((1, tokens), dtype=torch.long)
    model.requires_grad_(False)  # the counter follows what has gradients, and finds none here
    with counter, torch.inference_mode():
        model(input_ids=ids, attention_mask=ids)
    return int(counter.get_total_flops())
