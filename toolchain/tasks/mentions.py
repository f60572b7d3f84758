"""Generated notes in which people, places and companies are mentioned: token classification without files or network.

Several names are those of people, places and companies alike (Florence, Jordan, Ford), so that what stands around a
name decides; names have one to three words, and some of these words stand for themselves elsewhere. The text is ours
and the same on every machine: it depends on the settings alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Any

from toolchain.core.data import Dataset, Split
from toolchain.core.stage import Ge, Le, StageConfig
from toolchain.tasks.shared import tagging

VERSION = 1

_KIND = "token_classification"

#: Names of any type.
_ANY = ("Florence", "Jordan", "Austin", "Victoria", "Lincoln", "Ford", "Madison", "Chelsea", "Morgan", "Hudson")

_FIRST = ("Ada", "Ravi", "Mei", "Olga", "Tomas", "Amara", "Nils", "Lucia", "Kofi", "Hana", "Pablo", "Ingrid")
_LAST = ("Okafor", "Lindqvist", "Moreau", "Tanaka", "Silva", "Novak", "Banerjee", "Brown", "Reed", "Castle")
_PLACES = ("Oslo", "Lima", "Kyoto", "Nairobi", "Ghent", "Tallinn", "Quito", "Perth", "Riga", "Dakar")
_PREFIXES = ("New", "Port", "Lake", "San", "Mount")
_COMPANIES = ("Northwind", "Halcyon", "Brightwell", "Corvus", "Tamarack", "Ironbridge", "Meridian", "Solano")
_SUFFIXES = ("Inc.", "Group", "Labs", "& Sons", "Foods", "Airlines")

#: Notes; ``{person}``, ``{place}`` and ``{company}`` are filled.
_NOTES = (
    "{person} moved from {place} to {place} last spring .",
    "{person} works for {company} .",
    "{company} opened an office in {place} .",
    "The meeting with {person} and {person} is in {place} .",
    "Ask {person} , who runs {company} , for the report .",
    "{company} sued {company} over a new patent .",
    "It rains in {place} , says {person} .",
    "Shares of {company} fell after {person} left .",
    "Nobody at {company} has been to {place} .",
    "{person} 's flight to {place} was late .",
    "Before {place} , {person} lived near a lake .",
    "A new group of brown birds was seen near {place} .",
    "Send the invoice to {company} , not to {person} .",
    "The labs on the mount are closed until Monday .",
    "Dear {person} , thank you for your letter .",
    "{place} is colder than {place} in March .",
)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the generator.

    Attributes:
        train_size: Training notes.
        dev_size: Notes that selection reads.
        test_size: Notes that the finalists are judged on.
        seed: Seed of the data, apart from the seed of training.
    """

    train_size: Annotated[int, Ge(2), Le(20_000)] = 1500
    dev_size: Annotated[int, Ge(2), Le(5000)] = 300
    test_size: Annotated[int, Ge(2), Le(5000)] = 600
    seed: Annotated[int, Ge(0)] = 17


def kind(config: Config) -> str:
    """Return what is learned."""
    return _KIND


def held_here(config: Config) -> bool:
    """Return whether the data lie here, so that they can be looked at before a run: always."""
    return True


def load(config: Config) -> Dataset:
    """Generate the three splits; no note occurs twice."""
    seen: set[str] = set()
    # Test first: it stays the same whatever the other sizes are.
    test = _generate(config.test_size, f"test {config.seed}", seen)
    dev = _generate(config.dev_size, f"dev {config.seed}", seen)
    train = _generate(config.train_size, f"train {config.seed}", seen)
    names = ("O", *(f"{prefix}-{each}" for each in ("company", "person", "place") for prefix in "BI"))
    parts = [
        Split([(note.text,) for note in notes], tagging.gold("mentions", notes, names), kind=_KIND)
        for notes in (train, dev, test)
    ]
    return Dataset(parts[0], parts[1], parts[2], names)


def identity(config: Config) -> dict[str, Any]:
    """Return what decides the data: the settings and nothing else."""
    return {
        "train_size": config.train_size,
        "dev_size": config.dev_size,
        "test_size": config.test_size,
        "seed": config.seed,
    }


def _generate(count: int, seed: str, seen: set[str]) -> list[tagging.Tagged]:
    rng, notes = random.Random(seed), list[tagging.Tagged]()
    while len(notes) < count:
        words, tags = list[str](), list[str]()
        for part in rng.choice(_NOTES).split():
            named = part.strip("{}")
            name = _name(rng, named) if part != named else [part]
            words += name
            tags += [f"{'I' if index else 'B'}-{named}" if part != named else "O" for index in range(len(name))]
        note = tagging.joined(words, tags, [""] * len(words))
        if note.text not in seen:
            seen.add(note.text)
            notes.append(note)
    return notes


def _name(rng: random.Random, kind: str) -> list[str]:
    """Return the words of a name."""
    alike = [rng.choice(_ANY)] if rng.random() < 0.35 else []
    if kind == "person":
        first = alike or [rng.choice(_FIRST)]
        return first + ([rng.choice(_LAST)] if rng.random() < 0.5 else [])
    if kind == "place":
        return ([rng.choice(_PREFIXES)] if rng.random() < 0.3 else []) + (alike or [rng.choice(_PLACES)])
    return (alike or [rng.choice(_COMPANIES)]) + (rng.choice(_SUFFIXES).split() if rng.random() < 0.4 else [])
