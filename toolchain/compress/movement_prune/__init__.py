"""Movement pruning: what training moves towards zero goes; importance is learned while the model is fine-tuned.

Every unit (a weight, a block, a head, a neuron) has a score S that the loss trains through the mask as if it were not
there (straight-through): ``S ← S − η Σ g·w``, so that S grows where weights move away from zero. Sanh et al., arXiv
2005.07683; blocks, heads and neurons, Lagunas et al., arXiv 2109.04838.

* ``hard``: the units with the highest scores are kept, as many as the cubic schedule says;
* ``soft``: those with ``sigmoid(S) > threshold`` are kept, and ``penalty · mean sigmoid(S)``, which rises along the
  same schedule, drives them down in the loss; the sparsity that is asked is reached by the last choice, which is hard.

After the ramp the masks are locked, and the rest is trained on.

A matrix that was shared is scored once. Layers and hidden width have no scores: ``gradient_prune`` removes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.compress.shared import pruning
from toolchain.compress.shared.criteria import movement
from toolchain.compress.shared.pruning import fits, leaves
from toolchain.compress.shared.recovery import recover
from toolchain.core.errors import require
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, Metrics
from toolchain.model import checkpoint
from toolchain.model.train import Hooks, TrainConfig

__all__ = ["Config", "apply", "fits", "leaves"]

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "pruned"


@dataclass(frozen=True, kw_only=True)
class Config(pruning.PruneConfig):
    """Settings of movement pruning.

    Attributes:
        finetune: Settings of the training in which scores are learned; it cannot be left out.
        mode: Keep as many as the schedule says, or those whose score is above a threshold.
        score_learning_rate: Peak learning rate of the scores.
        threshold: With soft: a unit is kept while sigmoid(S) is above it.
        penalty: With soft: weight of the mean of sigmoid(S) in the loss, at the end of the ramp.
    """

    finetune: TrainConfig | None = field(default_factory=TrainConfig)
    mode: Literal["hard", "soft"] = "hard"
    score_learning_rate: Annotated[float, Gt(0), Le(1)] = 1e-2
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.1
    penalty: Annotated[float, Ge(0), Le(1e6)] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune is None:
            raise ValueError("movement is learned in training: finetune cannot be null")
        if self.ramp == 0:
            raise ValueError("movement is learned along the ramp: ramp must be above 0")
        if self.remove is not None and (self.remove.layers or self.remove.hidden):
            raise ValueError("movement has no scores of layers and hidden width: remove those by gradient_prune before")


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Prunes a checkpoint while it trains.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and the folder whose state is resumed from.

    Returns:
        heads, ffn, hidden, layers and parameters, and the same before; without remove, the sparsity reached over the
        pruned weights, and their number; and what the training loop reports.

    Raises:
        ModelError: The architecture's layers cannot be cut, or its matrices not into such blocks.
        RecipeError: The model does not have what is to be removed.
    """
    assert config.finetune is not None
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before = pruning.size(model)
    pruning.check(model, config)
    masks = pruning.Masks(model, config, movement)
    learned = _Learned(model, masks, config)
    taught = config.teacher
    metrics = recover(
        model, tokenizer, source, config.finetune, taught, context, learned.hooks(), added=learned.penalty
    )
    learned.settle()
    masks.cut()
    checkpoint.save_like(model, tokenizer, source, out)
    return metrics | pruning.measured(model, masks, before)


class _Learned:
    """Scores of all targets, and the masks that follow from them."""

    def __init__(self, model: Any, masks: pruning.Masks, config: Config) -> None:
        from toolchain.compress.movement_prune.masked import Masked

        self._parametrize = require("torch.nn.utils.parametrize", "torch")
        self.model, self.masks, self.config = model, masks, config
        self.masked: dict[Any, Masked] = {}
        self.zero: dict[Any, Any] = {}
        self.reached = 0.0
        for target in masks.targets:
            module, name = model.get_submodule(target.name), "weight"
            self.zero[target] = target.pool((module.weight.detach() != 0).float()) == 0
            self.masked[target] = Masked(target, module.weight)
            self._parametrize.register_parametrization(module, name, self.masked[target])

    def hooks(self) -> Hooks:
        """Chooses the masks anew now and then; scores have a learning rate of their own."""

        def before(step: int, total: int) -> None:
            end = self.config.ramp_end(total)
            self.reached = pruning.cubic(step, end)
            if (step < end and step % pruning.CHOOSE_EVERY == 0) or step == end:
                self._mask(final=step == end)  # otherwise the masks are those of the state, and locked after the ramp

        rates = {
            name: self.config.score_learning_rate
            for name, _ in self.model.named_parameters()
            if name.endswith("parametrizations.weight.0.scores")
        }
        return Hooks(
            before_step=before,
            candidate=lambda step, total: step > self.config.ramp_end(total),
            learning_rates=rates,
        )

    def penalty(self) -> Any:
        """What soft masks add to the loss; None for hard ones."""
        if self.config.mode == "hard":
            return None
        torch = require("torch", "torch")
        scores = torch.cat([masked.scores.flatten() for masked in self.masked.values()])
        return self.config.penalty * self.reached * torch.sigmoid(scores).mean()

    def settle(self) -> None:
        """Leaves the masked matrices in the model, and takes scores and masks out of it."""
        self.masks.kept = {target: masked.mask.detach() > 0 for target, masked in self.masked.items()}
        for target in self.masked:
            module = self.model.get_submodule(target.name)
            self._parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)

    def _mask(self, *, final: bool) -> None:
        torch = require("torch", "torch")
        # What was zero before counts towards what is asked, and is never kept.
        scores: Mapping[Any, Any] = {
            target: masked.scores.detach().masked_fill(self.zero[target].to(masked.scores.device), -torch.inf)
            for target, masked in self.masked.items()
        }
        if self.config.mode == "hard" or final:
            self.masks.choose(scores, 1.0 if final else self.reached)
        else:
            self.masks.kept = {t: torch.sigmoid(s) > self.config.threshold for t, s in scores.items()}
        with torch.no_grad():
            for target, kept in self.masks.kept.items():
                self.masked[target].mask.copy_(kept)
