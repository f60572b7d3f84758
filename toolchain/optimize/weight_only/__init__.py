"""Linear layers with 8- or 4-bit weights, embedding tables with 8 or 4 bits, activations as they were.

Weights are cut into blocks along the input dimension, each with a scale (and a zero point) of its own:
``W ≈ s_b·(q − z_b)``. ONNX Runtime multiplies them as MatMulNBits and looks rows up with GatherBlockQuantized; both run
on its CPU and CUDA providers alone. ``rtn`` and ``default`` round to nearest; ``hqq`` fits the zero points to the
heavy-tailed error (Badri and Shaji 2023); ``k_quant`` searches scale and offset of each block (llama.cpp's k-quants).

It also follows ``dynamic_int8`` or ``static_int8``: with ``linear_bits: null`` and the int8 pass told ``embeddings:
false``, the layers are int8 and the tables 4-bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import ModelError, RecipeError
from toolchain.core.patterns import bits_by_group
from toolchain.core.stage import Context, Ge, Metrics, StageConfig
from toolchain.model import graph
from toolchain.optimize.shared import half, int8
from toolchain.optimize.shared.groups import group_nodes
from toolchain.optimize.weight_only import packing

VERSION = 1
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard", "qdq", "qdq-asymmetric", "ort")
GIVES = "ort"
AGREEMENT = 0.95
METHOD = "quantized"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of weight-only quantization."""

    #: Bits of the weights of linear layers; null keeps them as they are (int8, for example).
    linear_bits: Literal[4, 8] | None = 8
    #: Bits of the embedding tables; null keeps them as they are.
    embedding_bits: Literal[4, 8] | None = 8
    #: Weights that share a scale, in a linear layer.
    block_size: Literal[16, 32, 64, 128, 256] = 32
    #: Numbers that share a scale, in a row of a table.
    embedding_block_size: Literal[16, 32, 64, 128, 256] = 32
    #: Scales only, not by hqq and k_quant, which fit zero points; otherwise every block has a zero point too.
    symmetric: bool = False
    #: How a linear layer's scales are chosen; all but default have 4 bits only.
    method: Literal["default", "rtn", "hqq", "k_quant"] = "default"
    #: What linear layers multiply with: int8 rounds the activations to 8 bits in blocks, and is quicker.
    products: Literal["int8", "float"] = "int8"
    #: Weights with fewer numbers stay as they are.
    least_elements: Annotated[int, Ge(1)] = 4096
    #: Nodes, or weights, that stay as they are: names or shell patterns.
    exclude: tuple[str, ...] = ()
    #: Bits in place of linear_bits for some layers: by group, as mixed reports them, such as layer 3 ffn, or by shell
    #: pattern, such as layer 3 *; a name goes before a pattern, null leaves a group as it is.
    bits_by_group: dict[str, Literal[4, 8] | None] | None = None


