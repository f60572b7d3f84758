"""What an encoder's layers hold and compute, whole and cut: numbers in their matrices, and FLOPs.

FLOPs are counted as PyTorch's counter counts them, two for a multiplication and an addition: ``2·t·n`` for a matrix of
n numbers that reads t tokens, and ``4·t²·d`` for the two products of an attention whose heads are d wide together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: A layer's matrices by block: what its attention reads and writes, and its FFN.
BLOCKS = {"attention": ("query", "key", "value", "output"), "ffn": ("ffn_in", "ffn_out")}
MATRICES = tuple(name for names in BLOCKS.values() for name in names)


@dataclass(frozen=True)
class LayerSize:
    """The shape of one physical layer.

    Attributes:
        runs: How many times it is computed in a pass.
        hidden: Width of the residual stream.
        heads: Heads of its attention.
        head_size: Numbers in a head.
        neurons: Neurons of its FFN.
        ranks: Ranks of the matrices that are products of two factors already, by name.
    """

    runs: int
    hidden: int
    heads: int
    head_size: int
    neurons: int
    ranks: Mapping[str, int] = field(default_factory=dict)

    def shape(self, matrix: str, heads: int | None = None, neurons: int | None = None) -> tuple[int, int]:
        """``(out, in)`` of a matrix, with all heads and neurons or with so many."""
        width = (self.heads if heads is None else heads) * self.head_size
        wide = self.neurons if neurons is None else neurons
        return {
            "output": (self.hidden, width), "ffn_in": (wide, self.hidden), "ffn_out": (self.hidden, wide),
        }.get(matrix, (width, self.hidden))  # fmt: skip

    def weights(self, matrix: str, *, heads: int | None = None, neurons: int | None = None, rank: int = 0) -> int:
        """Numbers in a matrix, or in its two factors; biases aside.

        Args:
            matrix: Its name.
            heads: Heads that are left; absent: all.
            neurons: Neurons that are left; absent: all.
            rank: Rank that it gets; 0 leaves it as it is.
        """
        rows, columns = self.shape(matrix, heads, neurons)
        rank = rank or self.ranks.get(matrix, 0)
        return rank * (rows + columns) if rank else rows * columns

    def biases(self, *, heads: int | None = None, neurons: int | None = None) -> int:
        """Numbers in the biases that leave with heads and neurons."""
        return sum(self.shape(matrix, heads, neurons)[0] for matrix in ("query", "key", "value", "ffn_in"))

    def products(self, tokens: int, heads: int | None = None) -> int:
        """FLOPs of the products of two activations inside attention, over all runs."""
        return 4 * tokens**2 * (self.heads if heads is None else heads) * self.head_size * self.runs

    def flops(self, tokens: int, weights: int) -> int:
        """FLOPs of matrices of so many numbers, over all runs."""
        return 2 * tokens * weights * self.runs

    @property
    def whole(self) -> int:
        """Numbers in all of its matrices."""
        return sum(map(self.weights, MATRICES))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "ranks": dict(self.ranks)}


@dataclass(frozen=True)
class TableSize:
    """The embedding tables.

    Attributes:
        tokens: Rows of the token table.
        width: Its columns.
        others: Numbers in the other tables: positions, token types.
        rank: Rank that the token table has already, or 0.
        factors: Whether it may become a product of two: not where a projection stands behind it already.
    """

    tokens: int
    width: int
    others: int
    rank: int
    factors: bool

    def table(self, rank: int = 0) -> int:
        """Numbers in all tables, when the token table has so low a rank; 0 leaves it as it is."""
        rank = rank or self.rank
        return self.tokens * (rank or self.width) + self.others

    def projection(self, rank: int = 0) -> int:
        """Numbers in the projection behind the token table."""
        return (rank or self.rank) * self.width

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def channel_bytes(weights: int, channels: int, bits: int) -> int:
    """Bytes of numbers of so many bits, with a scale of four bytes for each output channel."""
    return -(-weights * bits // 8) + 4 * channels
