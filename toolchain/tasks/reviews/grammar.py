"""Grammar of the review generator: how a judgement is put into words so that its words alone do not give it away.

A template is text with slots. ``{adj}`` is filled in favour of the review's label, ``{!adj}`` against it; so
``{subj} not {!adj}`` is "the plot is not dull" for a positive review and "the plot is not clever" for a negative
one, and a template serves both labels. ``{C}`` is a whole clause for the label, ``{!C}`` one against it.

How the label follows from the words, the rules that a bag of words cannot hold:

1. Negation turns an opinion round ("hardly a triumph", "anything but dull").
2. After *but*, *yet*, *still* the last clause decides; beside *although*, *even if*, *despite* the other one does.
3. What was expected, what others say, and what the predecessor was like do not count; what it is does.
4. Irony: praise followed by an ordeal is blame, a complaint about too much pleasure is praise.
5. Conditions contrary to fact ("it could have been great") deny what they name.
"""

from __future__ import annotations

import random
import re

from toolchain.tasks.reviews import lexicon
from toolchain.tasks.reviews.lexicon import Words

_SLOT = re.compile(r"\{(!?)(\w+)\}")

#: One clause with one opinion, stated.
_STATED: Words = (
    "{subj} {int}{adj}",
    "{subj} {int}{adj}",
    "{subj} {adj} and {adj}",
    "{subj} {noun}",
    "{s} {deed}",
    "{s} {deed}",
    "I {felt} {s}",
    "{subj} full of {quality}",
    "I found {s} {int}{adj}",
)

#: One clause whose opinion is reached by negation (rule 1).
_NEGATED: Words = (
    "{subj} {neg} {!adj}",
    "{subj} {neg} {!adj}",
    "{subj} {neg} {!adj}",
    "{subj} hardly {!noun}",
    "{subj} not {!noun} at all",
    "I would not call {s} {!adj}",
    "nobody could call {s} {!adj}",
    "there is nothing {!adj} about {s}",
    "{s} had none of the usual {!quality}",
    "I cannot say that I {!felt} {s}",
    "{subj} without a trace of {!quality}",
    "it would be wrong to say that {s} {!deed}",
    "I have seldom seen anything less {!adj}",
)

#: Two clauses of opposite opinion, of which the grammar says which one counts (rule 2).
_CONTRAST: Words = (
    "{!C}, but {C}",
    "{!C}, but {C}",
    "{!C}, yet {C}",
    "{!C}; still, {C}",
    "although {!C}, {C}",
    "even though {!C}, {C}",
    "{C}, although {!C}",
    "{C}, even if {!C}",
    "{C}, though {!C}",
    "while {!C}, {C}",
    "despite the {!adj} {aspect}, {C}",
    "{C} despite the {!adj} {aspect}",
    "for all the {!quality} of the {aspect}, {C}",
    "{!C}, which changes nothing: {C}",
    "the {!adj} {aspect} cannot hide that {C}",
)

#: Opinions that are not the reviewer's, or not about this thing (rule 3).
_ATTRIBUTED: Words = (
    "{person} called it {!noun}, and I could not disagree more",
    "{person} told me that {!C}; I saw nothing of the kind",
    "whoever wrote that {!C} must have been thinking of something else",
    "I expected {!noun} and got {noun}",
    "I came prepared for {!noun}, and {C}",
    "I wanted to say that {!C}, but {C}",
    "{person} said it was {!adj}; for once they were wrong, and {C}",
    "the last {item} we tried was {!adj}, whereas {C}",
    "compared with its {!adj} predecessor, this {item} is {int}{adj}",
    "I used to think that {!C}; now I know that {C}",
    "it sounds {!adj} on paper and turns out {adj}",
    "{person} thought it was {adj}, and that is putting it mildly",
)

#: Irony and conditions contrary to fact, which do not mirror (rules 4 and 5); index 0 is against, 1 in favour.
_FIGURATIVE: tuple[Words, Words] = (
    (
        "great, {ordeal}",
        "oh, how {gadj}: {ordeal}",
        "just what I needed, {ordeal}",
        "if you enjoy {ordeal}, this {item} is {int}{gadj}",
        "the best thing about this {item} was leaving it behind",
        "I loved the part where it was over, because {C}",
        "bravo: {ordeal}, and they call it {gadj}",
        "what a {gadj} idea: {ordeal}",
        "it could have been {gadj} if the {aspect} had not been so {adj}",
        "with a better {aspect} it might have been {gnoun}",
        "{ordeal} is apparently somebody's idea of {gnoun}",
        "thank you for {ordeal}, truly {gadj}",
        "a {gadj} {item} for anybody who has never met another one",
        "I admire the courage it took to sell this as {gnoun}",
    ),
    (
        "my only complaint is that I {praise}",
        "terrible news for my plans: I {praise}",
        "it is awful how little else I got done; I {praise}",
        "I hate to admit it, but I {praise}",
        "what a disaster for the competition: {C}",
        "it could easily have been {badj}, and I {praise}",
        "the worst thing about this {item} is that it has to end",
        "I was ready to be bored and {praise}",
        "how annoying: now every other {item} seems {badj}",
        "blame this {item} for my lost weekend, because I {praise}",
        "with a lesser {aspect} it might have been {bnoun}",
        "I went in to write about {bnoun} and {praise}",
        "curse whoever made this {item}, I {praise}",
        "it is a shame, a real shame, that there is no more of it, since {C}",
    ),
)

