from __future__ import annotations

import itertools
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import SENTENCES, classifier_folder
from tests.command import ROOT
from toolchain.core.data import Split
from toolchain.core.errors import ModelError
from toolchain.model import checkpoint, tokens
from toolchain.model.encoded import collate, encode

WORDS = " ".join(SENTENCES).split()


def tokenizer_of(architecture: str, side: str, folder: Path) -> Any:
    """The tokenizer of a family as transformers loads it, cutting and padding on one side."""
    source = classifier_folder(architecture)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    config = checkpoint.read_json(source / "tokenizer_config.json")
    sides = {"truncation_side": side, "padding_side": side}
    checkpoint.write_json(folder / "tokenizer_config.json", config | sides)
    tokenizer = checkpoint.load_tokenizer(folder)
    assert (tokenizer.truncation_side, tokenizer.padding_side) == (side, side)
    return tokenizer


@pytest.mark.parametrize("side", tokens.SIDES)
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_texts_and_pairs_are_cut_as_transformers_cuts_them(architecture: str, side: str, tmp_path: Path) -> None:
    tokenizer, draw = tokenizer_of(architecture, side, tmp_path), random.Random(17)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(0, 12)))

    singles: list[tuple[str, ...]] = [("",), *((text(),) for _ in range(40))]
    pairs: list[tuple[str, ...]] = [("", ""), ("dull", ""), ("", "dull"), *((text(), text()) for _ in range(200))]
    cut = 0
    for examples, longest in itertools.product((singles, pairs), (5, 6, 7, 8, 9, 16)):
        rows = tokens.tokenize(tokenizer.backend_tokenizer, examples, longest, tokenizer.truncation_side)
        columns = [list(column) for column in zip(*examples, strict=True)]
        whole = tokenizer(*columns)["input_ids"]
        expected = tokenizer(*columns, truncation=True, max_length=longest, return_token_type_ids=True)
        assert [row.ids for row in rows] == expected["input_ids"]
        assert [row.type_ids for row in rows] == expected["token_type_ids"]
        assert [row.cut for row in rows] == [len(ids) > longest for ids in whole]
        cut += sum(row.cut for row in rows)
    assert cut > 500


@pytest.mark.parametrize("side", tokens.SIDES)
def test_batches_for_graphs_and_for_training_are_padded_as_transformers_pads_them(side: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bert", side, tmp_path)
    texts = [(SENTENCES[0],), (SENTENCES[5],)]
    expected = tokenizer([text for (text,) in texts], padding=True, return_tensors="np")
    checkpoint.save_tokenizer(tokenizer, tmp_path, max_length=32, labels=["no", "yes"], pair=False)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = tokens.padded(tmp_path, tokens.encode(tmp_path, texts), names)
    trained = collate(encode(tokenizer, Split(texts, [0, 1]), 32, names), [0, 1], "cpu")
    for name in names:
        np.testing.assert_array_equal(batch[name], expected[name])
        np.testing.assert_array_equal(trained[name].numpy(), expected[name])


def test_the_interface_holds_a_side_only_where_it_is_the_left(tmp_path: Path) -> None:
    for side, held in (("right", {}), ("left", {"truncation_side": "left", "padding_side": "left"})):
        tokenizer = tokenizer_of("bert", side, tmp_path)
        checkpoint.save_tokenizer(tokenizer, tmp_path, max_length=32, labels=["no", "yes"], pair=False)
        written = checkpoint.read_json(tmp_path / "interface.json")
        assert {name: value for name, value in written.items() if name.endswith("_side")} == held


def test_long_pairs_take_no_more_memory_than_their_tokens() -> None:
    # The library's own cutting keeps every combination of the pieces: 22 GB for these.
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from toolchain.model import tokens\n"
        "tokenizer = tokens.load_tokenizer(Path(sys.argv[1]), 5)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pair = ('the plot is thin ' * 640, 'and the jokes are old ' * 800)\n"
        "rows = tokens.tokenize(tokenizer, [pair] * 40, 5)\n"
        "assert [len(row) for row in rows] == [5] * 40\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    path = classifier_folder() / "tokenizer.json"
    limit = 4 << 30  # ends a process that would take the machine's memory
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400


def test_a_length_without_room_for_text_is_refused() -> None:
    with pytest.raises(ModelError, match="adds 2 special tokens to a text, and max_length is 2"):
        tokens.load_tokenizer(classifier_folder() / "tokenizer.json", 2)


def test_the_note_counts_the_texts_that_are_cut() -> None:
    assert tokens.truncation_note({"dev": (0, 872), "test": (0, 10)}, 128) == ""
    note = tokens.truncation_note({"train": (0, 9), "dev": (37, 872), "test": (1, 1821)}, 128)
    assert note == "37 of 872 dev texts and 1 of 1,821 test texts are longer than 128 tokens and are cut"


def test_white_space_separates_the_words_of_tokenizers_that_do_not_mark_what_goes_on(tmp_path: Path) -> None:
    from toolchain.model import scratch

    texts = [("Ada went to Oslo .",), ("it rains (again) in Oslo",)]
    scratch.create("scratch:roberta-1x32", texts, 17, tmp_path)
    tokenizer = tokens.load_tokenizer(tmp_path / "tokenizer.json", 64)
    (row,) = tokens.tokenize(tokenizer, [("Oslo  (again), Ada.",)], 64, words=True)
    text = "Oslo  (again), Ada."
    assert [text[begin:end] for _, begin, end in row.words if end > begin] == ["Oslo", "(again),", "Ada."]
    (cut,) = tokens.tokenize(tokenizer, [("Oslo  (again), Ada.",)], 4, words=True)
    assert cut.cut
    assert next(text[begin:end] for _, begin, end in cut.words if end > begin) == "Oslo"
    assert tokens.tokenize(tokenizer, [(text,)], 64)[0].words == ()