def requires(history: Sequence[str]) -> str | None:
    """It quantizes single precision, and only once."""
    return "it stands there already" if "weight_only" in history else half.refusal(history)


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Quantizes the weights of ``model.onnx``.

    Args:
        source: Folder with a graph of any dialect.
        out: Folder to write.
        config: Settings.
        context: Not needed.

    Returns:
        linear_weights and embeddings: how many were quantized; bytes_per_weight over both, scales included;
        parameters, nodes.

    Raises:
        ModelError: There is nothing left in floating point to quantize.
        RecipeError: The settings ask for nothing or for what does not exist, or an exclusion matches nothing.
    """
    _check(config)
    path = source / "model.onnx"
    model = graph.load(path)
    del model.graph.value_info[:]
    model = int8.replace_gemm(model)
    excluded = set(int8.excluded_nodes(model, config.exclude, embeddings=True, attention=True))
    linear = _readers(model, "MatMul", 1, excluded, config.least_elements)
    bits = _bits(model, linear, config)
    linear = {name: nodes for name, nodes in linear.items() if bits[name]}
    tables = _readers(model, "Gather", 0, excluded, config.least_elements) if config.embedding_bits else {}
    _check_found(path, config, linear, tables)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, packing.Blocks] = {}
    for width in sorted({width for name in linear if (width := bits[name])}):
        with int8.quantizer_errors(path):
            made |= packing.linear(
                {name: weights[name] for name in linear if bits[name] == width}, bits=width,
                block_size=config.block_size, symmetric=config.symmetric, method=config.method,
                products=config.products,
            )  # fmt: skip
    for name in tables:
        assert config.embedding_bits is not None
        made[name] = packing.table(
            weights[name], bits=config.embedding_bits, block_size=config.embedding_block_size,
            symmetric=config.symmetric,
        )  # fmt: skip
    packing.replace(model, made)
    graph.save(model, out / "model.onnx")
    numbers = sum(int(weights[name].dims[0] * weights[name].dims[1]) for name in made)
    return {
        "nodes": len(model.graph.node),
        "parameters": graph.parameters(model),
        "linear_weights": len(linear),
        "embeddings": len(tables),
        "bytes_per_weight": sum(blocks.size_bytes for blocks in made.values()) / numbers,
    }


def _check(config: Config) -> None:
    grouped = set((config.bits_by_group or {}).values())
    if config.linear_bits is None and config.embedding_bits is None and not grouped - {None}:
        raise RecipeError("weight_only: linear_bits and embedding_bits are both null", "give one of them: 4 or 8")
    if config.method != "default" and 8 in {config.linear_bits, *grouped}:
        where = "linear_bits is 8" if config.linear_bits == 8 else "bits_by_group has an 8"
        raise RecipeError(
            f"weight_only: method {config.method} has 4 bits, and {where}",
            f"{where.split()[0]}: 4, or method: default",
        )
    if config.method in ("hqq", "k_quant") and config.symmetric:
        raise RecipeError(
            f"weight_only: method {config.method} fits zero points, and symmetric asks for none",
            "symmetric: false, or method: default",
        )


def _bits(model: Any, linear: Mapping[str, Sequence[str]], config: Config) -> dict[str, int | None]:
    """The width of each linear weight: its group's where that is named, else linear_bits.

    Raises:
        RecipeError: A name fits no group, or two patterns give one group two widths.
    """
    found: dict[str, int | None] = dict.fromkeys(linear, config.linear_bits)
    named = config.bits_by_group or {}
    if not named:
        return found
    reader = {node: weight for weight, nodes in linear.items() for node in nodes}
    groups = group_nodes(model, set(reader))
    chosen = bits_by_group(named, groups, "weight_only: bits_by_group", "groups of linear weights")
    return found | {reader[node]: width for group, width in chosen.items() for node in groups[group]}


def _readers(model: Any, kind: str, place: int, excluded: set[str], least: int) -> dict[str, list[str]]:
    """Float matrices of at least so many numbers, each with the nodes of a kind that read it in that place.

    A matrix that something else reads too would stay in the file beside its quantized copy, so it is left alone.
    """
    found: dict[str, list[str]] = {
        tensor.name: []
        for tensor in model.graph.initializer
        if tensor.data_type == 1 and len(tensor.dims) == 2 and tensor.dims[0] * tensor.dims[1] >= least
    }
    other = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in found:
                fits = node.op_type == kind and index == place and node.name not in excluded
                (found[name].append(node.name) if fits else other.add(name))
    return {name: nodes for name, nodes in found.items() if nodes and name not in other}


def _check_found(path: Path, config: Config, linear: dict[str, list[str]], tables: dict[str, list[str]]) -> None:
    if (config.linear_bits or config.bits_by_group) and not linear:
        raise ModelError(
            f"{path}: no linear layer of {config.least_elements} or more float weights is left to quantize; they are "
            "int8 already, or excluded",
            "weight_only: {linear_bits: null} quantizes the embeddings alone; or take the int8 pass out",
        )
    if config.embedding_bits and not tables:
        raise ModelError(
            f"{path}: no embedding table of {config.least_elements} or more float numbers is left to quantize; they "
            "are int8 already, or excluded",
            "give the int8 pass before it embeddings: false; or weight_only: {embedding_bits: null}",
        )
