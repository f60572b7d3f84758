"""What a teacher must be, held before anything is trained: it has the task's labels, and reads what its pupil reads.

A recipe is refused for what files and configs tell; labels and tokens are looked at when a run begins, since they need
the task's data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from toolchain.augment.shared.models import unfit
from toolchain.core.errors import DataError, ModelError, require
from toolchain.core.hooks import Augmentation, Compression
from toolchain.core.log import logger
from toolchain.core.vendor import vendor
from toolchain.model import adopt, door, source
from toolchain.model.checkpoint import load_tokenizer
from toolchain.model.labels import match_labels, own_labels
from toolchain.pipeline.keys import Task
from toolchain.pipeline.plan import Plan, Step

#: Training texts by which two tokenizers are compared before a run.
SEEN = 256


def check(plan: Plan, task: Task, fresh: Collection[str] = ()) -> None:
    """Holds that models have the task's labels, and teachers read the tokens that students read where that matters.

    Teachers and models that make texts are downloaded for it; tokenizers that are not here yet are compared later.

    Args:
        plan: The plan.
        task: Its task.
        fresh: Ids of the steps that take in what the store does not have yet.

    Raises:
        ModelError: A model has other labels, or cuts texts into other tokens; a model is not to be had.
        DataError: An augmentation makes no texts of the task's kind.
    """
    for step in plan.steps.values():
        technique = step.technique
        if step.id in fresh:
            adopt.check_labels(step.config, task.data())
        if refusal := technique.hooks.fits_task(step.config, lambda: task.data().pairs):
            raise DataError(*refusal)
        if step.does.augments:
            augmentation = technique.of(Augmentation)
            for spec in augmentation.sources(step.config):
                _folder(spec, plan)
                if refusal := unfit([spec], augmentation.HEAD):
                    raise ModelError(*refusal)
        taught = step.inputs if step.does.compresses else ()
        if step.does.augments:
            taught = step.inputs[0 if step.source else 1 :]
        for teacher in (plan.steps[each] for each in taught if plan.steps[each].kind == "checkpoint"):
            _check_labels(teacher, plan, task)
        if step.does.compresses and technique.of(Compression).reads_alike(step.config):
            _check_tokens(step, plan, task)
    for said in dict.fromkeys(filter(None, (_other_length(step, plan) for step in plan.steps.values()))):
        logger.warning("%s", said)


def _other_length(step: Step, plan: Plan) -> str:
    """That a technique trains on more or fewer tokens of a text than what comes of it will read; empty where not."""
    training = getattr(step.config, "finetune", None) if step.does.compresses else None
    first = step
    while first.source is None and first.inputs:
        first = plan.steps[first.inputs[0]]
    if training is None or not first.does.finetunes or training.max_length == first.config.max_length:
        return ""
    return (
        f"{step.technique.name} trains on {training.max_length} tokens of a text, and what comes of it reads "
        f"{first.config.max_length}, as finetune says: set {step.technique.name}.finetune.max_length to that"
    )


def _check_labels(teacher: Step, plan: Plan, task: Task) -> None:
    folder = _folder(str(teacher.source), plan) if teacher.does.adopts else None
    if folder is None:
        return
    match_labels(tuple(own_labels(folder)), task.data().labels, folder)


def _folder(spec: str, plan: Plan) -> Path | None:
    """Where a model lies, which is downloaded if need be; None of one from scratch."""
    found = source.resolve(spec, plan.recipe.base)
    return source.fetch(found) if found.kind == "hub" else found.folder


def _check_tokens(step: Step, plan: Plan, task: Task) -> None:
    student, teacher = (_tokenizer(plan.steps[each], plan) for each in step.inputs[:2])
    if student is None or teacher is None or student == teacher:
        return
    texts, longest = task.data().train.texts[:SEEN], step.config.finetune.max_length
    if _tokens(student, texts) != _tokens(teacher, texts):
        from toolchain.compress.distill.inner_losses import token_ids

        # transformers may read a tokenizer otherwise than its file alone says: it has the last word.
        token_ids(load_tokenizer(student), load_tokenizer(teacher), texts, longest)


def _tokenizer(step: Step, plan: Plan) -> Path | None:
    """The folder that a checkpoint has its tokenizer from; None where it is not here yet, or changes on the way."""
    while step.source is None:
        if step.technique.name == "vocabulary_prune":
            return None
        step = plan.steps[step.inputs[0]]
    folder = source.resolve(step.source, plan.recipe.base).folder
    return folder if folder and (folder / "tokenizer.json").is_file() else None


def _tokens(folder: Path, texts: Sequence[tuple[str, ...]]) -> list[list[str]]:
    door.admit(folder)
    with vendor("cannot be used as a tokenizer", folder / "tokenizer.json", ModelError, "copy it again"):
        tokenizer = require("tokenizers", "torch").Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return [tokenizer.encode(*text).tokens for text in texts]
