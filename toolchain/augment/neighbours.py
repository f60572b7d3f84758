"""Replaces words by their neighbours in the model's embedding table: TinyBERT's augmentation, with the encoder at hand.

A part of a text's words is replaced, each by one of the ``nearest`` words whose embeddings have the largest cosine with
its own, drawn evenly: Jiao et al., arXiv 1909.10351, algorithm 1, which takes GloVe's embeddings for words of several
tokens; those stay as they are here, and so do words of fewer than three letters. The table is that of the checkpoint
that stands before it, or of the model's source where it stands before fine-tuning. Opposites are often neighbours
(good, bad), so let a teacher label what is made.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from toolchain.augment.shared import examples
from toolchain.augment.shared.examples import AugmentConfig
from toolchain.augment.shared.examples_file import Example
from toolchain.augment.shared.words import drawn, near_words, replaced, words_of
from toolchain.core.errors import ModelError
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")

teachers = examples.teachers


@dataclass(frozen=True, kw_only=True)
class Config(AugmentConfig):
    """Settings of the replacement of words by their neighbours.

    Attributes:
        copies: Texts that are made of each training example.
        part: Part of the words that can be replaced which is; at least one.
        nearest: Neighbours that a word is replaced by one of.
        closeness: Least cosine of a neighbour.
    """

    copies: Annotated[int, Ge(1), Le(100)] = 2
    part: Annotated[float, Gt(0), Le(1)] = 0.2
    nearest: Annotated[int, Ge(1), Le(1000)] = 10
    closeness: Annotated[float, Ge(-1), Lt(1)] = 0.3


def apply(source: Path | None, out: Path, config: Config, context: Context) -> Metrics:
    """Writes texts with other words.

    Args:
        source: Model folder whose embedding table is read; None of a model from scratch before it is fine-tuned.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and who labels.

    Returns:
        How many texts were made, kept and left out, and why; ``words`` that have neighbours.

    Raises:
        ModelError: There is no model yet, its tokenizer knows no whole words, or no word has a neighbour.
    """
    if source is None:
        raise ModelError(
            "neighbours: a model from scratch has no table before it is fine-tuned", "put it after finetune"
        )
    train = context.dataset().train
    words = {word for text in train.texts for word in words_of(text)}
    near = near_words(source, words, context, nearest=config.nearest, closeness=config.closeness)

    def make(piece: range, rng: random.Random) -> list[Example]:
        return [
            Example(_changed(train.texts[index], near, config.part, rng), train.labels[index], index)
            for index in piece for _ in range(config.copies)
        ]  # fmt: skip

    made = examples.in_pieces(len(train), context, "replacing words", make)
    return examples.finish(made, out, config, context) | {"words": len(near)}


def _changed(text: tuple[str, ...], near: dict[str, list[str]], part: float, rng: random.Random) -> tuple[str, ...]:
    """A text with a part of its words replaced."""
    words = words_of(text)
    places = drawn([place for place, word in enumerate(words) if word in near], part, rng)
    return replaced(text, {place: rng.choice(near[words[place]]) for place in places})
