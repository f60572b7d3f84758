"""Fine-tunes an encoder with a classifier on the task (Devlin et al., arXiv 1810.04805)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError
from toolchain.core.stage import Context, Metrics
from toolchain.model import checkpoint, door, exportable, heads, scratch, vocabulary, zeros
from toolchain.model.encoded import encode
from toolchain.model.train import Hooks, TrainConfig, train

VERSION = 2
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Settings of the training loop.

    Attributes:
        keep_zeros: Weights of the encoder's matrices that are zero stay zero: a pruned encoder is fine-tuned on another
            task with its mask locked (prune once for all, Zafrir et al., arXiv 2111.05754).
    """

    keep_zeros: bool = False


def apply(source: Path | str, out: Path, config: Config, context: Context) -> Metrics:
    """Trains and writes a checkpoint.

    Args:
        source: Model folder, or a ``scratch:…`` specification.
        out: Folder to write.
        config: Training settings.
        context: Seed, threads, data, and where training state survives a kill.

    Returns:
        What the training loop reports, the number of parameters, and notes.
    """
    data = context.dataset()
    if isinstance(source, str):
        with tempfile.TemporaryDirectory() as folder:
            scratch.create(source, data.train.texts, context.seed, Path(folder))
            return _finetune(Path(folder), out, config, context)
    door.admit(source)
    return _finetune(source, out, config, context)


def _finetune(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    if refusal := heads.start_refusal(source):
        raise ModelError(*refusal)
    data = context.dataset()
    tokenizer = checkpoint.load_tokenizer(source)
    exportable.check(source, tokenizer, context)
    replaced = heads.new_head_reason(source, data.labels, data.kind)
    notes = [f"{source.name}: its encoder was taken and its head made new: {replaced}"] if replaced else []
    model = checkpoint.load_for_training(source, data.labels, context.seed, new_head=bool(replaced), kind=data.kind)
    vocabulary.check(model, tokenizer, source)
    checkpoint.check_length(model.config, tokenizer, config.max_length)
    names = checkpoint.model_inputs(model, tokenizer)
    encoded = {name: encode(tokenizer, data.split(name), config.max_length, names) for name in ("train", "dev")}
    hooks, locked = _locked(model) if config.keep_zeros else (Hooks(), {})
    metrics = train(model, encoded["train"], encoded["dev"], config, context, hooks=hooks) | locked
    checkpoint.save(
        model, tokenizer, out, max_length=config.max_length, labels=data.labels, pair=data.pairs, kind=data.kind
    )
    return metrics | {"parameters": checkpoint.count_parameters(model), "notes": [*notes, *metrics.get("notes", ())]}


def _locked(model: Any) -> tuple[Hooks, Metrics]:
    """Hooks that put the zeros of an encoder's matrices back after every step, and how many there are."""
    kept = zeros.standing(model)
    if not kept:
        raise ModelError(
            "keep_zeros: no weight of this encoder is zero, so there is no mask to keep",
            "start from a checkpoint that was pruned without remove, or leave keep_zeros out",
        )
    put_back = zeros.keeping(model, kept)
    count = sum(int((~mask).sum()) for mask in kept.values())
    return Hooks(after_step=lambda step, total: put_back()), {"zeros": count}
