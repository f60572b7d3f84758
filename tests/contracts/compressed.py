"""Holds a compressed checkpoint to what its technique claims: read from the files, not from the technique."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from toolchain.compress.shared import qat
from toolchain.model import checkpoint, quantized
from toolchain.model.anatomy import anatomy, head_size

#: What a technique may claim to have made less.
SHAPES = ("heads", "ffn", "hidden", "layers")


def check_claims(source: Path, out: Path, metrics: dict[str, Any]) -> None:
    """Every number that a technique reports of the model is the files' own, and something got less.

    Args:
        source: The checkpoint that it was given.
        out: The checkpoint that it wrote.
        metrics: What it reported.

    Raises:
        AssertionError: It claims what is not so, or claims nothing.
    """
    weights = load_file(out / "model.safetensors")
    quantizers = (".weights.", ".reads.")
    counted = {name: value for name, value in weights.items() if not any(part in name for part in quantizers)}
    assert "parameters" in metrics, "it does not say how many parameters it leaves"
    assert metrics["parameters"] == sum(value.size for value in counted.values())
    before, after = shape_of(source), shape_of(out)
    less = [name for name in SHAPES if after[name] != before[name]]
    for name in less:
        assert name in metrics, f"{name} went from {before[name]} to {after[name]}, which it does not say"
    for name in SHAPES:
        if name in metrics:
            assert metrics[name] == after[name], name
    if "sparsity" in metrics:
        dense = _zeros(load_file(source / "model.safetensors"))
        assert metrics["zeros"] >= metrics["sparsity"] * metrics["pruned_weights"] - 1
        assert _zeros(weights) >= metrics["zeros"] > dense
        less.append("zeros")
    if "ranks" in metrics:
        assert metrics["ranks"]
        for name, rank in metrics["ranks"].items():
            assert after["ranks"][name] == rank, name
        assert set(after["ranks"]) == {*before["ranks"], *metrics["ranks"]}
        less.append("ranks")
    if "tokens" in metrics:
        rows = checkpoint.load_model(out).get_input_embeddings().num_embeddings
        assert metrics["tokens"] == rows == checkpoint.load_tokenizer(out).backend_tokenizer.get_vocab_size()
        less += ["tokens"] if rows < checkpoint.load_model(source).get_input_embeddings().num_embeddings else []
    if "bits" in metrics:
        model = checkpoint.load_model(out)
        layers, groups = quantized.layers(model), qat.grouped(model)
        for group, bits in metrics["bits"].items():
            for name in groups[group]:
                assert (name in layers) == bool(bits), name
                if bits:
                    rows = layers[name].weights(layers[name].weight).detach()
                    assert max(len(row.unique()) for row in rows) <= 2**bits, name
        less += ["bits"] if layers else []
    assert less, "nothing is smaller or sparser than it was"


def shape_of(folder: Path) -> dict[str, Any]:
    """Heads, neurons and ranks of the physical layers, width and depth: from the weights' shapes."""
    model = checkpoint.load_model(folder)
    weights = {name: value.shape for name, value in load_file(folder / "model.safetensors").items()}
    found, ranks = anatomy(model), {}

    def rows(name: str) -> int:
        return int(weights[f"{name}.second.weight" if f"{name}.second.weight" in weights else f"{name}.weight"][0])

    for layer in found.layers:
        for kind in ("query", "key", "value", "output", "ffn_in", "ffn_out"):
            first = f"{getattr(layer, kind)}.first.weight"
            if first in weights:
                ranks[f"{layer.index}.{kind}"] = int(weights[first][0])
    if f"{found.embedding}.first.weight" in weights:
        ranks["embedding"] = int(weights[f"{found.embedding}.first.weight"][1])
    return {
        "heads": [rows(layer.query) // head_size(model, layer) for layer in found.layers],
        "ffn": [rows(layer.ffn_in) for layer in found.layers],
        "hidden": rows(found.layers[0].output),
        "layers": found.depth,
        "ranks": ranks,
    }


def digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, config and tokenizer."""
    names = ("model.safetensors", "config.json", "tokenizer.json")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def _zeros(weights: dict[str, Any]) -> int:
    return sum(int(np.count_nonzero(value == 0)) for value in weights.values() if value.ndim == 2)
