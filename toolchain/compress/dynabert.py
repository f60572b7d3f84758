"""Trains one model for several widths and depths at once; ``subnetwork`` then takes one of them, without more training.

Hou et al., "DynaBERT: Dynamic BERT with Adaptive Width and Depth", arXiv 2004.04037. Heads and neurons are first put
into the order of their importance (first-order Taylor, on training examples), which changes nothing that the model
computes; a narrower one is then its first heads and neurons in every layer, a shallower one has its layers spread
evenly. The checkpoint that is given teaches all of them. In every step the largest sub-network, the smallest, and
``samples`` between them, drawn by the seed, are trained together: the sandwich rule of Yu and Huang, arXiv 1903.05134,
in place of the paper's two stages over all sizes, which is a third of the passes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from toolchain.compress.shared import elastic, pruning
from toolchain.compress.shared.recovery import Teacher, learn, taught_by
from toolchain.core.log import logger
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, MinLen, StageConfig
from toolchain.model import checkpoint, zeros
from toolchain.model.anatomy import anatomy
from toolchain.model.source import Shape
from toolchain.model.train import Hooks, TrainConfig

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "pruned"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of training for several sizes.

    Attributes:
        widths: Parts of the heads and neurons that a sub-network has; the whole is among them.
        depths: Parts of the layers; the whole is among them.
        samples: Sub-networks that every step trains besides the largest and the smallest.
        calibration_samples: Training examples that importance is gathered on.
        finetune: Settings of the training.
        teacher: How the checkpoint that is given teaches; null: labels alone.
    """

    widths: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = (1.0, 0.75, 0.5, 0.25)
    depths: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = (1.0, 0.67, 0.5)
    samples: Annotated[int, Ge(0), Le(100)] = 1
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=4, learning_rate=1e-4))
    teacher: Teacher | None = field(default_factory=Teacher)

    def __post_init__(self) -> None:
        for name, parts in (("widths", self.widths), ("depths", self.depths)):
            if 1 not in parts:
                raise ValueError(f"{name}: {list(parts)} has no 1: the whole model is one of the sizes")
        if len(set(self.widths)) * len(set(self.depths)) == 1:
            raise ValueError("widths and depths name one size alone, the whole; add smaller ones, such as 0.5")


def fits(config: Config, shape: Shape) -> tuple[str, str] | None:
    """Why a model of this shape cannot be trained for several sizes, and what to do; None where it can."""
    if shape.factors:
        return "the layers of a low rank have no order of heads and neurons", "let low_rank stand after subnetwork"
    if 1 < shape.physical < shape.layers:
        said = f"{shape.physical} different layers are shared, and single runs of them cannot leave"
        return said, "prune heads and neurons with gradient_prune or latency_prune"
    found = elastic.sizes(config.widths, config.depths, shape.layers)
    if len(found) == 1:
        said = f"depths: of {shape.layers} layers {list(config.depths)} are one number of layers, the whole"
        return said, "add a smaller part, or widths such as 0.5"
    return None


def leaves(config: Config, shape: Shape) -> Shape:
    """The shape of the whole model, with the sub-networks that it is trained for."""
    found = elastic.sizes(config.widths, config.depths, shape.layers)
    return dataclasses.replace(shape, trained=tuple((size.width, size.layers) for size in found))


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Trains a checkpoint for several sizes.

    Args:
        source: Checkpoint folder; it teaches too.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and the folder whose state is resumed from.

    Returns:
        ``dev_by_size``: width, layers, dev accuracy of each sub-network; the model's sizes, and what the training loop
        reports, of the whole model.

    Raises:
        ModelError: The architecture's layers cannot be cut, or are factorized.
    """
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    elastic.check(model)
    zeros.warn_of_loss(model, "dynabert")
    elastic.order_by_importance(model, tokenizer, config.calibration_samples, context)
    found = elastic.sizes(config.widths, config.depths, anatomy(model).depth)
    task, taught = taught_by(source, model, tokenizer, config.finetune, config.teacher, context)
    now = [0]

    def loss(prepared: Any, batch: dict[str, Any]) -> Any:
        drawn = elastic.sandwich(found, config.samples, context.seed, now[0])
        total = 0.0
        for size in drawn:
            with elastic.within(model, size):
                total = total + task(prepared, batch)
        return total / len(drawn)

    def before_step(step: int, total: int) -> None:
        now[0] = step

    hooks = Hooks(before_step=before_step, candidate=lambda step, total: step == total)
    metrics = learn(model, tokenizer, config.finetune, context, loss=loss, taught=taught, hooks=hooks)
    elastic.record(model, config.widths, config.depths)
    checkpoint.save_like(model, tokenizer, source, out)
    told = []
    for size, reached in elastic.judged(model, tokenizer, found, config.finetune.max_length, context):
        logger.info("    %s: dev accuracy %.2f %%", size, 100 * reached)
        told.append({"width": size.width, "layers": size.layers, "dev_accuracy": reached})
    return metrics | pruning.size(model) | {"dev_by_size": told}
