from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.core.errors import DataError
from toolchain.tasks import sst2

#: Sentences that share no word, each with parts of two and of one word.
SENTENCES = [(f"a{n} b{n} c{n} d{n}", f"a{n} b{n}", f"d{n}") for n in range(20)]


def config(folder: Path, examples: int, more: str = "") -> sst2.Config:
    rows = [f"{text}\t{number % 2}" for number, texts in enumerate(SENTENCES) for text in texts]
    (folder / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n" + more)
    (folder / "dev.tsv").write_text("sentence\tlabel\nsome other words\t1\n")
    return sst2.Config(folder=str(folder), split="certification", certification_examples=examples)


def test_whole_sentences_are_held_out_with_all_of_their_parts(tmp_path: Path) -> None:
    data = sst2.load(config(tmp_path, 12))
    held = {text.split()[0][1:] for (text,) in data.test.texts}
    assert (len(data.test), len(data.train), len(held)) == (12, 48, 4)
    assert not any(word[1:] in held for (text,) in data.train.texts for word in text.split())
    # Three examples of each sentence hang together.
    groups = {text.split()[0][1:]: group for (text,), group in zip(data.test.texts, data.test.groups, strict=True)}
    assert sorted(data.test.groups) == sorted(list(groups.values()) * 3)
    assert data.notes == (
        "certification: 4 of 20 sentences held out with every phrase that is part of one: 12 examples to judge on, "
        "12 training rows left out, 48 kept",
    )


def test_a_phrase_of_two_sentences_is_kept_from_training_when_one_is_held_out(tmp_path: Path) -> None:
    # Every sentence ends in the same phrase, which is therefore in a held-out one, however few these are.
    more = "".join(f"x{n} y{n} such a film\t1\n" for n in range(10)) + "Such a FILM !\t1\na film\t0\n"
    data = sst2.load(config(tmp_path, 30, more))
    held = {text for (text,) in data.test.texts}
    assert any(text.endswith("such a film") for text in held)
    assert "Such a FILM !" in held
    assert "Such a FILM !" not in {text for (text,) in data.train.texts}
    assert ("a film",) in data.train.texts or "a film" in held


def test_texts_with_both_labels_are_neither_judged_on_nor_learned_from(tmp_path: Path) -> None:
    more = "".join(f"a{n} b{n}\t{1 - n % 2}\n" for n in range(20))
    data = sst2.load(config(tmp_path, 12, more))
    held = {group for group in data.test.groups}
    assert (len(data.test), len(held)) == (12, 6)
    assert all(len(text.split()) != 2 for (text,) in data.test.texts)


def test_the_split_is_the_same_every_time_and_part_of_the_datas_identity(tmp_path: Path) -> None:
    chosen = config(tmp_path, 12)
    assert list(sst2.load(chosen).test.texts) == list(sst2.load(chosen).test.texts)
    given = sst2.Config(folder=str(tmp_path))
    assert sst2.identity(chosen) == {**sst2.identity(given), "certification": {"version": 1, "examples": 12}}
    assert "dev serves as test" in sst2.load(given).notes[0]


def test_data_that_give_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="60 training texts of 20 sentences do not give 6,000") as caught:
        sst2.load(config(tmp_path, 6000))
    assert "source: phrases" in str(caught.value)
    with pytest.raises(DataError, match="as many to learn from"):
        sst2.load(config(tmp_path, 40))
