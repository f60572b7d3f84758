"""Other weights in a built plan: those of the same graph, trained anew, without building it again.

A plan that is built with ``refit: true`` has beside it what its graph looked like: types, shapes and digests of its
weights, and a digest of its operators. A graph that differs in anything but the numbers of its weights is refused by
that, before a device is asked for. On the device TensorRT says which weights can be replaced; one that differs and
cannot be, as a scale of quantization may be, is refused too, so that no plan is half old and half new.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core import documents
from toolchain.core.errors import EngineError, first_line, require
from toolchain.core.stage import Metrics
from toolchain.core.store import digest
from toolchain.engines.shared import cudart
from toolchain.engines.shared.artifact import ENGINE_FILE, EngineFile, read_engine, write_engine
from toolchain.engines.shared.tensorrt_errors import explained
from toolchain.engines.tensorrt import builder
from toolchain.engines.tensorrt.session import PLAN_FILE, checked_plan, usable

MODEL_FILE = "model.onnx"

#: What a plan's graph looked like.
GRAPH_FILE = "graph.json"

#: How many names an error lists.
NAMED = 4

AGAIN = "build an engine from this graph"


@dataclass(frozen=True)
class Refit:
    """A plan and a graph that fit each other.

    Attributes:
        folder: The engine folder.
        manifest: Its ``engine.json``.
        plan: The plan's bytes.
        model: The graph's file.
        graph: What the graph looks like.
        changed: Names of the weights that differ.
    """

    folder: Path
    manifest: EngineFile
    plan: bytes
    model: Path
    graph: Mapping[str, Any]
    changed: frozenset[str]

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that the plan was built with."""
        return self.manifest.options

    @property
    def inputs(self) -> list[str]:
        """SHA-256 of the plan, and of each file of the graph."""
        from toolchain.model import onnx_file

        source = self.model.parent
        names = (MODEL_FILE, *onnx_file.inspect(self.model).external, "tokenizer.json", "interface.json")
        return [hashlib.sha256(self.plan).hexdigest(), *(digest(source / name) for name in names)]

    @property
    def libraries(self) -> dict[str, str | None]:
        """The version of the library that built the plan."""
        library = str(self.manifest.options["library"]["name"])
        return {library: builder.version(library)}

    @property
    def changes(self) -> str:
        """How many weights differ."""
        return f"{len(self.changed)} of {len(self.graph['weights'])} weights differ"

    def fingerprint(self) -> dict[str, Any]:
        """Return the facts of the plan's GPU."""
        return cudart.gpu(int(self.manifest.options["device_id"]))

    def check_device(self) -> None:
        """Raise EngineError or MissingPackageError if there is no such GPU, or no such version of the library."""
        usable(self.folder, self.manifest)

    def apply(self, out: Path) -> Metrics:
        """Write the new engine folder."""
        return apply(self, out)


def describe(model: Any) -> dict[str, Any]:
    """What a graph looks like, as JSON values: its inputs, outputs, operators and weights.

    Args:
        model: The ``onnx.ModelProto``, with its weights.

    Returns:
        ``weights`` has type, shape and SHA-256 of each; ``operators`` counts them, ``opsets`` are their versions, and
        ``nodes`` is a digest of what they read, write and are set to, functions and sparse constants included. What
        nodes are called, and what a tool has noted on them, plays no part.
    """
    onnx = require("onnx", "torch")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    kinds = onnx.TensorProto.DataType.Name

    def values(listed: Any) -> dict[str, list[Any]]:
        found = {value.name: value.type.tensor_type for value in listed if value.name not in weights}
        return {
            name: [kinds(kind.elem_type), [size.dim_value or None for size in kind.shape.dim]]
            for name, kind in found.items()
        }

    def numbers(tensor: Any) -> list[Any]:
        read = onnx.numpy_helper.to_array(tensor)
        return [kinds(tensor.data_type), list(tensor.dims), hashlib.sha256(read.tobytes()).hexdigest()]

    return {
        "inputs": values(model.graph.input),
        "outputs": values(model.graph.output),
        "operators": dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        "opsets": {each.domain: each.version for each in model.opset_import},
        "nodes": _digest_of_nodes(model),
        "weights": {name: numbers(tensor) for name, tensor in sorted(weights.items())},
    }


