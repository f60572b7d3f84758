"""What a model answers to one example, of any kind of task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entity:
    """A part of a text that has a name.

    Attributes:
        type: What it is, such as ``person``.
        text: The part of the text.
        start: Position of its first character.
        end: Position behind its last character.
        probability: The mean probability of its words' labels, of 0 to 1.
    """

    type: str
    text: str
    start: int
    end: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answers to one example.

    Attributes:
        label: The name of the likeliest label, or of what is answered in its place.
        probability: Its probability, of 0 to 1; 1 where labels have none.
        score: The number that is answered; None of labels.
        labels: Every label that is answered with its probability, the likeliest first, of a model that answers any
            number of them; None of others.
        entities: The entities of a text, in their order; None of a kind that has none.
        embedding: The vector of a text; None of a kind that has none.
    """

    label: str
    probability: float
    score: float | None = None
    labels: tuple[tuple[str, float], ...] | None = None
    entities: tuple[Entity, ...] | None = None
    embedding: tuple[float, ...] | None = None
