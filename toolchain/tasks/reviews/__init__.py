"""Generated review sentences: the embedded default task, which needs no files and no network.

Films, restaurants, books, gadgets, hotels and games are judged with negation, contrast, attribution, irony and
conditions contrary to fact (``grammar``), so that counting words does not suffice: a unigram logistic
regression stays well below a fine-tuned transformer. A few labels are slips, as in any data that people labelled.
The text is ours and the same on every machine: it depends on the settings alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Any

from toolchain.core.data import Dataset, Split
from toolchain.core.stage import Ge, Le, StageConfig
from toolchain.tasks.reviews import grammar

VERSION = 1

_LABELS = ("negative", "positive")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the generator.

    Attributes:
        train_size: Training reviews.
        dev_size: Reviews that selection reads.
        test_size: Reviews that the finalists are judged on.
        seed: Seed of the data, apart from the seed of training.
    """

    train_size: Annotated[int, Ge(2), Le(20_000)] = 3000
    dev_size: Annotated[int, Ge(2), Le(5000)] = 500
    test_size: Annotated[int, Ge(2), Le(5000)] = 1000
    seed: Annotated[int, Ge(0)] = 17


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run: always."""
    return True


def load(config: Config) -> Dataset:
    """Generates the three splits; no near-duplicate of a review is in another split, or in its own."""
    seen: set[str] = set()
    # Test first: it stays the same whatever the other sizes are.
    test = _generate(config.test_size, f"test {config.seed}", seen)
    dev = _generate(config.dev_size, f"dev {config.seed}", seen)
    train = _generate(config.train_size, f"train {config.seed}", seen)
    return Dataset(train, dev, test, _LABELS)


def identity(config: Config) -> dict[str, Any]:
    """What decides the data: the settings and nothing else."""
    return {
        "train_size": config.train_size,
        "dev_size": config.dev_size,
        "test_size": config.test_size,
        "seed": config.seed,
    }


def _generate(count: int, seed: str, seen: set[str]) -> Split:
    rng = random.Random(seed)
    labels = [index % 2 for index in range(count)]
    rng.shuffle(labels)
    texts: list[tuple[str, ...]] = []
    while len(texts) < count:
        text, key = grammar.review(rng, positive=labels[len(texts)] == 1)
        if key not in seen:
            seen.add(key)
            texts.append((text,))
    return Split(texts, labels)
