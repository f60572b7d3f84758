"""Gradient-based pruning: what changes the loss least goes, by its Taylor expansion to the first or second order.

A unit u (a weight, a block, a head, a neuron, a layer) with weights ``w`` and gradients ``g`` is worth

* ``taylor``: ``E|Σ g·w|``, Molchanov et al., arXiv 1611.06440; of heads, Michel et al., arXiv 1905.10650;
* ``fisher``: ``½ E(Σ g·w)²``, the second-order term with the empirical Fisher information as the Hessian (Optimal Brain
  Damage, LeCun et al. 1989; Kwon et al., arXiv 2204.09656);
* ``obs``: Optimal Brain Surgeon (Hassibi and Stork 1992) layer by layer: with ``H = E[x xᵀ]`` of a matrix's inputs,
  removing columns S costs ``tr(W_S [H⁻¹]_SS⁻¹ W_Sᵀ)``, and the columns that stay take over what they can:
  ``W −= W_S [H⁻¹]_SS⁻¹ [H⁻¹]_S:`` (Frantar and Alistarh, arXiv 2208.11580 and, for single weights and 2:4, 2301.00774;
  Kurtic et al., arXiv 2302.04089, for heads and neurons). It needs no training to be useful.

Expectations are over training examples, one at a time; along a ramp, over the steps of the training itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from toolchain.compress.shared.criteria import fisher, taylor
from toolchain.compress.shared.obs import surgeon
from toolchain.compress.shared.pruning import PruneConfig, fits, leaves, prune
from toolchain.core.stage import Context, Ge, Le, Metrics

__all__ = ["Config", "apply", "fits", "leaves"]

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "pruned"


@dataclass(frozen=True, kw_only=True)
class Config(PruneConfig):
    """Settings of gradient-based pruning.

    Attributes:
        criterion: First order, second order, or second order layer by layer with the rest made up for; the last ranks
            single weights within each matrix, whatever the scope.
        calibration_samples: Training examples that importance is gathered on before training.
    """

    criterion: Literal["taylor", "fisher", "obs"] = "taylor"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion != "obs":
            return
        if self.finetune is not None and self.ramp > 0:
            raise ValueError("criterion obs decides before training: set ramp: 0")
        if self.structure == "block" or self.embeddings:
            raise ValueError("criterion obs takes single weights, 2:4, heads and neurons, and no embedding tables")
        if self.remove is not None and self.remove.hidden:
            raise ValueError("criterion obs cannot judge hidden width, which many matrices read: use taylor or fisher")


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
    if config.criterion == "obs":
        return surgeon(source, out, config, context, config.calibration_samples)
    criterion = taylor if config.criterion == "taylor" else fisher
    return prune(source, out, config, context, criterion, config.calibration_samples)