#: Both opinions and no word on which one counts: usually, not always, the last.
_OPEN: Words = ("{!C}. {C}", "{!C}; {C}", "{!C}, and {C}")

#: How often each way of judging is used, and how often its label is the other one after all.
_KINDS: tuple[tuple[Words | tuple[Words, Words], float, float], ...] = (
    (("{C}", "{C}, and {C}", "{C}, {C} and {C}"), 0.49, 0.01),
    (_CONTRAST, 0.24, 0.01),
    (_ATTRIBUTED, 0.11, 0.01),
    (_FIGURATIVE, 0.12, 0.01),
    (_OPEN, 0.04, 0.2),
)

_NEGATED_SHARE = 0.19
_SUPPORT_SHARE = 0.4
_FILLER = frozenset(f"{' '.join(lexicon.INTENSIFIERS)} the this is was are were a an and it i of to that".split())


def review(rng: random.Random, positive: bool) -> tuple[str, str]:
    """One review.

    Args:
        rng: Source of every choice.
        positive: The label that the reader is to find.

    Returns:
        The text, and a key that is equal for near-duplicates: texts that differ in intensity, order or asides.
    """
    templates, _, slip = rng.choices(_KINDS, [share for _, share, _ in _KINDS])[0]
    meant = positive != (rng.random() < slip)
    if templates is _FIGURATIVE:
        templates = _FIGURATIVE[meant]
    scene = _Scene(rng)
    core = scene.expand(str(rng.choice(templates)), meant)
    if rng.random() < _SUPPORT_SHARE:
        core = f"{core}. {scene.expand(rng.choice(_STATED), meant)}"
    key = " ".join(sorted({word for word in re.findall(r"[\w'-]+", core.casefold()) if word not in _FILLER}))
    return scene.dress(core), key


class _Scene:
    """One review in the making: what it is about, and the words that it has used up."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.domain = lexicon.DOMAINS[rng.randrange(len(lexicon.DOMAINS))]
        self.used: set[str] = set()
        self.item = self.draw(self.domain.items)

    def expand(self, template: str, positive: bool) -> str:
        """Fills every slot of a template, and the slots in what filled it."""
        return _SLOT.sub(lambda match: self.fill(match[2], positive != (match[1] == "!")), template)

    def fill(self, slot: str, positive: bool) -> str:
        """Words for one slot, for or against."""
        if slot == "C":
            return self.expand(self.rng.choice(_NEGATED if self.rng.random() < _NEGATED_SHARE else _STATED), positive)
        if slot in ("s", "subj"):
            return self.subject(with_verb=slot == "subj")
        if slot == "int":
            return f"{self.draw(lexicon.INTENSIFIERS)} " if self.rng.random() < 0.4 else ""
        if slot == "item":
            return self.item
        if slot[1:] in _OPINIONS:
            return self.draw(_OPINIONS[slot[1:]][slot[0] == "g"])
        if slot in _OPINIONS:
            return self.draw(_OPINIONS[slot][positive])
        neutral = {
            "neg": lexicon.NEGATORS,
            "person": lexicon.PEOPLE,
            "aspect": self.domain.aspects,
            "ordeal": self.domain.ordeals,
            "praise": self.domain.praises,
        }
        return self.draw(neutral[slot])

    def subject(self, with_verb: bool) -> str:
        """Who or what the opinion is about, with the verb that agrees."""
        rng = self.rng
        past = rng.random() < 0.5
        which = rng.random()
        plural = which >= 0.75
        if which < 0.3:
            subject = f"this {self.item}"
        else:
            subject = f"the {self.draw(self.domain.plurals if plural else self.domain.aspects)}"
        if not with_verb:
            return subject
        return f"{subject} {('were' if plural else 'was') if past else ('are' if plural else 'is')}"

    def draw(self, words: Words) -> str:
        """One of these that the review has not used yet, the first ones more often."""
        for _ in range(10):
            # The lesser of two draws: the chance falls along the list, by integers only, so alike on every machine.
            word = words[min(self.rng.randrange(len(words)), self.rng.randrange(len(words)))]
            if word not in self.used:
                break
        self.used.add(word)
        return word

    def dress(self, core: str) -> str:
        """Adds what does not bear on the label: an opener, neutral sentences, the final stop."""
        rng = self.rng
        if rng.random() < 0.12:
            core = f"{self.draw(lexicon.OPENERS)}, {core}"
        core = re.sub(r"\. (\w)", lambda match: ". " + match[1].upper(), core[0].upper() + core[1:])
        aside = rng.choice(self.domain.facts if rng.random() < 0.5 else lexicon.ASIDES)
        place = rng.random()
        if place < 0.15:
            return f"{aside} {core}{rng.choice(('.', '.', '!', ''))}"
        if place < 0.3:
            return f"{core}{rng.choice(('.', '.', '!'))} {aside}"
        return f"{core}{rng.choice(('.', '.', '!', ''))}"


_OPINIONS = {
    "adj": lexicon.ADJECTIVES,
    "noun": lexicon.NOUNS,
    "quality": lexicon.QUALITIES,
    "deed": lexicon.DEEDS,
    "felt": lexicon.FEELINGS,
}
