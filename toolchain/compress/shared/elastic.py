"""Sub-networks of an elastic model: its first heads and neurons of each layer, and some of its layers.

A model whose heads and neurons stand in the order of their importance has a narrower one inside: that of the first
rows and columns of its matrices (Hou et al., DynaBERT, arXiv 2004.04037). :func:`within` lets it compute as that one,
with its matrices sliced, so that a narrow pass costs what the narrow model costs; :func:`cut` makes it that one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.compress.shared import criteria, gradients
from toolchain.compress.shared.targets import Units, unit_targets
from toolchain.core.errors import ModelError, require
from toolchain.core.stage import Context
from toolchain.model import checkpoint, shapes, surgery
from toolchain.model.anatomy import Layer, anatomy, head_size, heads, layers_of, neurons
from toolchain.model.encoded import encode
from toolchain.model.train import accuracy

#: Key of ``config.json`` under which an elastic model says what it was trained for.
KEY = "toolchain_elastic"

#: Neurons are kept in such multiples, which kernels like.
MULTIPLE = 16


@dataclass(frozen=True)
class Size:
    """A sub-network.

    Attributes:
        width: Part of the heads and neurons of every layer.
        layers: How many layers.
    """

    width: float
    layers: int

    @property
    def cost(self) -> float:
        """What its layers compute, of one whole layer."""
        return self.width * self.layers

    def __str__(self) -> str:
        return f"{self.layers} layers, width {self.width:g}"


def sizes(widths: Sequence[float], depths: Sequence[float], depth: int) -> tuple[Size, ...]:
    """Every width with every depth, the largest first.

    Args:
        widths: Parts of the heads and neurons.
        depths: Parts of the layers.
        depth: Layers of the whole model.
    """
    layers = {max(1, round(part * depth)) for part in depths}
    found = [Size(width, count) for width in set(widths) for count in layers]
    return tuple(sorted(found, key=lambda size: (-size.cost, -size.layers)))


def kept(model: Any, layer: Layer, width: float) -> tuple[int, int]:
    """How many heads and neurons of a layer a sub-network of this width has."""
    count, whole = heads(model, layer), neurons(model, layer)
    fewer = min(whole, max(MULTIPLE, round(width * whole / MULTIPLE) * MULTIPLE))
    return max(1, round(width * count)), fewer


@contextmanager
def within(model: Any, size: Size) -> Iterator[None]:
    """Lets a model compute as one of its sub-networks."""
    torch = require("torch", "torch")
    found = anatomy(model)
    depth, changed = found.depth, []
    blocks = None if found.shared else model.get_submodule(found.list_name)
    for layer in found.layers if size.width < 1 else ():
        few, fewer = kept(model, layer, size.width)
        rows = few * head_size(model, layer)
        for name, out, read in (
            (layer.query, rows, None), (layer.key, rows, None), (layer.value, rows, None), (layer.output, None, rows),
            (layer.ffn_in, fewer, None), (layer.ffn_out, None, fewer),
        ):  # fmt: skip
            module = model.get_submodule(name)
            module.forward = _sliced(torch, module, out, read)
            changed.append(module)
    try:
        if size.layers < depth:
            model.config.num_hidden_layers = size.layers
            if blocks is not None:
                few_blocks = [blocks[index] for index in surgery.evenly(size.layers, depth)]
                shapes.replace(model, found.list_name, torch.nn.ModuleList(few_blocks))
        yield
    finally:
        for module in changed:
            del module.forward
        model.config.num_hidden_layers = depth
        if blocks is not None:
            shapes.replace(model, found.list_name, blocks)


def cut(model: Any, size: Size) -> None:
    """Makes a model one of its sub-networks."""
    depth = anatomy(model).depth
    if size.layers < depth:
        surgery.keep_layers(model, surgery.evenly(size.layers, depth))
    for layer in layers_of(model):
        few, fewer = kept(model, layer, size.width)
        surgery.keep_heads(model, layer, range(few))
        surgery.keep_neurons(model, layer, range(fewer))


def judged(
    model: Any, tokenizer: Any, found: Sequence[Size], max_length: int, context: Context
) -> list[tuple[Size, float]]:
    """Dev accuracy of each sub-network."""
    dev = encode(tokenizer, context.dataset().split("dev"), max_length, checkpoint.model_inputs(model, tokenizer))
    told = []
    for size in found:
        with within(model, size):
            told.append((size, accuracy(model, dev)[0]))
    return told


def check(model: Any) -> None:
    """Holds that a model's layers can be sliced.

    Raises:
        ModelError: One is two factors, or an ALBERT shares several layers.
    """
    torch = require("torch", "torch")
    found = anatomy(model)
    if found.shared and len(found.layers) > 1:
        raise ModelError(
            f"this ALBERT shares {len(found.layers)} different layers: single runs of them cannot leave",
            "prune heads and neurons with gradient_prune or latency_prune",
        )
    for layer in found.layers:
        for name in layer.linears:
            if type(model.get_submodule(name)) is not torch.nn.Linear:
                raise ModelError(
                    f"{name} is no plain linear layer, and has no order of heads and neurons",
                    "let low_rank stand after subnetwork",
                )


def record(model: Any, widths: Sequence[float], depths: Sequence[float]) -> None:
    """Notes in a model's config what it was trained for, and the shape that it had."""
    setattr(model.config, KEY, {"widths": list(widths), "depths": list(depths), "shape": _shape(model)})


