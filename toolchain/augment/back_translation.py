"""Translates texts into another language and back: the same said in other words.

Two sequence-to-sequence models, one for each direction: Sennrich et al., arXiv 1511.06709, as an augmentation of text
classification in Xie et al., arXiv 1904.12848. Drawing from the softened probabilities on the way out gives several
versions of a text; the way back takes the most probable words. A text that a model does not read to its end is counted
as empty. Marian's translators need the extra ``translate``, and weights as safetensors.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from toolchain.augment.shared import examples, models
from toolchain.augment.shared.examples import AugmentConfig
from toolchain.augment.shared.examples_file import Example
from toolchain.core.stage import Context, Ge, Le, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece")

teachers = examples.teachers

#: What its models compute.
HEAD: models.Head = "Seq2SeqLM"


@dataclass(frozen=True, kw_only=True)
class Config(AugmentConfig):
    """Settings of back-translation.

    Attributes:
        forward: The model that translates into the other language: a folder or a hub id.
        backward: The model that translates back.
        forward_prompt: What stands before a text on the way out, for models that are told what to do.
        backward_prompt: What stands before it on the way back.
        copies: Texts that are made of each training example.
        temperature: By which logits are divided on the way out; 0 takes the most probable word, always.
        max_new_tokens: Longest translation in tokens.
        batch_size: Texts at a time.
    """

    forward: str = "Helsinki-NLP/opus-mt-en-de"
    backward: str = "Helsinki-NLP/opus-mt-de-en"
    forward_prompt: str = ""
    backward_prompt: str = ""
    copies: Annotated[int, Ge(1), Le(100)] = 1
    temperature: Annotated[float, Ge(0), Le(10)] = 0.7
    max_new_tokens: Annotated[int, Ge(1), Le(4096)] = 128
    batch_size: Annotated[int, Ge(1), Le(4096)] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies > 1 and not self.temperature:
            raise ValueError("copies: at a temperature of 0 all of a text's copies are the same; ask for one")


def sources(config: Config) -> tuple[str, ...]:
    """The models that it needs besides the one that stands before it."""
    return (config.forward, config.backward)


def apply(source: Path | None, out: Path, config: Config, context: Context) -> Metrics:
    """Writes texts that were translated there and back.

    Args:
        source: Not read.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and who labels.

    Returns:
        How many texts were made, kept and left out, and why.

    Raises:
        ModelError: A model is no sequence-to-sequence model.
    """
    there, back = (models.load(spec, HEAD, context) for spec in sources(config))
    train = context.dataset().train
    room = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}

    def make(piece: range, rng: random.Random) -> list[Example]:
        asked = [index for index in piece for _ in range(config.copies)]
        sentences = [config.forward_prompt + part for index in asked for part in train.texts[index]]
        foreign = models.generated(there, sentences, **room, **models.sampling(config.temperature))
        returned = models.generated(
            back, [config.backward_prompt + part for part in foreign], **room, **models.sampling(0)
        )
        # A translator writes something even for nothing.
        returned = [text if part else "" for text, part in zip(returned, foreign, strict=True)]
        width = len(train.texts[0])
        texts = [tuple(returned[start : start + width]) for start in range(0, len(returned), width)]
        return [Example(text, train.labels[index], index) for text, index in zip(texts, asked, strict=True)]

    made = examples.in_pieces(len(train), context, "translating", make)
    return examples.finish(made, out, config, context)
