"""Cases of ONNX graphs, inside the file and with external data."""

from __future__ import annotations

import pickle
import random
import shutil
from pathlib import Path
from typing import Any

from fuzz_readers import changes
from fuzz_readers.goods import TASK, Reducer

_TASK = ("--task", TASK, "-q", "--store", "made")


def draw(rng: random.Random, good: Path) -> list[str]:
    """Fill the current folder with a changed graph and return the command on it."""
    import onnx

    outside = rng.random() < 0.4
    shutil.copytree(good / ("external" if outside else "graph"), "graph")
    path = Path("graph/model.onnx")
    what = rng.randrange(20)
    if what < 5:
        target = Path("graph/model.onnx.data") if outside and rng.random() < 0.5 else path
        target.write_bytes(changes.raw(rng, target.read_bytes()))
    elif what == 5:
        changes.file(rng, Path("graph/model.onnx.data") if outside else path)
    elif what == 6:
        path.write_bytes(pickle.dumps(Reducer()))
    else:
        model = onnx.load(path, load_external_data=False)
        for _ in range(rng.choice((1, 1, 2))):
            _change(rng, model, outside)
        path.write_bytes(model.SerializeToString())
    if rng.random() < 0.06:
        tune = ("--set", "onnxruntime.tune=false")
        return ["build", "graph", *_TASK, *rng.choice((("-e", "openvino"), ("-e", "onnxruntime", *tune)))]
    if rng.random() < 0.15:
        Path("r.yaml").write_text(f"task: {TASK}\nmodel: ./graph\nvariants: {{base: [clean]}}\n", "utf-8")
        return ["validate", "r.yaml"]
    return ["optimize", "graph", "-t", "clean", *_TASK]


def _text(rng: random.Random) -> str:
    return str(rng.choice(changes.TEXTS)).encode("utf-8", "replace").decode()


def _number(rng: random.Random) -> int:
    return int(rng.choice([n for n in changes.NUMBERS if isinstance(n, int) and -(2**63) <= n < 2**63]))


def _change(rng: random.Random, model: Any, outside: bool) -> None:
    """Change one thing of a graph."""
    graph = model.graph
    node = rng.choice(graph.node) if graph.node else None
    tensor = rng.choice(graph.initializer) if graph.initializer else None
    what = rng.randrange(16)
    if what == 0:
        model.opset_import[0].version = rng.choice((2**31 - 1, 0, -1, 999, 2**62))
    elif what == 1:
        model.ir_version = rng.choice((0, 99, 2**31 - 1))
    elif what == 2:
        del graph.output[:]
    elif what == 3:
        del graph.input[rng.randrange(len(graph.input)) if graph.input else 0 :]
    elif what == 4 and node:
        node.op_type = rng.choice(("Evil", "If", "Loop", "Scan", "Identity", "", _text(rng)))
    elif what == 5 and node:
        node.domain = rng.choice(("evil", "com.microsoft", "ai.onnx.ml", _text(rng)))
    elif what == 6 and node and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((_text(rng), node.output[0] if node.output else ""))
    elif what == 7 and node:
        node.name = _text(rng)
    elif what == 8 and tensor is not None:
        tensor.dims[:] = [_number(rng) for _ in range(rng.choice((0, 1, 2, 9)))]
    elif what == 9 and tensor is not None:
        tensor.data_type = rng.choice((0, 1, 8, 16, 99, 2**30))
    elif what == 10 and outside:
        where = ("../../outside/secret.txt", "../outside/secret.txt", "/etc/passwd", "/dev/zero", "model.onnx", "", ".")
        for each in graph.initializer:
            for entry in each.external_data:
                if entry.key == "location":
                    entry.value = rng.choice(where)
    elif what == 11 and outside:
        for each in graph.initializer:
            for entry in each.external_data:
                if entry.key in ("offset", "length") and rng.random() < 0.3:
                    entry.value = str(_number(rng))
    elif what == 12 and graph.input:
        shape = rng.choice(graph.input).type.tensor_type.shape
        for dimension in shape.dim:
            dimension.dim_value = _number(rng)
    elif what == 13 and node and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.type = _number(rng), rng.choice((1, 2, 3, 7))
    elif what == 14:
        entry = model.metadata_props.add()
        entry.key, entry.value = _text(rng), _text(rng)
    elif node:
        graph.node.append(node) if rng.random() < 0.5 else graph.node.remove(node)
