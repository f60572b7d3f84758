"""Replaces words by what a masked language model would write there.

A part of a text's words is masked, all of them at once, and each is drawn from the model's ``nearest`` most probable
words at its place, by their probabilities: Wu et al., arXiv 1812.06705, whose model is not told the label here; so let
a teacher label what is made. Words of several tokens can be replaced, by words of one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.augment.shared import examples, models
from toolchain.augment.shared.examples import AugmentConfig
from toolchain.augment.shared.examples_file import Example
from toolchain.augment.shared.words import drawn, replaced, whole_words, words_of
from toolchain.core.errors import ModelError, require
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")

teachers = examples.teachers

#: What its models compute.
HEAD: models.Head = "MaskedLM"


@dataclass(frozen=True, kw_only=True)
class Config(AugmentConfig):
    """Settings of the replacement of words by a masked language model's.

    Attributes:
        model: A model with a masked-language-model head: a folder, a hub id, or package:MODULE/FOLDER.
        copies: Texts that are made of each training example.
        part: Part of the words that is replaced; at least one.
        nearest: Most probable words that one is drawn from.
        batch_size: Texts at a time.
    """

    model: str = "google-bert/bert-base-uncased"
    copies: Annotated[int, Ge(1), Le(100)] = 2
    part: Annotated[float, Gt(0), Le(1)] = 0.2
    nearest: Annotated[int, Ge(1), Le(1000)] = 10
    batch_size: Annotated[int, Ge(1), Le(4096)] = 32


def sources(config: Config) -> tuple[str, ...]:
    """The models that it needs besides the one that stands before it."""
    return (config.model,)


def apply(source: Path | None, out: Path, config: Config, context: Context) -> Metrics:
    """Writes texts with other words.

    Args:
        source: Not read.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and who labels.

    Returns:
        How many texts were made, kept and left out, and why.

    Raises:
        ModelError: The model has no such head, or its tokenizer knows no whole words or no mask.
    """
    model, tokenizer = models.load(config.model, HEAD, context)
    writer = _Writer(model, tokenizer, config)
    train = context.dataset().train

    def make(piece: range, rng: random.Random) -> list[Example]:
        asked = [index for index in piece for _ in range(config.copies)]
        made = []
        for start in range(0, len(asked), config.batch_size):
            made += writer.written([train.texts[index] for index in asked[start : start + config.batch_size]], rng)
        return [Example(text, train.labels[index], index) for text, index in zip(made, asked, strict=True)]

    return examples.finish(examples.in_pieces(len(train), context, "replacing words", make), out, config, context)


class _Writer:
    """A masked language model, and the words that it may write."""

    def __init__(self, model: Any, tokenizer: Any, config: Config) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.words = {index: word for word, index in whole_words(tokenizer).items()}
        if tokenizer.mask_token is None or not self.words:
            lacks = "has no mask" if tokenizer.mask_token is None else "knows no whole words"
            raise ModelError(f"{config.model}: its tokenizer {lacks}", "name another masked language model")

    def written(self, texts: Sequence[tuple[str, ...]], rng: random.Random) -> list[tuple[str, ...]]:
        """The texts with a part of their words replaced; what the model does not read to the end stays."""
        torch = require("torch", "torch")
        chosen = [self._chosen(text, rng) for text in texts]
        masked = [
            replaced(text, dict.fromkeys(places, self.tokenizer.mask_token))
            for text, places in zip(texts, chosen, strict=True)
        ]
        room = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - 2)
        batch = self.tokenizer(
            *[list(column) for column in zip(*masked, strict=True)], padding=True, truncation=True, max_length=room,
            return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            logits = self.model(**batch).logits.float()
        allowed = torch.tensor(sorted(self.words))
        made = []
        for row, (text, places) in enumerate(zip(texts, chosen, strict=True)):
            at = (batch["input_ids"][row] == self.tokenizer.mask_token_id).nonzero().flatten()
            scores, order = logits[row, at][:, allowed].topk(min(self.config.nearest, len(allowed)), dim=1)
            if places and len(at):
                drawn = order.gather(1, torch.multinomial(scores.softmax(-1), 1)).flatten()
                sentences = [batch.sequence_ids(row)[place] for place in at.tolist()]
                words = [self.words[int(allowed[index])] for index in drawn]
                made.append(_filled(text, places, words, sentences))
            else:
                made.append(text)
        return made

    def _chosen(self, text: tuple[str, ...], rng: random.Random) -> list[int]:
        """Which of a text's words are replaced, counted over its sentences; none where it holds a mask of its own."""
        if any(self.tokenizer.mask_token in sentence for sentence in text):
            return []
        return drawn(range(len(words_of(text))), self.config.part, rng)


def _filled(
    text: tuple[str, ...], places: Sequence[int], words: Sequence[str], sentences: Sequence[int]
) -> tuple[str, ...]:
    """A text with words at its places; those at the end of a sentence that the model has not read stay.

    Args:
        text: The text.
        places: Which of its words were masked, counted over its sentences, rising.
        words: What the model writes at the masks that it has read.
        sentences: The sentence of each of those.
    """
    read, first = [], 0
    for number, sentence in enumerate(text):
        end = first + len(words_of([sentence]))
        read += [place for place in places if first <= place < end][: sentences.count(number)]
        first = end
    return replaced(text, dict(zip(read, words, strict=True)))
