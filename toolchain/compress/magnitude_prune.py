"""Magnitude pruning: what has the smallest weights goes, and the rest may recover by training.

A weight ``w`` is worth ``|w|``; Han et al., arXiv 1506.02626. A block, a head, a neuron is worth the root mean square
of its weights, in the matrix that reads it; of heads and neurons the layers' means are made equal first. With
``remove`` the shapes get smaller: heads, FFN neurons, hidden width and layers are physically gone. Without it they
stay, and zeros count as smaller or faster only where a file format or a kernel drops them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolchain.compress.shared.criteria import magnitude
from toolchain.compress.shared.pruning import PruneConfig, fits, leaves, prune
from toolchain.core.stage import Context, Metrics

__all__ = ["Config", "apply", "fits", "leaves"]

VERSION = 2
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "pruned"


@dataclass(frozen=True, kw_only=True)
class Config(PruneConfig):
    """Settings of magnitude pruning."""


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Prunes a checkpoint.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data.

    Returns:
        heads, ffn, hidden, layers and parameters, and the same before; without remove, the sparsity reached over the
        pruned weights, and their number; and what the training loop reports.

    Raises:
        ModelError: The architecture's layers cannot be cut, or its matrices not into such blocks.
        RecipeError: The model does not have what is to be removed.
    """
    return prune(source, out, config, context, magnitude)
