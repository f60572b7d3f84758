from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from toolchain.compress.vocabulary_prune import tokenizer_file


def word_pieces(*pieces: str) -> Any:
    vocabulary = {piece: index for index, piece in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def test_what_cannot_be_spelled_by_characters_stays_whole() -> None:
    # "b" has no piece of its own at the start of a word, nor has "c" inside one; no text becomes [unused1].
    record = tokenizer_file.read(word_pieces("[unused1]", "a", "##a", "##b", "c", "ab", "ba", "##ac", "##ab"), "")
    stay = tokenizer_file.always(record)
    assert stay == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##a", "##b", "c", "ba", "##ac"}
    kept = tokenizer_file.keep(record, stay)
    assert kept["post_processor"] == {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    tokenizer = Tokenizer.from_str(json.dumps(kept))
    assert tokenizer.encode("ab aab baac", add_special_tokens=False).tokens == [
        "a", "##b", "a", "##a", "##b", "ba", "##ac",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("processor", "ids"),
    [
        (processors.BertProcessing(("[SEP]", 5), ("[CLS]", 4)), [2, 3]),
        (processors.RobertaProcessing(("[SEP]", 5), ("[CLS]", 4), False, False), [2, 3]),
        (processors.TemplateProcessing("[CLS] $A [SEP] [SEP]", None, [("[CLS]", 4), ("[SEP]", 5)]), [2, 3, 3]),
        (
            processors.Sequence(
                [processors.ByteLevel(), processors.TemplateProcessing("[CLS] $A", None, [("[CLS]", 4)])]
            ),
            [2],
        ),
    ],
)
def test_ids_around_a_text_are_renumbered_in_every_post_processor(processor: Any, ids: list[int]) -> None:
    vocabulary = {token: index for index, token in enumerate(("[UNK]", "xyz", "xx", "a", "[CLS]", "[SEP]"))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary | {"##a": 6}, unk_token="[UNK]"))
    tokenizer.post_processor = processor
    record = tokenizer_file.read(tokenizer, "")
    assert {"[UNK]", "a", "##a", "[CLS]"} <= tokenizer_file.always(record)
    kept = tokenizer_file.keep(record, {"[UNK]", "a", "##a", "[CLS]", "[SEP]"})
    encoding = Tokenizer.from_str(json.dumps(kept)).encode("")
    assert encoding.ids == ids
    assert encoding.tokens == tokenizer.encode("").tokens


def test_a_merged_token_keeps_what_it_is_merged_from_and_only_those_merges() -> None:
    letters = ["a", "b", "c", "d"]
    merges = [("a", "b"), ("c", "d"), ("ab", "c"), ("ab", "cd"), ("b", "cd"), ("a", "bcd")]
    vocabulary = {piece: index for index, piece in enumerate([*letters, "ab", "cd", "abc", "abcd", "bcd"])}
    record = tokenizer_file.read(Tokenizer(models.BPE(vocabulary, merges)), "")
    assert tokenizer_file.count(record, ["abcd", "abcd"]) == {"abcd": 2}
    found = tokenizer_file.origins(record)("abcd")
    assert found == {*letters, "ab", "cd", "abcd"}  # neither "abc" nor "bcd" is on its way
    kept = tokenizer_file.keep(record, found | tokenizer_file.always(record))
    assert kept["model"]["merges"] == [["a", "b"], ["c", "d"], ["ab", "cd"]]
    assert kept["model"]["vocab"] == {"a": 0, "b": 1, "c": 2, "d": 3, "ab": 4, "cd": 5, "abcd": 6}
    assert Tokenizer.from_str(json.dumps(kept)).encode("abcdabc").tokens == ["abcd", "ab", "c"]


def test_the_lowest_score_stays_since_unknown_characters_are_measured_from_it() -> None:
    """The penalty of an unknown character is 10 below the lowest score: without "low" it would beat two pieces."""
    scored = [("<unk>", 0.0), ("x", -9.0), ("xa", -5.0), ("ab", -9.0), ("low", -40.0), ("dear", -30.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    assert tokenizer.encode("xab").tokens == ["x", "ab"]  # -18 beats "xa" and an unknown, -5 - 50
    record = tokenizer_file.read(tokenizer, "")
    # "a", "b" and the letters of the other two have no piece of their own, so "xa", "ab", "low", "dear" stay by rule 2.
    assert tokenizer_file.always(record) == {piece for piece, _ in scored}
    spelled = [*scored, *((letter, -20.0) for letter in "abdelorw")]
    record = tokenizer_file.read(Tokenizer(models.Unigram(spelled, unk_id=0)), "")
    assert tokenizer_file.always(record) == {"<unk>", "x", *"abdelorw", "low"}
    kept = tokenizer_file.keep(record, tokenizer_file.always(record))
    assert kept["model"]["unk_id"] == 0
    assert kept["model"]["vocab"][:3] == [["<unk>", 0.0], ["x", -9.0], ["low", -40.0]]
