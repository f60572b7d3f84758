"""Physical removal: heads, neurons, hidden width and layers leave the model, and its matrices get smaller.

What stays computes what it computed with the rest masked: a head or a neuron whose output is multiplied by zero and one
that is gone are the same function, so a model that was trained under a mask loses nothing when it is cut. Hidden width
and layers are not like that: a layer normalization over fewer numbers has another mean and variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.model import shapes
from toolchain.model.anatomy import Layer, anatomy, head_size


def keep_heads(model: Any, layer: Layer, kept: Sequence[int]) -> None:
    """Removes all heads of a layer but these.

    Args:
        model: The classifier.
        layer: One of its physical layers.
        kept: Indices of heads, at least one.
    """
    order_heads(model, layer, sorted(kept))


def keep_neurons(model: Any, layer: Layer, kept: Sequence[int]) -> None:
    """Removes all neurons of a layer's FFN but these."""
    order_neurons(model, layer, sorted(kept))


def order_heads(model: Any, layer: Layer, order: Sequence[int]) -> None:
    """Puts a layer's heads into this order; a model with all of them computes what it did."""
    size = head_size(model, layer)
    rows = [head * size + offset for head in order for offset in range(size)]
    for name in (layer.query, layer.key, layer.value):
        _keep(model, name, rows=rows)
    _keep(model, layer.output, columns=rows)
    shapes.mend_heads(model)


def order_neurons(model: Any, layer: Layer, order: Sequence[int]) -> None:
    """Puts the neurons of a layer's FFN into this order; a model with all of them computes what it did."""
    _keep(model, layer.ffn_in, rows=order)
    _keep(model, layer.ffn_out, columns=order)


def keep_hidden(model: Any, kept: Sequence[int]) -> None:
    """Removes all numbers of the residual stream but these, in every layer, table and normalization."""
    found, order = anatomy(model), sorted(kept)
    for name in found.hidden_outputs:
        _keep(model, name, rows=order)
    for layer in found.layers:
        for name in (layer.query, layer.key, layer.value, layer.ffn_in):
            _keep(model, name, columns=order)
        for name in (layer.output, layer.ffn_out):
            _keep(model, name, rows=order)
    for name in found.hidden_inputs:
        _keep(model, name, columns=order)
    for name in (*found.hidden_norms, *(n for layer in found.layers for n in (layer.attention_norm, layer.ffn_norm))):
        _keep(model, name, rows=order)


def evenly(count: int, depth: int) -> tuple[int, ...]:
    """So many of the layers of a deep model, spread evenly, the first among them."""
    return tuple(index * depth // count for index in range(count))


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Removes all layers but these; of a shared one, so many of its runs.

    Args:
        model: The classifier.
        kept: Indices among the layers that are computed, at least one.

    Raises:
        ModelError: Layers are shared in several groups, whose runs the config spreads evenly.
    """
    torch = require("torch", "torch")
    found = anatomy(model)
    if found.shared:
        if len(found.layers) > 1:
            raise ModelError(
                f"this ALBERT shares {len(found.layers)} different layers: single runs of them cannot leave",
                "remove heads, neurons or hidden width; with latency_prune, set layers: false",
            )
        model.config.num_hidden_layers = len(kept)
        return
    blocks = model.get_submodule(found.list_name)
    shapes.replace(model, found.list_name, torch.nn.ModuleList([blocks[index] for index in sorted(kept)]))
    model.config.num_hidden_layers = len(kept)


def _keep(model: Any, name: str, *, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> None:
    """Replaces a module by one with these outputs (``rows``) and inputs (``columns``) alone."""
    torch = require("torch", "torch")
    from toolchain.model.factorized import FactorizedEmbedding, FactorizedLinear

    module = model.get_submodule(name)
    if isinstance(module, FactorizedLinear):
        if columns is not None:
            _keep(model, f"{name}.first", columns=columns)
        if rows is not None:
            _keep(model, f"{name}.second", rows=rows)
        return
    if isinstance(module, FactorizedEmbedding):
        _keep(model, f"{name}.second", rows=rows)
        return
    with torch.no_grad():
        if isinstance(module, torch.nn.Embedding):
            made = torch.nn.Embedding(module.num_embeddings, len(rows or ()), padding_idx=module.padding_idx)
            made.weight.copy_(module.weight[:, rows])
        elif isinstance(module, torch.nn.LayerNorm):
            made = torch.nn.LayerNorm(len(rows or ()), eps=module.eps)
            made.weight.copy_(module.weight[rows])
            made.bias.copy_(module.bias[rows])
        else:
            weight = module.weight if rows is None else module.weight[rows]
            weight = weight if columns is None else weight[:, columns]
            made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
            made.weight.copy_(weight)
            if module.bias is not None:
                made.bias.copy_(module.bias if rows is None else module.bias[rows])
    made.train(module.training)
    shapes.replace(model, name, made)
