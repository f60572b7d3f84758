"""What every augmentation that is found must do: new texts with labels, none known or judged on, each time the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import classifier_folder, context, sentences, writer_folder
from toolchain.augment.shared import examples_file as more_data
from toolchain.core import registry
from toolchain.core.data import Dataset, Split
from toolchain.core.stage import Context
from toolchain.tasks.shared.overlap import normalized

NAMES = registry.names("augment")

#: What an augmentation needs that has no default which can be had without a network.
NEEDS: dict[str, Any] = {
    "masked_words": lambda _: {"model": str(writer_folder("MaskedLM"))},
    "back_translation": lambda _: {
        "forward": str(writer_folder("Seq2SeqLM")), "backward": str(writer_folder("Seq2SeqLM")), "max_new_tokens": 8,
    },
    "text_generation": lambda _: {"model": str(writer_folder("CausalLM")), "per_label": 8, "max_new_tokens": 8},
    "unlabelled_text": lambda folder: {"path": str(_texts(folder))},
    "neighbours": lambda _: {"closeness": -0.9},
}  # fmt: skip


def _texts(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text("a warm story\nthe jokes are thin\n\nnever dull\na warm story\ndull\n", "utf-8")
    return path


def data() -> Dataset:
    """Training examples that dev and test do not repeat."""
    found = sentences(copies=1)
    judged = Split([("the shortest film of the year",)], [0])
    return Dataset(found.train, judged, judged, found.labels)


def made(name: str, folder: Path, seed: int = 17, **settings: Any) -> Path:
    """What an augmentation writes of those examples, labelled by a classifier."""
    folder.mkdir()
    (folder / "out").mkdir()
    technique = registry.get("augment", name)
    needs = NEEDS[name](folder) if name in NEEDS else {}
    labeller = classifier_folder()
    within = dataclasses.replace(context(folder / "work", data()), seed=seed, labeller=labeller)
    (folder / "metrics.json").write_text(
        json.dumps(technique.module.apply(labeller, folder / "out", technique.config(**(needs | settings)), within))
    )
    return folder / "out"


def check(folder: Path, given: Dataset) -> None:
    """Holds that examples are new, of the task's kind, of a known label, each once, and that dev and test have none."""
    more = more_data.read(folder, given.labels)
    assert len(more) > 0
    assert {len(text) for text in more.texts} == {len(given.train.texts[0])}
    keys = [normalized(text) for text in more.texts]
    assert all(all(key) for key in keys)
    assert len(set(keys)) == len(keys)
    for split in (given.train, given.dev, given.test):
        assert not {normalized(text) for text in split.texts} & set(keys)


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / more_data.FILE).read_text("utf-8").splitlines():
        yield json.loads(line)


@pytest.mark.parametrize("name", NAMES)
def test_it_makes_new_examples_the_same_each_time_and_others_for_another_seed(name: str, tmp_path: Path) -> None:
    first = made(name, tmp_path / "first")
    check(first, data())
    again = made(name, tmp_path / "again")
    assert (again / more_data.FILE).read_bytes() == (first / more_data.FILE).read_bytes()
    if name != "unlabelled_text":  # whose texts are given
        other = made(name, tmp_path / "other", seed=18)
        assert (other / more_data.FILE).read_bytes() != (first / more_data.FILE).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_it_tells_adds_up_and_every_example_says_what_it_was_made_of(name: str, tmp_path: Path) -> None:
    folder = made(name, tmp_path / "made")
    told = json.loads((tmp_path / "made/metrics.json").read_text())
    left_out = sum(told[reason] for reason in ("empty", "duplicates", "leaks", "disagreeing", "unsure"))
    found = list(rows(folder))
    assert told["kept"] == len(found)
    assert told["made"] == len(found) + left_out
    assert told["examples"]
    for row in found:
        assert row["of"] is None or 0 <= row["of"] < len(data().train)


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_loses_no_piece_that_was_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolchain.augment.shared import examples

    if name == "unlabelled_text":
        pytest.skip("it makes no texts")
    monkeypatch.setattr(examples, "PIECE", 3)
    whole = made(name, tmp_path / "whole")
    pieces = tmp_path / "whole/work/made.jsonl"
    lines = pieces.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) >= 3
    pieces.write_text("".join(lines[:1]) + lines[1][: len(lines[1]) // 2], "utf-8")  # killed while it wrote
    technique = registry.get("augment", name)
    make, calls = examples.in_pieces, []

    def counted(count: int, within: Context, label: str, work: Any) -> Any:
        def one(piece: range, rng: Any) -> Any:
            calls.append(piece)
            return work(piece, rng)

        return make(count, within, label, one)

    monkeypatch.setattr(examples, "in_pieces", counted)
    (tmp_path / "out").mkdir()
    within = dataclasses.replace(context(tmp_path / "whole/work", data()), labeller=classifier_folder())
    config = technique.config(**(NEEDS[name](tmp_path) if name in NEEDS else {}))
    technique.module.apply(classifier_folder(), tmp_path / "out", config, within)
    assert len(calls) == len(lines) - 1
    assert (tmp_path / "out" / more_data.FILE).read_bytes() == (whole / more_data.FILE).read_bytes()


@pytest.mark.parametrize(
    "example",
    [
        more_data.Example(data().train.texts[0], 0, 0),
        more_data.Example((data().train.texts[0][0].upper() + " !",), 0, 0),
        more_data.Example(data().test.texts[0], 0, 0),
        more_data.Example(("",), 0, 0),
        more_data.Example(("two", "texts"), 0, 0),
    ],
    ids=["a training text", "but for its case", "a test text", "nothing", "a pair"],
)
def test_the_contract_sees_what_is_no_new_example(example: more_data.Example, tmp_path: Path) -> None:
    good = more_data.Example(("a new text",), 1, 0)
    more_data.write(tmp_path, [good], data().labels)
    check(tmp_path, data())
    more_data.write(tmp_path, [good, example], data().labels)
    with pytest.raises(AssertionError):
        check(tmp_path, data())
