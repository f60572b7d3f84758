"""The matrices of an encoder that may become two factors: their names, the ranks that are given, and the exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from toolchain.compress.shared.svd import Decomposition, pays, rounded
from toolchain.core.errors import ModelError, RecipeError, require
from toolchain.model import shapes
from toolchain.model.anatomy import anatomy

#: Name of the token embedding.
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Matrix:
    """A matrix of the encoder.

    Attributes:
        module: The linear layer or table, as ``get_submodule`` finds it.
        size: ``(out, in)``; of a table ``(tokens, width)``.
    """

    module: str
    size: tuple[int, int]

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return self.size[0] * self.size[1]


def matrices(model: Any, kinds: Sequence[str], *, embedding: bool) -> dict[str, Matrix]:
    """The matrices of a model, by names such as ``0.query``, ``5.ffn_out`` and ``embedding``.

    Args:
        model: A classifier.
        kinds: Which of each layer's matrices, as :class:`toolchain.model.anatomy.Layer` calls them.
        embedding: Whether the token embedding belongs to them.

    Raises:
        RecipeError: The token embedding has a projection behind it already.
        ModelError: One of them is factorized already.
    """
    from toolchain.model.factorized import FactorizedEmbedding, FactorizedLinear

    found = anatomy(model)
    modules = {f"{layer.index}.{kind}": str(getattr(layer, kind)) for layer in found.layers for kind in kinds}
    if embedding:
        modules[EMBEDDING] = found.embedding
    for name, module in modules.items():
        if isinstance(model.get_submodule(module), FactorizedLinear | FactorizedEmbedding):
            raise ModelError(f"{name} is factorized already", "give low_rank the checkpoint that it was made from")
    made = {name: Matrix(module, _size(model.get_submodule(module))) for name, module in modules.items()}
    width = model.get_submodule(found.layers[0].query).in_features
    if embedding and (found.shared or made[EMBEDDING].size[1] != width):
        raise RecipeError(
            f"embedding: {type(model).__name__} comes with a factorized token embedding, {list(made[EMBEDDING].size)} "
            f"and a projection to {width}",
            "leave embedding out",
        )
    return made


def _size(module: Any) -> tuple[int, int]:
    rows, columns = module.weight.shape
    return int(rows), int(columns)


def given_ranks(
    found: Mapping[str, Matrix], every: int | None, named: Mapping[str, int], embedding: int | None, multiple: int
) -> dict[str, int]:
    """The ranks that the user gives, rounded; 0 where the factors would not be smaller than the matrix.

    Args:
        found: The model's matrices.
        every: Rank of each layer's matrices.
        named: Ranks by name or shell pattern; a name goes before a pattern.
        embedding: Rank of the token embedding.
        multiple: Ranks are rounded to the nearest multiple of it.

    Raises:
        RecipeError: A name fits no matrix, two patterns with different ranks fit one, or a rank is none of its matrix.
    """
    ranks: dict[str, int] = {}
    inner = [name for name in found if name != EMBEDDING]
    if every is not None:
        ranks = dict.fromkeys(inner, every)
    for pattern in sorted(set(named) - set(found)):
        matched = [name for name in inner if fnmatchcase(name, pattern)]
        if not matched:
            raise RecipeError(
                f"ranks: {pattern!r} fits none of the matrices that layers allows",
                f"there are {', '.join([*inner, EMBEDDING])}; a pattern is, for example, '*.ffn_in'",
            )
        for name in matched:
            if name not in named and ranks.setdefault(name, named[pattern]) != named[pattern]:
                raise RecipeError(
                    f"ranks: two patterns give {name} ranks, {ranks[name]} and {named[pattern]}", f"name {name}"
                )
    ranks |= {name: rank for name, rank in named.items() if name in found}
    if embedding is not None:
        ranks[EMBEDDING] = embedding
    for name, rank in ranks.items():
        size = found[name].size
        if rank >= min(size):
            raise RecipeError(
                f"{name} is {list(size)}: {rank} is no lower rank",
                f"it is smaller with ranks below {found[name].parameters / sum(size):.0f}",
            )
    ranks = {name: rounded(rank, multiple) for name, rank in ranks.items()}
    return {name: rank if pays(found[name].size, rank) else 0 for name, rank in ranks.items()}


def check_smaller(ranks: Mapping[str, int], found: Mapping[str, Matrix]) -> None:
    """Holds that something gets smaller.

    Raises:
        RecipeError: Every matrix would stay whole.
    """
    if not any(ranks.values()):
        name = min(ranks, key=lambda name: found[name].parameters / sum(found[name].size))
        size = found[name].size
        raise RecipeError(
            f"every matrix would stay whole, because its factors would not be smaller: {name}, {list(size)}, needs a "
            f"rank below {found[name].parameters / sum(size):.0f}",
            "ask for less rank, energy or parameters, or lower multiple_of",
        )


def put_in(
    model: Any, found: Mapping[str, Matrix], decomposed: Mapping[str, Decomposition], ranks: Mapping[str, int]
) -> None:
    """Puts factors of these ranks in the places of the matrices; those of rank 0 stay."""
    torch = require("torch", "torch")
    from toolchain.model.factorized import FactorizedEmbedding, FactorizedLinear

    for name, rank in ranks.items():
        if not rank:
            continue
        old = model.get_submodule(found[name].module)
        rows, columns = found[name].size
        left, right = decomposed[name].factors(rank)
        made: Any
        with torch.no_grad():
            if name == EMBEDDING:
                made = FactorizedEmbedding(rows, rank, columns, padding_idx=old.padding_idx)
                made.first.weight.copy_(left)
                made.second.weight.copy_(right.T)
            else:
                made = FactorizedLinear(columns, rank, rows, bias=old.bias is not None)
                made.first.weight.copy_(right)
                made.second.weight.copy_(left)
                if old.bias is not None:
                    made.bias.copy_(old.bias + decomposed[name].shift(rank))
        made.train(old.training)
        shapes.replace(model, found[name].module, made)
