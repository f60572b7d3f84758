"""Training after, or while, a model is made smaller: on the labels, or on the labels and a teacher's answers.

The teacher is the checkpoint that the technique was given. Its logits on the training examples are computed once, and
the loss is ``(1 − w)·CE(labels) + w·T²·KL(softmax(teacher / T) ‖ softmax(student / T))``: Hinton et al., arXiv
1503.02531; the T² keeps the gradients of both terms of one size while T changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain import kinds
from toolchain.core.stage import Context, Gt, Le, Metrics, StageConfig
from toolchain.model import checkpoint, zeros
from toolchain.model.encoded import encode, logits, outputs
from toolchain.model.train import Hooks, Loss, TrainConfig, loss_of, train


@dataclass(frozen=True, kw_only=True)
class Teacher(StageConfig):
    """How the checkpoint that is made smaller teaches the smaller one.

    Attributes:
        weight: Weight w of the teacher's answers in the loss; the labels have 1 − w.
        temperature: T, by which the logits of both are divided.
    """

    weight: Annotated[float, Gt(0), Le(1)] = 0.8
    temperature: Annotated[float, Gt(0), Le(100)] = 2.0


def recover(
    model: Any,
    tokenizer: Any,
    source: Path,
    training: TrainConfig,
    teacher: Teacher | None,
    context: Context,
    hooks: Hooks | None = None,
    added: Callable[[], Any] | None = None,
) -> Metrics:
    """Trains a smaller model in place; weights that are zero when it begins stay zero.

    Args:
        model: The smaller model.
        tokenizer: Its tokenizer.
        source: The checkpoint that it was made from: the teacher.
        training: Settings of the training loop.
        teacher: How the teacher teaches; None: labels alone.
        context: Seed, threads, data, and the folder whose state is resumed from.
        hooks: What the technique adds to the loop.
        added: Gives what the technique adds to the loss, or None.

    Returns:
        What the training loop reports.

    Raises:
        ModelError: The longest input is more than the model reads.
    """
    task, taught = taught_by(source, model, tokenizer, training, teacher, context)

    def loss(model: Any, batch: dict[str, Any]) -> Any:
        more = added() if added else None
        return task(model, batch) if more is None else task(model, batch) + more

    return learn(model, tokenizer, training, context, loss=loss, taught=taught, hooks=hooks)


def taught_by(
    source: Path, model: Any, tokenizer: Any, training: TrainConfig, teacher: Teacher | None, context: Context
) -> tuple[Loss, Any]:
    """The loss of what a checkpoint teaches, and its logits on the training examples; with no teacher, the labels'."""
    kind = context.dataset().kind
    if teacher is None:
        return loss_of(kind), None
    checkpoint.check_length(model.config, tokenizer, training.max_length)
    names = checkpoint.model_inputs(model, tokenizer)
    examples = encode(tokenizer, context.dataset().split("train"), training.max_length, names)
    taught = logits(checkpoint.load_model(source), examples, context.threads)
    return answers_loss(kind, teacher.temperature, labels=1 - teacher.weight, logits=teacher.weight), taught


def learn(
    model: Any, tokenizer: Any, training: TrainConfig, context: Context, *, loss: Loss,
    taught: Any = None, hooks: Hooks | None = None,
) -> Metrics:  # fmt: skip
    """Trains a model in place on the task; weights that are zero when it begins stay zero.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        training: Settings of the training loop.
        context: Seed, threads, data, and the folder whose state is resumed from.
        loss: loss(model, batch) → scalar.
        taught: A teacher's logits on the training examples, ``[examples][classes]``: ``teacher`` of a batch.
        hooks: What the technique adds to the loop.

    Returns:
        What the training loop reports.

    Raises:
        ModelError: The longest input is more than the model reads.
    """
    checkpoint.check_length(model.config, tokenizer, training.max_length)
    data = context.dataset()
    names = checkpoint.model_inputs(model, tokenizer)
    examples, dev = (encode(tokenizer, data.split(name), training.max_length, names) for name in ("train", "dev"))
    examples = dataclasses.replace(examples, teacher=taught)
    return train(model, examples, dev, training, context, loss=loss, hooks=_keeping_zeros(model, hooks or Hooks()))


def _keeping_zeros(model: Any, hooks: Hooks) -> Hooks:
    """Hooks under which weights that are zero now stay zero: those of this technique, or of one before it."""
    kept = zeros.standing(model)
    if not kept:
        return hooks
    put_back, after = zeros.keeping(model, kept), hooks.after_step

    def both(step: int, total: int) -> None:
        if after:
            after(step, total)
        put_back()

    return dataclasses.replace(hooks, after_step=both)


def answers_loss(kind: str, temperature: float, *, labels: float, logits: float) -> Loss:
    """``labels · CE + logits · T² · KL(teacher ‖ student)``, both softened by the temperature T, or what a kind has.

    Args:
        kind: The kind of task.
        temperature: T, above 0.
        labels: Weight of the labels.
        logits: Weight of the teacher's answers.
    """

    def loss(model: Any, batch: dict[str, Any]) -> Any:
        found = outputs(model, batch, kind)
        total = labels * kinds.get(kind).loss(found, batch)
        if not logits:
            return total
        return total + logits * kinds.get(kind).soft_loss(found, batch["teacher"], batch, temperature)

    return loss
