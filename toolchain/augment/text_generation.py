"""Lets a causal language model write texts for each label, shown some of the training examples that have it.

The prompt holds ``shots`` examples of one label, a line each, and ends where another of them would begin; the model
goes on, and what it writes up to the end of the line is a text of that label: Yoo et al., GPT3Mix, arXiv 2104.08826,
with one label to a prompt. A teacher that does not ``agree`` may leave it out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from toolchain.augment.shared import examples, models
from toolchain.augment.shared.examples import AugmentConfig
from toolchain.augment.shared.examples_file import Example
from toolchain.core.errors import DataError
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")

teachers = examples.teachers

#: What its models compute.
HEAD: models.Head = "CausalLM"


@dataclass(frozen=True, kw_only=True)
class Config(AugmentConfig):
    """Settings of text generation.

    Attributes:
        model: A causal language model: a folder, a hub id, or package:MODULE/FOLDER.
        per_label: Texts that are made for each label.
        shots: Training examples of the label that stand in a prompt.
        line: How an example is written in a prompt, with {label} and {text} in it.
        temperature: By which logits are divided; 0 takes the most probable word, always.
        top_p: The least set of words with this probability together is drawn from.
        max_new_tokens: Longest text in tokens.
        batch_size: Prompts at a time.
    """

    model: str = "openai-community/gpt2"
    per_label: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    shots: Annotated[int, Ge(1), Le(64)] = 4
    line: str = "A {label} text: {text}"
    temperature: Annotated[float, Ge(0), Le(10)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 0.9
    max_new_tokens: Annotated[int, Ge(1), Le(4096)] = 48
    batch_size: Annotated[int, Ge(1), Le(4096)] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.line.endswith("{text}") or "\n" in self.line or "{label}" not in self.line:
            raise ValueError(f"line: {self.line!r} is not one line with {{label}} in it and {{text}} at its end")


def fits_task(config: Config, pairs: Callable[[], bool]) -> tuple[str, str] | None:
    """Why it writes none of a task's texts, and what to do, or None."""
    refusal = ("text_generation writes single texts, and the task's are pairs", "use back_translation")
    return refusal if pairs() else None


def sources(config: Config) -> tuple[str, ...]:
    """The models that it needs besides the one that stands before it."""
    return (config.model,)


def apply(source: Path | None, out: Path, config: Config, context: Context) -> Metrics:
    """Writes texts that a model has written for each label.

    Args:
        source: Not read.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and who labels.

    Returns:
        How many texts were made, kept and left out, and why.

    Raises:
        DataError: The task's texts are pairs, which a prompt of lines does not hold.
        ModelError: The model is no causal language model, or does not read a whole prompt.
    """
    data = context.dataset()
    if refusal := fits_task(config, lambda: data.pairs):
        raise DataError(*refusal)
    writer = models.load(config.model, HEAD, context)
    of_label = [[i for i, own in enumerate(data.train.labels) if own == label] for label in range(len(data.labels))]

    def make(piece: range, rng: random.Random) -> list[Example]:
        labels = [index % len(data.labels) for index in piece]
        prompts = []
        for label in labels:
            drawn = rng.sample(of_label[label], min(config.shots, len(of_label[label])))
            lines = [_line(config, data.labels[label], data.train.texts[index][0]) for index in drawn]
            prompts.append("\n".join([*lines, _line(config, data.labels[label], "").rstrip()]))
        written = models.generated(
            writer, prompts, batch_size=config.batch_size, max_new_tokens=config.max_new_tokens,
            **models.sampling(config.temperature, config.top_p),
        )  # fmt: skip
        return [Example((text.partition("\n")[0].strip(),), label) for text, label in zip(written, labels, strict=True)]

    made = examples.in_pieces(config.per_label * len(data.labels), context, "writing", make)
    return examples.finish(made, out, config, context)


def _line(config: Config, label: str, text: str) -> str:
    return config.line.replace("{label}", label).replace("{text}", " ".join(text.split()))
