"""Generated notes of hotel guests: an embedded task of several labels, or of scores, without files or network.

A note praises or blames one to four sides of a stay, by negation too ("the room was anything but quiet"), so that the
words alone do not decide. With ``kind: multi_label`` the labels are what a note complains of, none included; with
``kind: regression`` its score is how content the guest was, 0 to 5. The text is ours and the same on every machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from toolchain.core.data import Dataset, Split
from toolchain.core.stage import Ge, Le, StageConfig

VERSION = 1

#: Of each side of a stay what it is called, and what is said against and in favour of it.
_SIDES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "cleanliness": (("the room", "the bathroom"), ("dirty", "dusty", "stained"), ("clean", "spotless", "fresh")),
    "food": (("breakfast", "dinner"), ("stale", "bland", "tasteless"), ("delicious", "tasty", "varied")),
    "noise": (("the street", "the corridor"), ("noisy", "loud", "deafening"), ("quiet", "silent", "peaceful")),
    "price": (("the bill", "the rate"), ("overpriced", "expensive", "excessive"), ("fair", "cheap", "reasonable")),
    "staff": (("the receptionist", "the waiter"), ("rude", "slow", "unfriendly"), ("friendly", "helpful", "kind")),
}

#: How a side is judged: ``own`` is the word for what is meant, ``other`` its opposite.
_CLAUSES = (
    "{side} was {own}", "{side} was {own}", "{side} was {own}", "we found {side} {own}", "{side} seemed {own}",
    "{side} was anything but {other}",
)  # fmt: skip

_OPENERS = ("", "", "", "two nights in march", "a weekend for two", "our third visit", "a business trip")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the generator.

    Attributes:
        kind: What is learned: multi_label, what a note complains of; or regression, how content the guest was.
        train_size: Training notes.
        dev_size: Notes that selection reads.
        test_size: Notes that the finalists are judged on.
        seed: Seed of the data, apart from the seed of training.
    """

    kind: Literal["multi_label", "regression"] = "multi_label"
    train_size: Annotated[int, Ge(2), Le(20_000)] = 2000
    dev_size: Annotated[int, Ge(2), Le(5000)] = 300
    test_size: Annotated[int, Ge(2), Le(5000)] = 600
    seed: Annotated[int, Ge(0)] = 17


def kind(config: Config) -> str:
    """Return what is learned."""
    return config.kind


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run: always."""
    return True


def load(config: Config) -> Dataset:
    """Generate the three splits; no note is in two of them, or twice in one."""
    seen: set[str] = set()
    # Test first: it stays the same whatever the other sizes are.
    test, dev, train = (
        _generate(config.kind, count, random.Random(f"{name} {config.seed}"), seen)
        for name, count in (("test", config.test_size), ("dev", config.dev_size), ("train", config.train_size))
    )
    return Dataset(train, dev, test, tuple(_SIDES) if config.kind == "multi_label" else ("score",))


def identity(config: Config) -> dict[str, Any]:
    """What decides the data: the settings and nothing else."""
    sizes = {"train_size": config.train_size, "dev_size": config.dev_size, "test_size": config.test_size}
    return {"kind": config.kind, **sizes, "seed": config.seed}


def _generate(kind: str, count: int, rng: random.Random, seen: set[str]) -> Split:
    texts: list[tuple[str, ...]] = []
    gold: list[Any] = []
    while len(texts) < count:
        text, blamed, praised = _note(rng)
        if text in seen:
            continue
        seen.add(text)
        texts.append((text,))
        score = round(5 * len(praised) / len(blamed + praised), 2)
        gold.append(tuple(int(side in blamed) for side in _SIDES) if kind == "multi_label" else score)
    return Split(texts, gold, kind=kind)


def _note(rng: random.Random) -> tuple[str, list[str], list[str]]:
    """Return a note, the sides of the stay that it blames, and those that it praises."""
    sides = rng.sample([*_SIDES], rng.randint(1, 4))
    praised = [side for side in sides if rng.random() < 0.5]
    clauses = [opener] if (opener := rng.choice(_OPENERS)) else []
    for side in sides:
        names, *words = _SIDES[side]
        good = side in praised
        clause = rng.choice(_CLAUSES)
        clauses.append(
            clause.format(side=rng.choice(names), own=rng.choice(words[good]), other=rng.choice(words[not good]))
        )
    return f"{'; '.join(clauses)}.".capitalize(), [side for side in sides if side not in praised], praised
