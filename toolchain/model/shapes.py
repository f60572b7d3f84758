"""Shapes that ``config.json`` cannot say: pruned layers that differ from each other, and low-rank factors.

A checkpoint's config has one number for the heads, the neurons and the width of all layers. Where a module is of
another shape, ``toolchain_shapes`` in ``config.json`` names it: ``[out, in]`` of a linear layer, ``[tokens, width]`` of
a table, ``[width]`` of a normalization, and three numbers, the rank between the two, of a factorized one. A model
whose layers agree needs none of it, and loads in transformers alone.
"""

from __future__ import annotations

from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.model.anatomy import anatomy

#: Name in ``config.json``.
KEY = "toolchain_shapes"

#: The same of what is quantized in training: :mod:`toolchain.model.quantized`.
QUANTIZERS = "toolchain_quantizers"


def record(model: Any) -> None:
    """Writes into a model's config what its modules' shapes are, where they are not the config's own."""
    torch = require("torch", "torch")
    config = model.config
    if hasattr(config, KEY):
        delattr(config, KEY)
    if _cuttable(model):
        widths = {model.get_submodule(layer.ffn_in).out_features for layer in anatomy(model).layers}
        if len(widths) == 1:
            config.intermediate_size = widths.pop()
    with torch.device("meta"):
        plain = type(model)(config)
    wanted = {name: shape for name, module in plain.named_modules() if (shape := _shape(module))}
    found = _shapes(model)
    differing = {name: shape for name, shape in found.items() if shape != wanted.get(name)}
    if differing:
        setattr(config, KEY, differing)


def restore(model: Any, shapes: Any, where: str) -> None:
    """Gives the modules of a freshly made model the recorded shapes; their weights are then to be loaded.

    Args:
        model: A model as its config makes it.
        shapes: What :func:`record` has written.
        where: The checkpoint, for messages.

    Raises:
        ModelError: A module of that name is not there, or the shape is no shape.
    """
    for name, shape in dict(shapes).items():
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise _damaged(where, f"{name!r}, which this architecture does not have") from error
        if not isinstance(shape, list) or not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise _damaged(where, f"{shape!r} as the shape of {name}")
        replace(model, name, _made(module, shape, where, name))
    if _cuttable(model):
        mend_heads(model)


def mend_heads(model: Any) -> None:
    """Sets every attention's number of heads to what its query's width makes."""
    for layer in anatomy(model).layers:
        attention = model.get_submodule(layer.attention)
        width = int(model.get_submodule(layer.query).out_features)
        attention.all_head_size = width
        attention.num_attention_heads = width // attention.attention_head_size


def replace(model: Any, name: str, module: Any) -> None:
    """Puts a module in the place of the one with this name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _cuttable(model: Any) -> bool:
    try:
        anatomy(model)
    except ModelError:
        return False
    return True


def _shapes(model: Any) -> dict[str, list[int]]:
    """The shape of every module that may be cut; what is inside a factorized one goes without saying."""
    found: dict[str, list[int]] = {}
    inside = ""
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        shape = _shape(module)
        if shape:
            found[name] = shape
            inside = f"{name}." if len(shape) == 3 else ""
    return found


def _shape(module: Any) -> list[int]:
    torch = require("torch", "torch")
    from toolchain.model.factorized import FactorizedEmbedding, FactorizedLinear

    if isinstance(module, FactorizedLinear):
        return [module.out_features, module.rank, module.in_features]
    if isinstance(module, FactorizedEmbedding):
        return [module.num_embeddings, module.rank, module.embedding_dim]
    if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
        return list(module.weight.shape)
    if isinstance(module, torch.nn.LayerNorm):
        return list(module.normalized_shape)
    return []


def _made(module: Any, shape: list[int], where: str, name: str) -> Any:
    """An empty module of the same kind and this shape."""
    torch = require("torch", "torch")
    from toolchain.model.factorized import FactorizedEmbedding, FactorizedLinear

    if isinstance(module, torch.nn.Linear) and len(shape) == 3:
        return FactorizedLinear(shape[2], shape[1], shape[0], bias=module.bias is not None)
    if isinstance(module, torch.nn.Embedding) and len(shape) == 3:
        return FactorizedEmbedding(shape[0], shape[1], shape[2], padding_idx=module.padding_idx)
    if isinstance(module, torch.nn.Linear) and len(shape) == 2:
        return torch.nn.Linear(shape[1], shape[0], bias=module.bias is not None)
    if isinstance(module, torch.nn.Embedding) and len(shape) == 2:
        return torch.nn.Embedding(shape[0], shape[1], padding_idx=module.padding_idx)
    if isinstance(module, torch.nn.LayerNorm) and len(shape) == 1:
        return torch.nn.LayerNorm(shape[0], eps=module.eps)
    raise _damaged(where, f"{shape!r} as the shape of {name}, a {type(module).__name__}")


def _damaged(where: str, what: str) -> ModelError:
    return ModelError(
        f"{where}: config.json names {what}, under {KEY}",
        "config.json and model.safetensors are of two models, or it was edited: make the checkpoint again",
    )