def keep(out: Path, model: Any) -> str:
    """Writes what a plan's graph looks like into its folder, and gives the file's SHA-256."""
    path = out / GRAPH_FILE
    path.write_text(json.dumps(describe(model)) + "\n", encoding="utf-8")
    return digest(path)


def check(folder: Path, source: Path) -> Refit:
    """Holds that a plan can be given a graph's weights, as far as that shows without a device.

    Args:
        folder: The engine folder.
        source: The folder with ``model.onnx`` and its interface.

    Raises:
        EngineError: The plan cannot be refitted or is not the one that was built, the graph is another, or a record of
            the plan is damaged.
        ModelError: The graph is missing or damaged.
    """
    try:
        asked = _fitting(folder, source)
        builder.version(str(asked.manifest.options["library"]["name"]))
        int(asked.manifest.options["device_id"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EngineError(
            f"{folder} has records that are not valid: {type(error).__name__}: {first_line(error)}",
            "build the engine again, or copy the folder again from where it was built",
        ) from error
    return asked


def _fitting(folder: Path, source: Path) -> Refit:
    from toolchain.model import checkpoint, graph

    manifest = read_engine(folder)
    if not manifest.options.get("refit"):
        raise EngineError(
            f"{folder} was not built with refit: true: the weights of its plan cannot be replaced",
            "build it again: tensorrt: {refit: true}, on a machine with an NVIDIA GPU",
        )
    plan = checked_plan(folder, manifest)
    known = _known(folder, manifest)
    path = source / MODEL_FILE
    found = describe(graph.load(path))
    differs = next(_differences(known, found), "")
    if differs:
        raise EngineError(f"{path} is not the graph that {folder} was built from: {differs}", AGAIN)
    longest = max(int(profile["tokens"][2]) for profile in manifest.options["profiles"])
    interface = checkpoint.read_json(source / "interface.json")
    if int(interface["max_length"]) > longest:
        raise EngineError(
            f"{source / 'interface.json'} has max_length {interface['max_length']}, and the plan takes up to {longest} "
            "tokens",
            AGAIN,
        )
    ((_, classes),) = found["outputs"].values()
    if classes[-1] not in (None, len(interface["labels"])):
        raise EngineError(
            f"{source / 'interface.json'} names {len(interface['labels'])} labels, and the graph gives {classes[-1]} "
            "logits",
            AGAIN,
        )
    changed = {name for name, numbers in found["weights"].items() if numbers != known["weights"][name]}
    return Refit(folder, manifest, plan, path, found, frozenset(changed))


def apply(asked: Refit, out: Path) -> Metrics:
    """Writes an engine folder whose plan has the graph's weights: ``model.plan``, ``graph.json`` and ``engine.json``.

    Args:
        asked: What fits each other.
        out: The new engine folder.

    Returns:
        ``bytes``, ``weights``: how many differ, of how many, ``refit_s`` and ``refitted_from``: the plan's SHA-256.

    Raises:
        EngineError: There is no GPU, the plan is for another GPU or version, or a weight cannot be replaced.
        MissingPackageError: The library is not installed.
    """
    trt, _ = usable(asked.folder, asked.manifest)
    started = time.monotonic()
    plan = _refitted(trt, asked)
    seconds = time.monotonic() - started
    (out / PLAN_FILE).write_bytes(plan)
    (out / GRAPH_FILE).write_text(json.dumps(asked.graph) + "\n", encoding="utf-8")
    before = hashlib.sha256(asked.plan).hexdigest()
    new = {
        "plan": {"sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)},
        "graph": digest(out / GRAPH_FILE),
        "refitted_from": before,
    }
    write_engine(out, "tensorrt", (PLAN_FILE,), asked.manifest.options, {**asked.manifest.extra, **new})
    told = {"bytes": len(plan), "weights": [len(asked.changed), len(asked.graph["weights"])]}
    return {**told, "refit_s": round(seconds, 3), "refitted_from": before}


def _refitted(trt: Any, asked: Refit) -> bytes:
    path = asked.folder / PLAN_FILE
    said = builder.listener(trt)
    runtime = trt.Runtime(said)
    engine = runtime.deserialize_cuda_engine(asked.plan)
    if engine is None:
        raise explained("load", path, said.errors)
    if not engine.refittable:
        raise EngineError(f"{path} cannot be refitted, says TensorRT", "build it again with refit: true")
    refitter = trt.Refitter(engine, said)
    stuck = sorted(asked.changed - set(refitter.get_all_weights()))
    if stuck:
        raise EngineError(
            f"{len(stuck)} weights of {asked.model} differ and are built into the kernels of {path}, where they cannot "
            f"be replaced: {_listed(stuck)}",
            f"{AGAIN}; scales of int8 and FP8 may be such: refit plans of fp32, fp16 or bf16",
        )
    parser = trt.OnnxParserRefitter(refitter, said)
    if not parser.refit_from_file(str(asked.model)):
        told = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise explained("refit", path, [*told, *said.errors])
    missing = refitter.get_missing_weights()
    if missing:
        raise EngineError(f"{path} needs weights that {asked.model} does not give: {_listed(sorted(missing))}", AGAIN)
    if not refitter.refit_cuda_engine():
        raise explained("refit", path, said.errors)
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)  # to be refitted again
    written = engine.serialize_with_config(config)
    if written is None:
        raise explained("refit", path, said.errors)
    return bytes(memoryview(written))


def _known(folder: Path, manifest: EngineFile) -> dict[str, Any]:
    """What the plan's graph looked like, where that is what was written."""
    path = folder / GRAPH_FILE
    if not path.is_file() or digest(path) != manifest.extra.get("graph"):
        state = "is not what was written: its SHA-256 differs from" if path.is_file() else "is missing, and is named by"
        raise EngineError(f"{path} {state} {ENGINE_FILE}", "copy the folder again from where it was built")
    return documents.read_object(path, EngineError, "copy the folder again from where it was built")


def _differences(known: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """How a graph differs from the plan's in more than numbers, the most telling first."""
    for what in ("inputs", "outputs"):
        if known[what] != found[what]:
            yield f"its {what} are {_shapes(found[what])}, and the plan's {_shapes(known[what])}"
    theirs, ours = known["weights"], found["weights"]
    kinds = [sorted({kind for kind, _, _ in weights.values()}) for weights in (ours, theirs)]
    if kinds[0] != kinds[1]:
        yield f"it is of another precision: its weights are {', '.join(kinds[0])}, and the plan's {', '.join(kinds[1])}"
    if ours.keys() != theirs.keys():
        more, less = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        parts = [f"{said} {_listed(names)}" for said, names in (("has", more), ("lacks", less)) if names]
        yield f"its weights are called otherwise: it {' and '.join(parts)}"
        return
    for name, (kind, shape, sha) in ours.items():
        was_kind, was_shape, was_sha = theirs[name]
        if shape != was_shape:
            yield f"its weight {name} is of shape {shape}, and the plan's of {was_shape}"
        if kind != was_kind:
            yield f"its weight {name} is {kind}, and the plan's {was_kind}"
        if sha != was_sha and kind in ("INT64", "INT32", "BOOL"):
            yield f"its constant {name}, which is none of the weights that training changes, has other numbers"
    if known["operators"] != found["operators"]:
        counts = [Counter(graph["operators"]) for graph in (found, known)]
        names = [name for name in sorted({*counts[0], *counts[1]}) if counts[0][name] != counts[1][name]]
        told = [f"{counts[0][name]} {name}, and the plan's {counts[1][name]}" for name in names[:NAMED]]
        yield f"its operators are others: {'; '.join(told)}"
    if known["opsets"] != found["opsets"]:
        yield f"its operators are of opset {found['opsets']}, and the plan's of {known['opsets']}"
    if known["nodes"] != found["nodes"]:
        yield "its operators are connected or set otherwise"


def _digest_of_nodes(model: Any) -> str:
    found = hashlib.sha256()
    for node in model.graph.node:
        attributes = []
        for attribute in sorted(node.attribute, key=lambda each: str(each.name)):
            plain = type(attribute)()
            plain.CopyFrom(attribute)
            plain.ClearField("doc_string")
            attributes.append(plain.SerializeToString(deterministic=True).hex())
        found.update(json.dumps([node.domain, node.op_type, [*node.input], [*node.output], attributes]).encode())
    for part in (*model.functions, *model.graph.sparse_initializer):
        found.update(part.SerializeToString(deterministic=True))
    return found.hexdigest()


def _shapes(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {kind} [{', '.join('?' if size is None else str(size) for size in shape)}]"
        for name, (kind, shape) in values.items()
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}"
