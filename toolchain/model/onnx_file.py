"""Opening ONNX files from anywhere: within limits, and with their external data confined to their folder."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.core.files import check_file, is_plain
from toolchain.core.vendor import vendor

#: An encoder has a few thousand nodes; a file with more than this is no encoder.
MAX_NODES = 200_000

#: Protobuf's own limit for one file.
MAX_GRAPH_BYTES = 2**31 - 1

#: External data of one model.
MAX_EXTERNAL_BYTES = 64 * 2**30


@dataclass(frozen=True)
class OnnxFile:
    """What an inspected ONNX file is made of.

    Attributes:
        external: Names of the files beside it that hold its weights; empty for a single file.
        nodes: Nodes, those of subgraphs and functions included.
        bytes: Size of the file and of its external data.
    """

    external: tuple[str, ...]
    nodes: int
    bytes: int


def inspect(path: Path) -> OnnxFile:
    """Reads an ONNX file's structure, without its external data, and refuses what is not safe to open.

    Args:
        path: The ``.onnx`` file.

    Raises:
        ModelError: The file is missing, is not ONNX, is over the limits, or keeps data outside of its folder.
    """
    onnx = require("onnx", "torch")
    if not path.is_file():
        raise ModelError(f"{path} is missing", "an onnx folder is what 'toolchain export' writes")
    size = check_file(path.parent, path.name).stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise ModelError(f"{path} has {size} bytes; at most {MAX_GRAPH_BYTES}", "keep its weights as external data")
    with vendor("is no ONNX file, or a damaged one", path, ModelError, "export it again"):
        model = onnx.load(str(path), load_external_data=False)
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} holds no graph", "it may be cut short; export it again")
    graphs = [*_graphs(model.graph), *itertools.chain.from_iterable(_function_graphs(f) for f in model.functions)]
    nodes = sum(len(graph.node) for graph in graphs)
    if nodes > MAX_NODES:
        raise ModelError(f"{path} has {nodes} nodes; at most {MAX_NODES}")
    external = sorted({_confined(path, tensor) for graph in graphs for tensor in _external_tensors(graph, onnx)})
    total = sum((path.parent / name).stat().st_size for name in external)
    if total > MAX_EXTERNAL_BYTES:
        raise ModelError(f"{path} has {total} bytes of external data; at most {MAX_EXTERNAL_BYTES}")
    return OnnxFile(tuple(external), nodes, size + total)


@contextmanager
def unlinked(path: Path, work: Path) -> Iterator[Path]:
    """Yield a file whose external data are plain files: itself, or a copy of one whose data are links.

    The hub's cache holds a model's files as links into its own folder ``blobs``; onnx and ONNX Runtime refuse them.

    Args:
        path: The ``.onnx`` file.
        work: Folder on a disk that has room for the copy.
    """
    external = inspect(path).external
    if not any((path.parent / name).is_symlink() for name in external):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="unlinked-", dir=work) as folder:
        for name in (path.name, *external):
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.parent / name, target)  # onnx refuses hard links too
        yield Path(folder) / path.name


def _function_graphs(function: Any) -> Iterator[Any]:
    yield function
    for node in function.node:
        yield from _subgraphs(node)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        yield from _subgraphs(node)


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graphs(graph)


def _external_tensors(graph: Any, onnx: Any) -> Iterator[Any]:
    tensors = [*getattr(graph, "initializer", ())]
    for sparse in getattr(graph, "sparse_initializer", ()):
        tensors += [sparse.values, sparse.indices]
    for attribute in (a for node in graph.node for a in node.attribute):
        tensors += [attribute.t, *attribute.tensors]
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            tensors += [sparse.values, sparse.indices]
    yield from (t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL)


def _confined(path: Path, tensor: Any) -> str:
    """The external file of a tensor, or an error where it is not a plain file in the model's folder or below."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = str(entries.get("location", ""))
    what = f"{path} keeps the data of {tensor.name!r} in {location!r}"
    if not is_plain(location):
        raise ModelError(f"{what}; allowed are files in its own folder")
    if not os.path.lexists(path.parent / location):
        raise ModelError(f"{what}, which is missing", "copy the model together with its external data")
    place = check_file(path.parent, location)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError as error:
        raise ModelError(f"{what} at an offset that is no number") from error
    if min(offset, length) < 0 or offset + length > place.stat().st_size:
        raise ModelError(f"{what}, which ends before the data does", "it may be cut short; export it again")
    return location
