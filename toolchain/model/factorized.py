"""Layers of two factors, ``W ≈ U V``: what low-rank approximation puts in the place of a matrix."""

from __future__ import annotations

from typing import Any

import torch


class FactorizedLinear(torch.nn.Module):  # type: ignore[misc]
    """``y = U (V x) + b``: ``first`` is V ``[rank, in]`` without a bias, ``second`` is U ``[out, rank]`` with b."""

    def __init__(self, inputs: int, rank: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.first = torch.nn.Linear(inputs, rank, bias=False)
        self.second = torch.nn.Linear(rank, outputs, bias=bias)

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(self.first.in_features)

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return int(self.second.out_features)

    @property
    def rank(self) -> int:
        """Width between the factors."""
        return int(self.first.out_features)

    @property
    def bias(self) -> Any:
        """The bias, ``[out]``, or None."""
        return self.second.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` → ``[…, out]``."""
        result: torch.Tensor = self.second(self.first(values))
        return result


class FactorizedEmbedding(torch.nn.Module):  # type: ignore[misc]
    """``E ≈ F P``: ``first`` is a table F ``[tokens, rank]``, ``second`` a projection P; ALBERT, arXiv 1909.11942."""

    def __init__(self, tokens: int, rank: int, outputs: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.first = torch.nn.Embedding(tokens, rank, padding_idx=padding_idx)
        self.second = torch.nn.Linear(rank, outputs, bias=False)

    @property
    def num_embeddings(self) -> int:
        """Tokens."""
        return int(self.first.num_embeddings)

    @property
    def embedding_dim(self) -> int:
        """Width of the output."""
        return int(self.second.out_features)

    @property
    def padding_idx(self) -> int | None:
        """Id of the padding token."""
        found: int | None = self.first.padding_idx
        return found

    @property
    def rank(self) -> int:
        """Width between the factors."""
        return int(self.first.embedding_dim)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``[…]`` int64 → ``[…, out]``."""
        result: torch.Tensor = self.second(self.first(ids))
        return result
