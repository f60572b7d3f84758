"""Tries a stranger's tokenizer and graph in a process of its own, within limits of time and memory.

It imports only the standard library and what reads such files; :mod:`toolchain.model.door` runs it.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

#: What a tokenizer is tried on: nothing, a word, a sentence of several alphabets, and a long text.
TEXTS = ("", "a", "It isn't bad: 3 of 4 stars, ünïcödé 漢字 😀\tand\nmore", "good movie " * 500)

#: Most tokens that a tokenizer may make of a character, besides those that it adds to a text.
TOKENS_PER_CHARACTER = 8
SPECIAL_TOKENS = 64


#: Bytes of a number, of the types that weights usually have.
BYTES = {"FLOAT": 4, "INT64": 8, "INT32": 4, "INT8": 1, "UINT8": 1, "FLOAT16": 2, "DOUBLE": 8, "BOOL": 1}


class RefusedError(Exception):
    """A file is not what it claims to be."""


def try_tokenizer(path: str) -> None:
    """Tokenize texts and pairs, and count what comes of it.

    Raises:
        RefusedError: It makes more tokens of a text than any tokenizer does.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for pair in (False, True):
        count = tokenizer.num_special_tokens_to_add(pair)
        if not 0 <= count <= SPECIAL_TOKENS:
            raise RefusedError(f"it adds {count} special tokens to a text; at most {SPECIAL_TOKENS} are known of any")
    for text in TEXTS:
        for given in (text, (text, "b")):
            tokens = len(tokenizer.encode(*given) if isinstance(given, tuple) else tokenizer.encode(given))
            most = SPECIAL_TOKENS + TOKENS_PER_CHARACTER * (len(text) + 1)
            if tokens > most:
                raise RefusedError(f"it makes {tokens:,} tokens of a text of {len(text):,} characters")
    max(tokenizer.get_vocab().values(), default=0)


def try_graph(path: str) -> None:
    """Read a graph, check it, and infer its shapes.

    What onnx's checker finds is not refused: runtimes take graphs that it does not. It must come to an end, no more.

    Raises:
        RefusedError: Its operators are of versions that nobody knows, or its names and sizes are none.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    check_versions(model, onnx)
    check_names(model)
    check_values(model, onnx)
    with contextlib.suppress(onnx.checker.ValidationError):
        onnx.checker.check_model(path, full_check=False)
    if Path(path).stat().st_size < 1 << 28:
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=False)


def check_versions(model: Any, onnx: Any) -> None:
    """Refuse versions of operators that the installed onnx does not know; a converter may look for them for ever."""
    known = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": 1_000, "ai.onnx.training": 1_000}
    for opset in (*model.opset_import, *(item for function in model.functions for item in function.opset_import)):
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        most = known.get(domain, 1_000)
        if not 1 <= opset.version <= most:
            raise RefusedError(
                f"its operators{f' of {domain[:80]}' if domain else ''} are of version {opset.version}; "
                f"allowed are 1 to {most}"
            )
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise RefusedError(f"its format is of version {model.ir_version}; allowed are 3 to {onnx.IR_VERSION}")


def check_names(model: Any) -> None:
    """Refuse names that are no text, and sizes that are none."""
    graph = model.graph
    try:
        for node in graph.node:
            "".join((node.name, node.op_type, node.domain, *node.input, *node.output)).encode("utf-8")
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.name.encode("utf-8")
            for dim in value.type.tensor_type.shape.dim:
                dim.dim_param.encode("utf-8")
                if not 0 <= dim.dim_value < 1 << 31:
                    raise RefusedError(f"{value.name[:80]} has a side of {dim.dim_value}")
        for tensor in graph.initializer:
            tensor.name.encode("utf-8")
            if any(not 0 <= side < 1 << 31 for side in tensor.dims):
                raise RefusedError(f"{tensor.name[:80]} has the shape {list(tensor.dims)[:8]}")
    except (UnicodeError, TypeError, AttributeError) as error:
        raise RefusedError("it has a name that is not UTF-8") from error


def check_values(model: Any, onnx: Any) -> None:
    """Refuse values that nothing computes, and weights whose bytes do not fit their shapes."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    values = {"", *weights, *(value.name for value in graph.input), *(name for n in graph.node for name in n.output)}
    for value in graph.output:
        if value.name not in values:
            raise RefusedError(f"nothing computes its output {value.name[:80]!r}")
    for node in graph.node:
        for name in node.input:
            if name not in values:
                raise RefusedError(f"nothing computes {name[:80]!r}, which its operator {node.op_type[:80]} reads")
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type) if 0 < tensor.data_type < 24 else ""
        size = BYTES.get(kind)
        wanted = math.prod(tensor.dims) * (size or 0)
        if size and tensor.HasField("raw_data") and tensor.data_location == 0 and len(tensor.raw_data) != wanted:
            raise RefusedError(
                f"{tensor.name[:80]} of shape {list(tensor.dims)[:8]} has {len(tensor.raw_data):,} bytes and needs "
                f"{wanted:,}"
            )


def main() -> None:
    """Try every file that is asked for, and write which of them is refused, and why."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    memory, seconds = request["mib"] << 20, request["seconds"]
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    refused: dict[str, str] = {}
    for kind, path in request["files"]:
        print(f"trying {path}", flush=True)
        try:
            {"tokenizer": try_tokenizer, "graph": try_graph}[kind](path)
        except MemoryError:
            refused = {"file": path, "reason": "memory"}
        except RefusedError as error:
            refused = {"file": path, "reason": str(error)}
        except BaseException as error:  # a panic of Rust is no Exception
            lines = str(error).strip().splitlines() or [""]
            refused = {"file": path, "reason": f"{type(error).__name__}: {lines[0][:400]}"}
        if refused:
            break
    Path(sys.argv[2]).write_text(json.dumps(refused), encoding="utf-8")


if __name__ == "__main__":
    main()