def trained_for(model: Any, folder: Path) -> tuple[Size, ...]:
    """The sub-networks that a model was trained for, the largest first.

    Raises:
        ModelError: It was not trained so, or was cut since.
    """
    found = checkpoint.read_json(folder / "config.json").get(KEY)
    if not found:
        raise ModelError(f"{folder} was not trained for several sizes", "put dynabert before subnetwork")
    if found["shape"] != _shape(model):
        raise ModelError(
            f"{folder} was cut after it was trained for several sizes: its heads, neurons or layers are others",
            "choose the sub-network first, and prune it then",
        )
    return sizes(found["widths"], found["depths"], anatomy(model).depth)


def forget(model: Any) -> None:
    """Takes what it was trained for out of a model's config."""
    if hasattr(model.config, KEY):
        delattr(model.config, KEY)


def _shape(model: Any) -> list[list[int]]:
    return [[layer.runs, heads(model, layer), neurons(model, layer)] for layer in layers_of(model)]


def _sliced(torch: Any, module: Any, out: int | None, read: int | None) -> Any:
    """The product with a linear layer's first ``out`` rows and ``read`` columns."""

    def forward(values: Any) -> Any:
        bias = None if module.bias is None else module.bias[:out]
        return torch.nn.functional.linear(values, module.weight[:out, :read], bias)

    return forward


def order_by_importance(model: Any, tokenizer: Any, samples: int, context: Context) -> None:
    """Puts the heads and neurons of every layer into the order of their importance, the most important first."""
    kinds: tuple[Units, ...] = ("heads", "ffn")
    targets = [target for kind in kinds for target in unit_targets(model, kind)]
    scores = gradients.gather(model, tokenizer, targets, criteria.taylor, context, samples)
    for target, score in scores.items():
        ranked = score.flatten().argsort(descending=True, stable=True).tolist()
        put = surgery.order_heads if target.kind == "heads" else surgery.order_neurons
        put(model, layers_of(model)[target.layer], ranked)


def sandwich(found: Sequence[Size], samples: int, seed: int, step: int) -> list[Size]:
    """The sub-networks of a step: the largest, the smallest, and some of the others."""
    between = list(found[1:-1])
    drawn = random.Random(seed * 1_000_003 + step).sample(between, min(samples, len(between)))
    return [found[0], *drawn, found[-1]]
