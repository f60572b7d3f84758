"""Knowledge distillation: a smaller student learns from a teacher's answers, and from what is inside it.

``L = w_labels CE(y, z) + w_logits T² KL(softmax(z_T / T) ‖ softmax(z / T)) + Σ w_k L_k`` with the student's logits
``z`` ``[batch, classes]`` and the teacher's ``z_T``: Hinton et al., arXiv 1503.02531. T² keeps the gradients of both
terms of one size: those of the softened answers fall as 1/T². The others compare hidden states, embeddings, attention
maps and relations, by the formulas and papers in ``inner_losses.py``.

The student is the checkpoint that it is given, or the ``layers`` of it that stay (Sanh et al., arXiv 1910.01108); what
was pruned or factorized before stays as it is, and so does what is zero. The teacher is that checkpoint before layers
leave, or a stage before it, another model's fine-tuning, or a checkpoint from outside; of several, the answers are
averaged and the first shows its inside. Answers on the training examples are an artifact: one pass for all students.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain import kinds
from toolchain.compress.distill.losses import Losses
from toolchain.compress.shared import pruning
from toolchain.compress.shared.recovery import answers_loss, learn
from toolchain.core.errors import RecipeError
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, MinLen, StageConfig
from toolchain.model import checkpoint, surgery, teach
from toolchain.model.anatomy import anatomy
from toolchain.model.labels import match_labels
from toolchain.model.source import Shape
from toolchain.model.train import TrainConfig

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "distilled"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of distillation.

    Attributes:
        teacher: Who teaches: ``before`` (the checkpoint that is given), the name of a stage or technique before this
            one, MODEL.finetune, or a model's source; several as a list.
        layers: How many of the layers the student has, spread evenly, or which ones, from 0; absent: all.
        mapping: The teacher's layer for each of the student's: spread evenly, its last ones, or a list, from 0.
        losses: Weights of the losses.
        temperature: T, by which logits are divided.
        finetune: Settings of the training.
    """

    teacher: str | Annotated[tuple[str, ...], MinLen(1)] = "before"
    layers: Annotated[int, Ge(1)] | Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)] | None = None
    mapping: Literal["even", "last"] | tuple[Annotated[int, Ge(0)], ...] = "even"
    losses: Losses = field(default_factory=Losses)
    temperature: Annotated[float, Gt(0), Le(100)] = 2.0
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=4, learning_rate=1e-4))

    def __post_init__(self) -> None:
        if "" in _named(self):
            raise ValueError("teacher: a name of no letters; before is the checkpoint that is given")
        if self.mapping != "even" and not (self.losses.hidden or self.losses.attention or self.losses.relations):
            raise ValueError("mapping: no loss compares layers; give hidden, attention or relations a weight")


def teachers(config: Config) -> tuple[str, ...]:
    """Who teaches, as the plan knows them: those whose answers are learned from, the one that shows its inside."""
    if asks(config):
        return _named(config)
    return _named(config)[:1] if any(config.losses.inside.values()) else ()


def asks(config: Config) -> bool:
    """Whether the teachers' answers are learned from."""
    return config.losses.logits > 0


def _named(config: Config) -> tuple[str, ...]:
    return (config.teacher,) if isinstance(config.teacher, str) else tuple(config.teacher)


def fits(config: Config, shape: Shape) -> tuple[str, str] | None:
    """Why a student of such layers cannot be, and what to do; None where it can."""
    if config.layers is not None and 1 < shape.physical < shape.layers:
        said = f"layers: {shape.physical} different layers are shared, and single runs of them cannot leave"
        return said, "leave layers out; heads, neurons and hidden width can leave, with gradient_prune"
    if isinstance(config.layers, int) and config.layers > shape.layers:
        return f"layers: a student of {config.layers} layers, from a model of {shape.layers}", "ask for fewer layers"
    if isinstance(config.layers, tuple):
        unknown = [index for index in config.layers if index >= shape.layers]
        if unknown:
            return f"layers: there is no layer {unknown[0]}", f"this model's are 0 to {shape.layers - 1}"
        if list(config.layers) != sorted(set(config.layers)):
            return f"layers: {list(config.layers)} are not in order, each once", "write them rising"
    count = len(_kept(config, shape.layers))
    if isinstance(config.mapping, tuple) and len(config.mapping) != count:
        said = f"mapping: {len(config.mapping)} layers of the teacher for the {count} of the student"
        return said, f"name {count}, one for each"
    if isinstance(config.mapping, tuple) and set(_named(config)) == {"before"}:
        unknown = [index for index in config.mapping if index >= shape.layers]
        if unknown:
            return f"mapping: the teacher has no layer {unknown[0]}", f"its layers are 0 to {shape.layers - 1}"
    return None


