from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from toolchain.core.data import Split
from toolchain.tasks import reviews
from toolchain.tasks.reviews import lexicon
from toolchain.tasks.shared.overlap import without_overlaps

DEFAULT = reviews.load(reviews.Config())


def digest(split: Split, count: int) -> str:
    lines = [f"{label}\t{text}" for (text,), label in zip(split.texts[:count], split.labels[:count], strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_text_is_the_same_on_every_machine() -> None:
    # Printed by this code under CPython 3.11, 3.12 and 3.13; another value changes results: raise VERSION.
    assert digest(DEFAULT.test, 200) == "3db8a6ae3c9d2aa2"
    assert digest(DEFAULT.train, 200) == "1d830127a506b4c2"
    assert reviews.load(reviews.Config()) == DEFAULT


def test_seed_changes_everything_and_train_size_leaves_test_alone() -> None:
    assert not set(reviews.load(reviews.Config(seed=18)).test.texts) & set(DEFAULT.test.texts[:100])
    small = reviews.load(reviews.Config(train_size=64))
    assert (small.test, small.dev) == (DEFAULT.test, DEFAULT.dev)
    assert len(small.train) == 64


def test_sizes_and_balance() -> None:
    sizes = {"train": 3000, "dev": 500, "test": 1000}
    for name, size in sizes.items():
        split = DEFAULT.split(name)
        assert len(split) == len(split.texts) == size
        assert Counter(split.labels) == {0: size // 2, 1: size // 2}


def test_no_text_stands_in_two_splits_or_twice_in_one() -> None:
    texts = [*DEFAULT.train.texts, *DEFAULT.dev.texts, *DEFAULT.test.texts]
    assert len(set(texts)) == len(texts) == 4500
    assert without_overlaps(DEFAULT.train, DEFAULT.dev, DEFAULT.test, drop=True) == (DEFAULT.train, ())


def test_lengths_are_those_of_short_reviews() -> None:
    lengths = sorted(len(text.split()) for (text,) in DEFAULT.train.texts)
    assert 3 <= lengths[0] <= 5
    assert 15 <= sum(lengths) / len(lengths) <= 20
    assert 35 <= lengths[-1] <= 60


def test_every_slot_is_filled_and_every_sentence_is_closed_once() -> None:
    for (text,) in [*DEFAULT.train.texts, *DEFAULT.dev.texts, *DEFAULT.test.texts]:
        assert not set("{}") & set(text)
        assert ".." not in text
        assert "!." not in text
        assert "  " not in text
        assert text == text.strip()
        assert text[0].isupper()


def test_negation_contrast_attribution_and_irony_all_occur() -> None:
    text = " ".join(text for (text,) in DEFAULT.train.texts).casefold()
    phrases = ("anything but", "hardly", ", but ", "although", "despite", "could not disagree more", "great, ")
    for phrase in (*phrases, "my only complaint"):
        assert text.count(phrase) >= 5, phrase


def test_bag_of_words_stays_far_below_a_transformer() -> None:
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer()
    features = words.fit_transform([text for (text,) in DEFAULT.train.texts])
    held = words.transform([text for (text,) in DEFAULT.test.texts])
    models = [LogisticRegression(max_iter=1000, C=c).fit(features, DEFAULT.train.labels) for c in (0.03, 0.1, 0.3, 1)]
    scores = [model.score(held, DEFAULT.test.labels) for model in models]
    # Measured: 73.5 to 76.4 %. Even the best of four, chosen on test, is far below a fine-tuned MiniLM's 92.8 %.
    assert 0.68 < max(scores) < 0.82


def test_largest_sizes_can_be_generated() -> None:
    data = reviews.load(reviews.Config(train_size=20_000, dev_size=5000, test_size=5000))
    assert (len(data.train), len(data.dev), len(data.test)) == (20_000, 5000, 5000)


def test_no_two_reviews_differ_only_in_intensity_order_or_asides() -> None:
    beside = [*lexicon.ASIDES, *(fact for domain in lexicon.DOMAINS for fact in domain.facts)]
    weak = {word for phrase in lexicon.INTENSIFIERS for word in phrase.split()} | {"the", "this", "is", "was", "are"}
    cores = set()
    for (text,) in [*DEFAULT.train.texts, *DEFAULT.dev.texts, *DEFAULT.test.texts]:
        for part in beside:
            text = text.replace(part, "")
        for opener in lexicon.OPENERS:
            text = text.removeprefix(f" {opener}, ").removeprefix(f"{opener}, ")
        cores.add(frozenset(set(re.findall(r"[\w'-]+", text.casefold())) - weak))
    assert len(cores) == 4500


@pytest.mark.parametrize("settings", [{"train_size": 1}, {"test_size": 5001}, {"seed": -1}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(reviews.Config).validate_python(settings)
