"""Whether the techniques of a variant fit the model: what its config already refuses, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core.errors import ModelError
from toolchain.core.hooks import Compression
from toolchain.model import adopt, heads, source
from toolchain.pipeline.document import Problems
from toolchain.pipeline.items import BEFORE, Item, is_finetuning, teachers_of


def check_head(problems: Problems, items: Sequence[Item], path: tuple[Any, ...], spec: str, kind: str) -> None:
    """A model that is taken in is for the task's kind; one that is fine-tuned has an encoder that takes a new head.

    Args:
        problems: Where problems go.
        items: The items of a variant.
        path: Where they stand in the document.
        spec: Source of the model, where the variant takes in no other.
        kind: The kind of task.
    """
    adopted = next((str(item.config.path) for item in items if item.does.adopts), None)
    held = source.settled(adopted or spec, problems.document.base)
    try:
        if adopted or not any(item.does.finetunes for item in items):
            refusal = adopt.refusal(held, kind)
        else:
            folder = source.resolve(held).folder
            refusal = heads.start_refusal(folder, spec) if folder else None
    except ModelError:
        return  # what is wrong with it is said when the model is looked for
    if refusal:
        problems.add(path, *refusal)


def check_kind(problems: Problems, items: Sequence[Item], path: tuple[Any, ...], kind: str) -> None:
    """An augmentation keeps the answer of the texts that it makes others of, and a technique can be taken for the kind.

    Args:
        problems: Where problems go.
        items: The items of a variant.
        path: Where they stand in the document.
        kind: The kind of task.
    """
    if not kind:
        return
    of_task = kinds.get(kind)
    augmentation = next((item for item in items if item.does.augments), None)
    if augmentation and of_task.LABELS != "text":
        wrong = f"{augmentation.label} makes texts that keep one label; a task of the kind {kind} has other answers"
        problems.add(path, wrong, f"take {augmentation.label} out")
    refused = next((item for item in items if item.technique.name in of_task.REFUSED), None)
    if refused:
        reason = of_task.REFUSED[refused.technique.name]
        wrong = f"{refused.label} cannot be taken for a task of the kind {kind}: {reason}"
        problems.add(path, wrong, f"take {refused.label} out")


def check_fit(
    problems: Problems, items: Sequence[Item], path: tuple[Any, ...], model: str, models: Mapping[str, str]
) -> None:
    """What a technique asks of a model or its teacher that a config already refuses: an unknown layer, texts too long.

    Args:
        problems: Where problems go.
        items: The items of a variant.
        path: Where they stand in the document.
        model: Name of the model.
        models: Sources of all models, by name.
    """
    compressions = [item for item in items if item.does.compresses]
    if not compressions:
        return
    base = problems.document.base
    adopted = next((str(item.config.path) for item in items if item.does.adopts), None)
    kind = adopt.kind_of(source.settled(adopted, base)) if adopted else "checkpoint"
    if kind != "checkpoint":
        said = f"{compressions[0].label} takes a checkpoint, and {adopted} is of kind {kind}"
        problems.add(path, said, "give the folder with the model's weights, or take a graph pass")
        return
    shape = _shape(adopted or models[model], base)
    gave = {"finetune": shape}
    for item in compressions:
        if shape is None:
            return  # what is wrong with it is said when the model is looked for
        compression, before = item.technique.of(Compression), shape
        refusal = compression.fits(item.config, shape) or _too_long(item, shape)
        if not refusal:
            shape = compression.leaves(item.config, shape)
            if named := teachers_of(item):
                name = named[0]
                owner, _, stage = name.rpartition(".")
                outside = models[owner] if is_finetuning(stage) and owner in models else name
                teacher = {BEFORE: before, **gave}.get(name) or _shape(outside, base)
                refusal = compression.fits_teacher(item.config, shape, teacher) if teacher else None
        if refusal:
            problems.add(path, f"{item.label} of {adopted or model}: {refusal[0]}", refusal[1])
            return
        gave[item.technique.name] = shape


def _shape(spec: str, base: Path | None) -> source.Shape | None:
    try:
        return source.shape(source.resolve(spec, base))
    except ModelError:
        return None


def _too_long(item: Item, shape: source.Shape) -> tuple[str, str] | None:
    """Why a compression cannot train on texts of its length, and what to do."""
    training = getattr(item.config, "finetune", None)
    if training is None or not 0 < shape.longest < training.max_length:
        return None
    said = f"finetune.max_length: {training.max_length} is more than the {shape.longest} tokens that this model reads"
    return said, f"set it to {shape.longest} or less"