def fits_teacher(config: Config, student: Shape, teacher: Shape) -> tuple[str, str] | None:
    """Why what is inside such a teacher cannot be learned, and what to do; None where it can."""
    if not any(config.losses.inside.values()):
        return None
    if 0 < teacher.longest < config.finetune.max_length:
        said = f"finetune.max_length: {config.finetune.max_length} is more than the {teacher.longest} tokens that the "
        return f"{said}teacher reads", f"set it to {teacher.longest} or less"
    return _unmapped(config, student.layers, teacher.layers)


def reads_alike(config: Config) -> bool:
    """Whether teacher and student must cut texts into the same tokens."""
    return any(config.losses.inside.values())


def leaves(config: Config, shape: Shape) -> Shape:
    """The shape of the student."""
    layers = len(_kept(config, shape.layers))
    trained = shape.trained if layers == shape.layers else shape.cut
    return dataclasses.replace(shape, layers=layers, physical=min(layers, shape.physical), trained=trained)


def _kept(config: Config, depth: int) -> tuple[int, ...]:
    """The layers that the student has."""
    if config.layers is None:
        return tuple(range(depth))
    if isinstance(config.layers, int):
        return surgery.evenly(config.layers, depth)
    return config.layers


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Trains a student.

    Args:
        source: Checkpoint folder that the student is made from.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, teachers, and the folder whose state is resumed from.

    Returns:
        heads, ffn, hidden, layers and parameters, and the same before; and what the training loop reports.

    Raises:
        RecipeError: The student's layers, or the mapping, are not those of the models.
        ModelError: The two cut texts into different tokens, and the losses compare token by token.
    """
    from toolchain.compress.distill import inner_losses

    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before = pruning.size(model)
    depth = int(before.get("layers", 0))
    if config.layers is not None:
        refusal = fits(config, Shape(depth, depth))
        if refusal:
            raise RecipeError(*refusal)
        surgery.keep_layers(model, _kept(config, depth))
    kind = context.dataset().kind
    loss = answers_loss(kind, config.temperature, labels=config.losses.labels, logits=config.losses.logits)
    taught = _answers(source, config, context) if asks(config) else None
    lesson = None
    if any(config.losses.inside.values()):
        first = context.teachers[0].checkpoint
        teacher, theirs = checkpoint.load_model(first), checkpoint.load_tokenizer(first)
        checkpoint.check_length(teacher.config, theirs, config.finetune.max_length)
        ids = inner_losses.token_ids(tokenizer, theirs, context.dataset().train.texts, config.finetune.max_length)
        mapping = _mapping(config, anatomy(model).depth, anatomy(teacher).depth)
        reads = checkpoint.model_inputs(teacher, theirs)
        lesson = inner_losses.Lesson(model, teacher, mapping, config.losses.inside, ids, reads, context.seed)
        loss = lesson.loss(loss)
    metrics = learn(model, tokenizer, config.finetune, context, loss=loss, taught=taught)
    if lesson is not None:
        lesson.end()
    checkpoint.save_like(model, tokenizer, source, out)
    return metrics | pruning.size(model) | {"before": before}


def _answers(source: Path, config: Config, context: Context) -> Any:
    """Logits whose softened answers are the teachers' mean, ``[examples][classes]``, classes as the student's."""
    given = []
    for answers in (teacher.answers for teacher in context.teachers if teacher.answers):
        logits, labels = teach.read(answers)
        given.append(logits)
    kind = kinds.get(context.dataset().kind)
    index, _ = match_labels(context.dataset().labels, labels, source)
    inverse = [index.index(label) for label in range(len(index))]
    return kind.relabelled(kind.blend(given, config.temperature), inverse).tolist()


def _unmapped(config: Config, student: int, teacher: int) -> tuple[str, str] | None:
    """Why so many layers of a student have none of the teacher's to be compared with, and what to do."""
    name_them = f"name one for each, mapping: [...], from 0 to {teacher - 1}; or ask for a student of fewer layers"
    if isinstance(config.mapping, tuple):
        if len(config.mapping) != student or max(config.mapping) >= teacher:
            said = f"mapping: {list(config.mapping)} does not map {student} layers of the student"
            return f"{said} to the teacher's {teacher}", f"name {student} layers, from 0 to {teacher - 1}"
        return None
    layerwise = config.losses.hidden or config.losses.attention
    if student > teacher and (layerwise or config.mapping == "last"):
        return f"mapping: {config.mapping}: the student has {student} layers, and the teacher {teacher}", name_them
    return None


def _mapping(config: Config, student: int, teacher: int) -> Sequence[int]:
    from toolchain.compress.distill.inner_losses import spread

    if refusal := _unmapped(config, student, teacher):
        raise RecipeError(*refusal)
    if isinstance(config.mapping, tuple):
        return config.mapping
    return spread(student, teacher) if config.mapping == "even" else range(teacher - student, teacher)
