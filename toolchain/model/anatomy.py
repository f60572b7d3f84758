"""Where the parts of an encoder are: what pruning cuts, by family.

A layer is a *physical* one: ALBERT's layers share theirs, so it stands here once and runs several times. Parts have
the names by which ``model.get_submodule`` finds them, so that one may be replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolchain.core.errors import ModelError

#: Modules of a layer, by what :class:`Layer` calls them.
_BERT = {
    "attention": "attention.self",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
_ALBERT = {
    "attention": "attention",
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "ffn_in": "ffn",
    "ffn_out": "ffn_output",
    "ffn_norm": "full_layer_layer_norm",
}


@dataclass(frozen=True)
class Layer:
    """One physical layer of an encoder; all but the numbers are names of modules.

    Attributes:
        index: Its place among the physical layers, from 0.
        runs: How many times it is computed in a pass.
        attention: The module that holds the number of heads.
        query: Linear, ``[heads · head size, hidden]``, and so key and value.
        key: As query.
        value: As query.
        output: Linear of the attention, ``[hidden, heads · head size]``.
        attention_norm: Layer normalization behind the attention.
        ffn_in: Linear, ``[neurons, hidden]``.
        ffn_out: Linear, ``[hidden, neurons]``.
        ffn_norm: Layer normalization behind the FFN.
    """

    index: int
    runs: int
    attention: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    ffn_in: str
    ffn_out: str
    ffn_norm: str

    @property
    def linears(self) -> tuple[str, ...]:
        """Its linear layers."""
        return (self.query, self.key, self.value, self.output, self.ffn_in, self.ffn_out)


@dataclass(frozen=True)
class Anatomy:
    """The parts of an encoder.

    Attributes:
        layers: Its physical layers, in order.
        shared: Whether one physical layer is run several times.
        list_name: The module that lists the physical layers; empty where they are shared.
        embedding: The token embedding.
        hidden_outputs: Modules whose output is the residual stream: embedding tables, linear layers.
        hidden_inputs: Linear layers that read the residual stream, outside of the layers.
        hidden_norms: Normalizations of the residual stream, outside of the layers.
    """

    layers: tuple[Layer, ...]
    shared: bool
    list_name: str
    embedding: str
    hidden_outputs: tuple[str, ...]
    hidden_inputs: tuple[str, ...]
    hidden_norms: tuple[str, ...]

    @property
    def depth(self) -> int:
        """Layers that are computed in a pass."""
        return sum(layer.runs for layer in self.layers)


def anatomy(model: Any) -> Anatomy:
    """Finds the parts of a sequence classifier.

    Args:
        model: A classifier of the BERT family (BERT, RoBERTa, ELECTRA, …) or of ALBERT's.

    Raises:
        ModelError: The architecture is another one.
    """
    found = _albert(model) or _bert(model)
    if found is None:
        raise ModelError(
            f"{type(model).__name__} has no layers that can be cut: its parts have neither BERT's names nor ALBERT's",
            "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA and ALBERT are known",
        )
    return found


def layers_of(model: Any) -> tuple[Layer, ...]:
    """The physical layers of a classifier; see :func:`anatomy`."""
    return anatomy(model).layers


def head_size(model: Any, layer: Layer) -> int:
    """Numbers in a head of a layer's attention."""
    return int(model.get_submodule(layer.attention).attention_head_size)


def heads(model: Any, layer: Layer) -> int:
    """Heads of a layer's attention."""
    return int(model.get_submodule(layer.attention).num_attention_heads)


def neurons(model: Any, layer: Layer) -> int:
    """Neurons of a layer's FFN."""
    return int(model.get_submodule(layer.ffn_in).out_features)


def hidden(model: Any) -> int:
    """Width of the residual stream."""
    return int(model.get_submodule(anatomy(model).layers[0].ffn_in).in_features)


def _bert(model: Any) -> Anatomy | None:
    prefix = model.base_model_prefix
    base = getattr(model, prefix, None)
    blocks = getattr(getattr(base, "encoder", None), "layer", None)
    if blocks is None or not all(_has(block, "attention.self.query", "intermediate.dense") for block in blocks):
        return None
    if any(_has(block, "bottleneck") for block in blocks):  # MobileBERT, whose layers are narrower inside
        return None
    at = f"{prefix}.encoder.layer"
    layers = tuple(
        Layer(index=index, runs=1, **{part: f"{at}.{index}.{name}" for part, name in _BERT.items()})
        for index in range(len(blocks))
    )
    tables = tuple(f"{prefix}.embeddings.{name}_embeddings" for name in ("word", "position", "token_type"))
    outputs: tuple[str, ...] = tuple(name for name in tables if _has(model, name))
    norms: tuple[str, ...] = (f"{prefix}.embeddings.LayerNorm",)
    if _has(base, "embeddings_project"):  # ELECTRA, where embeddings are narrower
        outputs, norms = (f"{prefix}.embeddings_project",), ()
    readers = (f"{prefix}.pooler.dense", "classifier.dense", "classifier")
    reader = next(name for name in readers if _linear(model, name))
    return Anatomy(layers, False, at, tables[0], outputs, (reader,), norms)


def _albert(model: Any) -> Anatomy | None:
    prefix = model.base_model_prefix
    base = getattr(model, prefix, None)
    groups = getattr(getattr(base, "encoder", None), "albert_layer_groups", None)
    if groups is None:
        return None
    at = f"{prefix}.encoder.albert_layer_groups"
    depth = int(model.config.num_hidden_layers)
    layers: list[Layer] = []
    for number, group in enumerate(groups):
        runs = sum(int(i / (depth / len(groups))) == number for i in range(depth))
        for inner in range(len(group.albert_layers)):
            one = f"{at}.{number}.albert_layers.{inner}"
            parts = {part: f"{one}.{name}" for part, name in _ALBERT.items()}
            layers.append(Layer(index=len(layers), runs=runs, **parts))
    reader = f"{prefix}.pooler" if _linear(model, f"{prefix}.pooler") else "classifier"
    outputs = (f"{prefix}.encoder.embedding_hidden_mapping_in",)
    return Anatomy(tuple(layers), True, "", f"{prefix}.embeddings.word_embeddings", outputs, (reader,), ())


def _has(module: Any, *names: str) -> bool:
    found = dict(module.named_modules())
    return all(name in found for name in names)


def _linear(model: Any, name: str) -> bool:
    return _has(model, name) and hasattr(model.get_submodule(name), "in_features")
