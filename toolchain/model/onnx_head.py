"""What an ONNX graph answers: its logits are made its only output, and a graph that has none is refused by its name.

1. Inputs are ``[batch, tokens]``, both of any size.
2. The output is ``logits``, or the only one there is; it is a float tensor with the axes of the kind's own, such as
   ``[batch, labels]`` with two labels at least.
3. The activation of the kind of task at its end is taken out, since whoever reads logits applies it: ``Softmax`` or
   ``LogSoftmax`` of one label, ``Sigmoid`` of several labels at once. That of another kind is refused.

The graph is then tried on tokens of two shapes, where ONNX Runtime can load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import MissingPackageError, ModelError, first_line, require
from toolchain.core.session import INPUTS
from toolchain.kinds.contract import Kind
from toolchain.model.heads import served

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Output names of graphs that answer something else, and what those graphs are for.
_FOREIGN = {
    "start_logits": "question answering",
    "last_hidden_state": "embeddings",
    "pooler_output": "embeddings",
    "sentence_embedding": "embeddings",
    "token_embeddings": "embeddings",
    "prediction_logits": "pretraining",
}

#: What stands between an activation and the output and changes nothing.
_PASSING = ("Identity", "Cast")

#: What a graph with an activation at its end is for, where that is not the activation of the kind of task.
_ENDINGS = {
    "Softmax": "single-label classification", "LogSoftmax": "single-label classification",
    "Sigmoid": "multi-label classification", "HardSigmoid": "multi-label classification",
}  # fmt: skip

#: Rows and tokens that a graph is tried on.
_SHAPES = ((4, 7), (2, 12))

#: Largest difference of a row's sum to 1 that is rounding.
_ROUNDING = 1e-3

_DYNAMIC = "export it again with dynamic axes for batch and tokens"


def take_logits(model: Any, path: Path, kind: Kind) -> tuple[list[str], bool]:
    """Make the logits of a graph its only output.

    Args:
        model: The ``onnx.ModelProto``, changed in place.
        path: What an error names.
        kind: The kind of task; where it answers a number, an activation is a part of the answer.

    Returns:
        Notes on what was left out, and whether an activation was.

    Raises:
        ModelError: The graph answers something else.
    """
    _check_inputs(model, path, kind)
    output, notes = _output(model, path, kind), list[str]()
    if len(model.graph.output) > 1:
        left = [value.name for value in model.graph.output if value.name != output.name]
        notes.append(f"{path.name} has other outputs than its logits, which were left out: {', '.join(left)}")
        del model.graph.output[:]
        model.graph.output.append(output)
    _check_shape(model, path, kind)
    activation = _activation(model)
    if activation is None or not kind.ACTIVATION:
        return notes, False
    if activation.op_type not in ("ArgMax", kind.ACTIVATION, f"Log{kind.ACTIVATION}"):
        raise _other(_ENDINGS[activation.op_type], path, f"its last node is {activation.op_type}", kind)
    if activation.op_type == "ArgMax":
        raise ModelError(f"{path} answers indices of labels (ArgMax), not logits", "export it without its last nodes")
    _bypass(model.graph, activation)
    return [*notes, f"{path.name} ended with {activation.op_type}, which was taken out: engines answer logits"], True


def try_out(path: Path, labels: int, largest: int, named: Path, kind: Kind, before: Path | None = None) -> None:
    """Run a graph on random tokens of two shapes and on its tokenizer's last one, where ONNX Runtime can load it.

    Args:
        path: The graph, as it was taken in.
        labels: How many logits it must give.
        largest: The largest token id of its tokenizer.
        named: What an error names.
        kind: The kind of task.
        before: The graph as it came, where its activation was taken out: both must give the same probabilities.

    Raises:
        ModelError: It fails, has fixed shapes, answers something else, or answers probabilities.
    """
    session = _session(path)
    if session is None:
        return
    random, axes = np.random.default_rng(0), kind.OUTPUTS[0].axes
    answers = []
    for shape in _SHAPES:
        ids = random.integers(0, largest + 1, shape, dtype=np.int64)
        ids[0, 1] = largest
        batch = _batch(session, ids)
        try:
            answer = np.asarray(session.run(None, batch)[0], np.float32)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise ModelError(
                f"{named} fails on a batch of {shape[0]} texts of {shape[1]} tokens: {first_line(error)[:300]}",
                _DYNAMIC,
            ) from error
        sizes = {"batch": shape[0], "tokens": shape[1], "labels": labels}
        expected = tuple(sizes.get(axis, size) for axis, size in zip(axes, answer.shape, strict=False))
        if answer.shape != expected or len(axes) != answer.ndim:
            raise ModelError(
                f"{named} answers {shape[0]} texts of {shape[1]} tokens with the shape {list(answer.shape)}; "
                f"a {'model of ' + str(kind) if kind.NAMES else f'classifier of {labels} labels'} gives "
                f"{[sizes.get(axis, axis) for axis in axes]}",
                f"only {served(kind)[0]} is served",
            )
        if before is not None:
            _check_same(answer, np.asarray(_require_session(before).run(None, batch)[0], np.float32), named, kind)
        answers.append(answer)
    if _are_probabilities(np.concatenate([answer.reshape(-1, labels) for answer in answers]), kind):
        raise ModelError(
            f"{named} answers probabilities, whose activation could not be found, and not logits",
            "export it without its last activation",
        )


def embedding_rows(model: Any) -> int | None:
    """Return how many rows the table of token embeddings has; None where it is not found."""
    made = {name: node for node in model.graph.node for name in node.output}
    sizes = {weight.name: weight.dims[0] for weight in model.graph.initializer if weight.dims}

    def comes_from(name: str, wanted: Any) -> bool:
        while name in made and made[name].op_type in (*_PASSING, "DequantizeLinear", "Clip") and made[name].input:
            name = made[name].input[0]
        return bool(wanted(name))

    for node in model.graph.node:
        if node.op_type != "Gather" or not comes_from(node.input[1], lambda name: name == "input_ids"):
            continue
        table = node.input[0]
        while table in made and made[table].op_type in (*_PASSING, "DequantizeLinear"):
            table = made[table].input[0]
        if table in sizes:
            return int(sizes[table])
    return None


def _check_inputs(model: Any, path: Path, kind: Kind) -> None:
    for value in model.graph.input:
        shape = value.type.tensor_type.shape
        if value.name not in INPUTS or not value.type.tensor_type.HasField("shape"):
            continue
        if len(shape.dim) == 3:
            raise _other("multiple choice", path, f"{value.name} is [batch, choices, tokens]", kind)
        if len(shape.dim) != 2:
            raise ModelError(f"{path}: {value.name} has {len(shape.dim)} axes; a text classifier reads [batch, tokens]")
        fixed = [dim.dim_value for dim in shape.dim if dim.HasField("dim_value")]
        if fixed:
            shown = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in shape.dim)
            axes = '{"input_ids": {0: "batch", 1: "tokens"}, …}'
            raise ModelError(
                f"{path}: {value.name} has the fixed shape [{shown}]; batches and texts have any length",
                f"{_DYNAMIC}: torch.onnx.export(…, dynamic_axes={axes}), or optimum-cli export onnx",
            )


def _output(model: Any, path: Path, of_task: Kind) -> Any:
    outputs = {value.name: value for value in model.graph.output}
    for name, kind in _FOREIGN.items():
        if name in outputs and "logits" not in outputs:
            raise _other(kind, path, f"its outputs are {', '.join(outputs)}", of_task)
    if any(name.startswith("present") for name in outputs):
        raise _other("language modelling", path, f"its outputs are {', '.join(list(outputs)[:3])}, …", of_task)
    if "logits" not in outputs and len(outputs) > 1:
        raise ModelError(f"{path} has {len(outputs)} outputs, {', '.join(list(outputs)[:6])}", "name the one: logits")
    return outputs.get("logits", next(iter(outputs.values())))


def _check_shape(model: Any, path: Path, of_task: Kind) -> None:
    output = model.graph.output[0]
    if not output.type.HasField("tensor_type"):
        raise ModelError(f"{path}: {output.name} is no tensor", "export it so that it answers logits")
    onnx = require("onnx", "torch")
    kind = output.type.tensor_type.elem_type
    floats = (0, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    if kind not in floats:
        named = onnx.TensorProto.DataType.Name(kind)
        raise ModelError(
            f"{path} answers labels ({output.name} is {named}), not logits", "export it without its last nodes"
        )
    if not output.type.tensor_type.HasField("shape"):
        return
    sizes = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    axes = of_task.OUTPUTS[0].axes
    if len(sizes) == len(axes) and len(axes) != 2:
        return
    if len(sizes) == 3:
        language = sizes[-1] and sizes[-1] == embedding_rows(model)
        kind_of = "language modelling" if language else "token classification"
        raise _other(kind_of, path, f"{output.name} is [batch, tokens, {sizes[-1] or 'labels'}]", of_task)
    if len(sizes) == 1 or (len(sizes) == 2 and sizes[-1] == 1 and not of_task.NAMES and len(axes) == 2):
        raise _other("regression or cross-encoder scores", path, f"{output.name} is one number for each text", of_task)
    if len(sizes) != len(axes):
        named = "a classifier" if len(axes) == 2 else f"a model for {served(of_task)[0]}"
        raise ModelError(f"{path}: {output.name} has {len(sizes)} axes; {named} answers [{', '.join(axes)}]")


def _activation(model: Any) -> Any:
    """Return the activation that the output comes from, or None."""
    made = {name: node for node in model.graph.node for name in node.output}
    node = made.get(model.graph.output[0].name)
    while node is not None and node.op_type in _PASSING:
        node = made.get(node.input[0])
    known = ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "ArgMax")
    return node if node is not None and node.op_type in known else None


def _bypass(graph: Any, activation: Any) -> None:
    """Let whoever reads an activation read what it reads, and take it out."""
    before, after = activation.input[0], activation.output[0]
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == after:
                node.input[index] = before
    graph.node.remove(activation)
    if graph.output[0].name == after:
        names = {name for node in graph.node for name in (*node.input, *node.output)}
        graph.output[0].name = before if "logits" in names else "logits"
        for node in graph.node if "logits" not in names else ():
            node.input[:] = ["logits" if name == before else name for name in node.input]
            node.output[:] = ["logits" if name == before else name for name in node.output]
    for value in [value for value in graph.value_info if value.name in (before, after, graph.output[0].name)]:
        graph.value_info.remove(value)


def _session(path: Path) -> Any:
    """Return a session of a graph; None where there is no ONNX Runtime, or it cannot load the graph."""
    try:
        ort = require("onnxruntime", "cpu")
    except MissingPackageError:
        return None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime's errors share no public base class; another engine may take what it does not
        return None


def _require_session(path: Path) -> Any:
    session = _session(path)
    if session is None:
        raise ModelError(f"{path} cannot be loaded by ONNX Runtime, so its activation cannot be taken out")
    return session


def _batch(session: Any, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    fills = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    narrow = {item.name for item in session.get_inputs() if item.type == "tensor(int32)"}
    names = [item.name for item in session.get_inputs()]
    return {name: fills[name].astype(np.int32) if name in narrow else fills[name] for name in names}


def _check_same(logits: NDArray[np.float32], probabilities: NDArray[np.float32], named: Path, kind: Kind) -> None:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax = kind.ACTIVATION == "Softmax"
    expected = powers / powers.sum(axis=-1, keepdims=True) if softmax else kind.activate(logits)
    found = np.exp(probabilities) if (probabilities <= 0).all() else probabilities
    if not np.abs(expected - found).max() <= _ROUNDING:
        raise ModelError(
            f"{named}: its last activation is no {kind.ACTIVATION.lower()} of the labels: without it, probabilities "
            f"differ by "
            f"{np.abs(expected - found).max():.3g}",
            "export it so that it answers logits",
        )


def _are_probabilities(answers: NDArray[np.float32], kind: Kind) -> bool:
    """Return whether rows are probabilities, or logarithms of those that sum to 1."""
    if kind.ACTIVATION == "Sigmoid":
        return bool((answers >= 0).all() and (answers <= 1).all())
    for values in (answers, np.exp(answers)) if kind.ACTIVATION else ():
        if (values >= 0).all() and (values <= 1).all() and np.abs(values.sum(axis=1) - 1).max() <= _ROUNDING:
            return True
    return False


def _other(is_for: str, path: Path, evidence: str, kind: Kind) -> ModelError:
    named = "classifier" if not kind.NAMES else f"model for {served(kind)[0]}"
    return ModelError(
        f"{path} is a graph for {is_for} ({evidence}); only {served(kind)[0]} is served", f"export a {named}"
    )
