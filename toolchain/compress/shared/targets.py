"""Structures: which units of which matrices are kept or go.

Every structure is a cut of matrices into blocks: single weights are blocks of 1 × 1; a head is a block of the matrix
that reads it, all rows by the head's columns, and so is a neuron. What makes the blocks of a head or neuron zero makes
the head or neuron idle, and :mod:`toolchain.model.surgery` then removes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolchain.compress.shared.criteria import COMPARABLE, Criterion
from toolchain.core.errors import ModelError, require
from toolchain.model.anatomy import head_size, layers_of

#: What is cut out, in place of set to zero.
Units = Literal["heads", "ffn"]
Kind = Literal["weights", "heads", "ffn"]


@dataclass(frozen=True)
class Target:
    """A matrix whose blocks are ranked.

    Attributes:
        name: Its module.
        kind: Single weights or blocks of them, the heads that it reads, or the neurons that it reads.
        layer: Its physical layer; -1 outside of layers.
        rows: Rows of a block; 0 for all.
        columns: Columns of a block.
    """

    name: str
    kind: Kind
    layer: int
    rows: int
    columns: int

    def weight(self, model: Any) -> Any:
        """The matrix, ``[out, in]``."""
        return model.get_submodule(self.name).weight

    def pool(self, values: Any) -> Any:
        """Sums values ``[out, in]`` over each block: ``[blocks down, blocks across]``."""
        rows = self.rows or values.shape[0]
        if (rows, self.columns) == (1, 1):
            return values
        cut = values.reshape(values.shape[0] // rows, rows, values.shape[1] // self.columns, self.columns)
        return cut.sum(dim=(1, 3))

    def expand(self, units: Any, shape: Sequence[int]) -> Any:
        """What holds of each block, for each of its weights: ``[out, in]``."""
        rows = self.rows or shape[0]
        if (rows, self.columns) == (1, 1):
            return units
        return units.repeat_interleave(rows, 0).repeat_interleave(self.columns, 1)


def weight_targets(model: Any, block: tuple[int, int] = (1, 1), *, embeddings: bool = False) -> list[Target]:
    """Single weights, or blocks, of the encoder's linear layers; shared ones once.

    Args:
        model: A sequence classifier.
        block: Rows and columns of a block.
        embeddings: Whether embedding tables belong to them.

    Raises:
        ModelError: There is no linear layer, or a matrix cannot be cut into such blocks.
    """
    torch = require("torch", "torch")
    kinds = (torch.nn.Linear, torch.nn.Embedding) if embeddings else (torch.nn.Linear,)
    prefix = f"{model.base_model_prefix}."
    modules = {f"{prefix}{name}": m for name, m in model.base_model.named_modules() if isinstance(m, kinds)}
    if not modules:
        raise ModelError(f"{type(model).__name__} has no linear layers in its encoder")
    places = _places(model)
    for name, module in modules.items():
        rows, columns = module.weight.shape
        if rows % block[0] or columns % block[1]:
            raise ModelError(
                f"{name} is {rows} × {columns}: blocks of {block[0]} × {block[1]} do not fill it",
                "choose a block whose sides divide those of every matrix",
            )
    return [Target(name, "weights", places(name), *block) for name in modules]


def unit_targets(model: Any, kind: Units) -> list[Target]:
    """The heads, or the neurons, of every physical layer, by the matrix that reads them."""
    found = []
    for layer in layers_of(model):
        name, columns = (layer.output, head_size(model, layer)) if kind == "heads" else (layer.ffn_out, 1)
        found.append(Target(reader(model, name), kind, layer.index, 0, columns))
    return found


def reader(model: Any, name: str) -> str:
    """The matrix that reads a linear layer's input: of a factorized one, the first factor."""
    return f"{name}.first" if hasattr(model.get_submodule(name), "rank") else name


def choose(
    scores: Mapping[Target, Any],
    parts: float | Sequence[float],
    scope: Literal["local", "global"],
    criterion: Criterion,
    multiple: int = 1,
) -> dict[Target, Any]:
    """Which units are kept.

    Args:
        scores: Scores of the units of each target, all of one kind.
        parts: Part of the units that goes, 0 to 1: of all, or of each physical layer by its index.
        scope: Rank within each target, or over all of them; parts by layer are ranked within each.
        criterion: What the scores are; those that do not compare across layers are divided by each layer's mean.
        multiple: Neurons are kept in such multiples.

    Returns:
        Booleans of the scores' shapes. Of heads and neurons at least one, or one multiple, is kept in each layer.
    """
    torch = require("torch", "torch")
    if not isinstance(parts, Sequence) and scope == "global":
        kind = next(iter(scores)).kind
        scaled = kind != "weights" and criterion not in COMPARABLE
        flat = [(s / s.mean().clamp_min(1e-20) if scaled else s).flatten() for s in scores.values()]
        ranked = _lowest(torch.cat(flat), round(parts * sum(map(len, flat))))
        pieces = torch.split(~ranked, [len(piece) for piece in flat])
        kept = {target: piece.view_as(scores[target]) for target, piece in zip(scores, pieces, strict=True)}
    else:
        kept = {}
        for target, score in scores.items():
            part = parts if not isinstance(parts, Sequence) else parts[target.layer] if target.layer >= 0 else 0.0
            kept[target] = ~_lowest(score.flatten(), round(part * score.numel())).view_as(score)
    return {
        target: units if target.kind == "weights" else _rounded(scores[target], int(units.sum()), target, multiple)
        for target, units in kept.items()
    }


def two_of_four(scores: Mapping[Target, Any]) -> dict[Target, Any]:
    """Keeps the two best of every four neighbours in a row: the 2:4 pattern (Mishra et al., arXiv 2104.08378)."""
    torch = require("torch", "torch")
    kept = {}
    for target, score in scores.items():
        fours = score.reshape(score.shape[0], -1, 4)
        best = torch.topk(fours, 2, dim=2).indices
        kept[target] = torch.zeros_like(fours, dtype=torch.bool).scatter_(2, best, True).view_as(score)
    return kept


def _rounded(score: Any, kept: int, target: Target, multiple: int) -> Any:
    """The best units of a target, as many as asked, in multiples, and at least one of them."""
    torch = require("torch", "torch")
    step = multiple if target.kind == "ffn" else 1
    count = min(score.numel(), max(step, round(kept / step) * step))
    units = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    units[torch.topk(score.flatten(), count).indices] = True
    return units.view_as(score)


def _lowest(scores: Any, count: int) -> Any:
    torch = require("torch", "torch")
    found = torch.zeros_like(scores, dtype=torch.bool)
    found[torch.topk(scores, count, largest=False).indices] = True
    return found


def _places(model: Any) -> Callable[[str], int]:
    """The physical layer that a module belongs to; -1 for none, as in an architecture that cannot be cut."""
    try:
        known = {name: layer.index for layer in layers_of(model) for name in layer.linears}
    except ModelError:
        known = {}
    return functools.partial(_place, known)


def _place(known: Mapping[str, int], name: str) -> int:
    return next((index for linear, index in known.items() if name == linear or name.startswith(f"{linear}.")), -1)
