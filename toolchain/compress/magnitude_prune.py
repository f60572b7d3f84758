"""Unstructured magnitude pruning: the smallest weights become zero, and the rest may recover by training.

A weight ``w`` is kept when ``|w|`` is among the largest ``1 − sparsity`` of its layer (``local``) or of all pruned
layers together (``global``); Han et al., arXiv 1506.02626. The shapes stay: zeros count as smaller or faster only where
a file format or a kernel drops them. With ``finetune`` the sparsity rises along the cubic
schedule of Zhu and Gupta, arXiv 1710.01878, and the mask is put back after every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from toolchain.core.errors import ModelError, require
from toolchain.core.stage import Context, Ge, Gt, Lt, Metrics, StageConfig
from toolchain.model import checkpoint
from toolchain.model.train import Hooks, TrainConfig, encode, train

if TYPE_CHECKING:
    from collections.abc import Mapping

#: While the sparsity rises, the mask is chosen anew after this many steps: ranking every weight takes a while.
CHOOSE_EVERY = 16

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of magnitude pruning.

    Attributes:
        sparsity: Part of the encoder's linear weights that becomes zero.
        scope: Rank weights within each layer, or over all layers together.
        embeddings: Prune the embedding tables too.
        finetune: Train while pruning, with these settings; absent: prune once and leave it.
        ramp: With finetune: the part of all steps over which the sparsity rises.
    """

    sparsity: Annotated[float, Gt(0), Lt(1)] = 0.5
    scope: Literal["local", "global"] = "global"
    embeddings: bool = False
    finetune: TrainConfig | None = None
    ramp: Annotated[float, Ge(0), Lt(1)] = 0.6


@dataclass
class _Masks:
    """The weights that are pruned, and which of them are zero now."""

    weights: Mapping[str, Any]
    scope: str
    kept: dict[str, Any] = field(default_factory=dict)

    def choose(self, sparsity: float) -> None:
        """Chooses what is zero: the smallest ``sparsity`` of the weights as they are now."""
        torch = require("torch", "torch")
        if self.scope == "global":
            scores = torch.cat([weight.detach().abs().flatten() for weight in self.weights.values()])
            lowest = torch.zeros_like(scores, dtype=torch.bool)
            lowest[torch.topk(scores, round(sparsity * scores.numel()), largest=False).indices] = True
            parts = torch.split(lowest, [weight.numel() for weight in self.weights.values()])
            zero = dict(zip(self.weights, parts, strict=True))
        else:
            zero = {}
            for name, weight in self.weights.items():
                scores = weight.detach().abs().flatten()
                zero[name] = torch.zeros_like(scores, dtype=torch.bool)
                zero[name][torch.topk(scores, round(sparsity * scores.numel()), largest=False).indices] = True
        self.kept = {name: ~zero[name].view_as(weight) for name, weight in self.weights.items()}

    def put_on(self) -> None:
        """Makes the chosen weights zero."""
        torch = require("torch", "torch")
        with torch.no_grad():
            for name, kept in self.kept.items():
                self.weights[name].mul_(kept)


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Prunes a checkpoint.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data.

    Returns:
        sparsity reached over the pruned weights, their number, and what the training loop reports.

    Raises:
        ModelError: The model has no linear layer in its encoder.
    """
    model = checkpoint.load_model(source)
    tokenizer = checkpoint.load_tokenizer(source)
    interface = checkpoint.read_json(source / "interface.json")
    masks = _Masks(prunable(model, config.embeddings), config.scope)
    metrics: dict[str, Any] = {}
    if config.finetune is None:
        masks.choose(config.sparsity)
        masks.put_on()
    else:
        metrics = _prune_while_training(model, tokenizer, masks, config, config.finetune, context)
    total = sum(weight.numel() for weight in masks.weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in masks.weights.values())
    checkpoint.save(
        model, tokenizer, out, max_length=interface["max_length"], labels=interface["labels"], pair=interface["pair"]
    )
    parameters = checkpoint.count_parameters(model)
    return metrics | {"sparsity": zeros / total, "pruned_weights": total, "zeros": zeros, "parameters": parameters}


def prunable(model: Any, embeddings: bool) -> dict[str, Any]:
    """The weights that are pruned: matrices of the encoder's linear layers, shared ones once.

    Args:
        model: A sequence classifier.
        embeddings: Whether embedding tables belong to them.

    Raises:
        ModelError: There is none.
    """
    torch = require("torch", "torch")
    kinds = (torch.nn.Linear, torch.nn.Embedding) if embeddings else (torch.nn.Linear,)
    modules = dict(model.base_model.named_modules())
    found = {f"{name}.weight": module.weight for name, module in modules.items() if isinstance(module, kinds)}
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layers in its encoder")
    return found


def _prune_while_training(
    model: Any, tokenizer: Any, masks: _Masks, config: Config, training: TrainConfig, context: Context
) -> Metrics:
    data = context.dataset()
    names = checkpoint.model_inputs(model, tokenizer)
    splits = {name: encode(tokenizer, data.split(name), training.max_length, names) for name in ("train", "dev")}

    chosen_at = -1

    def before(step: int, total: int) -> None:
        nonlocal chosen_at
        end = round(config.ramp * total)
        at = end if step >= end else step - step % CHOOSE_EVERY
        if at != chosen_at:
            # Resumed between two choices, this finds the mask that was on: its weights are zero, so the smallest.
            done = at / end if end else 1.0
            masks.choose(config.sparsity * (1 - (1 - done) ** 3))
            masks.put_on()
            chosen_at = at

    def after(step: int, total: int) -> None:
        masks.put_on()

    def settled(step: int, total: int) -> bool:
        return step > round(config.ramp * total)

    hooks = Hooks(before_step=before, after_step=after, candidate=settled)
    return train(model, splits["train"], splits["dev"], training, context, hooks=hooks)
