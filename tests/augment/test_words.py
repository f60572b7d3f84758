"""Which words are replaced, and by what; what translators and causal models are asked."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import classifier_folder, context, sentences, writer_folder
from toolchain.augment import back_translation, masked_words, neighbours, text_generation
from toolchain.augment.shared import examples_file as more_data
from toolchain.augment.shared import models
from toolchain.augment.shared.words import near_words, rewritten, spelled, whole_words
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError, ModelError
from toolchain.model import checkpoint

FAMILIES = ("bert", "roberta", "albert")


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_words_are_read_as_that_one_token(family: str) -> None:
    tokenizer = checkpoint.load_tokenizer(classifier_folder(family))
    known = whole_words(tokenizer)
    assert {"film", "story", "never"} <= set(known)
    assert not any(len(word) < 3 or not word.isalpha() for word in known)
    for word, index in list(known.items())[:50]:
        assert tokenizer(f" {word}", add_special_tokens=False)["input_ids"] == [index]


def test_a_word_is_known_as_it_is_or_in_small_letters_and_keeps_its_capital() -> None:
    known = {"film": 1, "Film": 2, "story": 3}
    assert (spelled("Film", known), spelled("Story", known), spelled("plot", known)) == ("Film", "story", None)
    assert rewritten("A Warm film , isn't it ?", lambda word: word[::-1].lower()) == "A Mraw mlif , nsi't it ?"


@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_are_the_nearest_in_the_table(family: str, tmp_path: Path) -> None:
    source = classifier_folder(family)
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    known = whole_words(tokenizer)
    config = neighbours.Config(nearest=3, closeness=-0.99)
    found = near_words(
        source, {"film", "Story", "qqqq"}, context(tmp_path), nearest=config.nearest, closeness=config.closeness
    )
    assert set(found) == {"film", "Story"}
    with torch.no_grad():
        table = model.get_input_embeddings().weight[torch.tensor(list(known.values()))]
    cosines = torch.cosine_similarity(table[list(known).index("film")][None], table)
    best = cosines.argsort(descending=True)[1:4].tolist()
    assert found["film"] == [list(known)[index] for index in best]
    close = dataclasses.replace(config, closeness=float(cosines[best[1]]) - 1e-6)
    assert (
        near_words(source, {"film"}, context(tmp_path), nearest=close.nearest, closeness=close.closeness)["film"]
        == found["film"][:2]
    )


def test_the_asked_part_of_the_words_is_replaced_and_nothing_else() -> None:
    near = {word: [word.upper()] for word in ("warm", "funny", "film", "earns", "every", "laugh")}
    text = ("a warm and funny film , that earns every laugh",)
    for part, count in ((0.01, 1), (0.5, 3), (1.0, 6)):
        (made,) = neighbours._changed(text, near, part, random.Random(1))
        changed = [(a, b) for a, b in zip(text[0].split(), made.split(), strict=True) if a != b]
        assert len(changed) == count
        assert all(b == a.upper() and a in near for a, b in changed)
    assert neighbours._changed(("it is",), near, 0.5, random.Random(1)) == ("it is",)


def test_a_table_without_near_words_is_refused_with_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none of the 1 words of the training examples has a neighbour") as caught:
        near_words(classifier_folder(), {"film"}, context(tmp_path), nearest=10, closeness=0.99)
    assert "lower closeness (now 0.99)" in str(caught.value.hint)


def test_masked_words_are_drawn_from_what_the_model_finds_probable(tmp_path: Path) -> None:
    model, tokenizer = models.load(str(writer_folder("MaskedLM")), "MaskedLM", context(tmp_path))
    config = masked_words.Config(model=str(writer_folder("MaskedLM")), nearest=1, part=0.01)
    writer = masked_words._Writer(model, tokenizer, config)
    text = "the plot is thin and the jokes are old"
    (made,) = writer.written([(text,)], random.Random(3))
    (place,) = [i for i, (a, b) in enumerate(zip(text.split(), made[0].split(), strict=True)) if a != b]
    masked = text.split()
    masked[place] = tokenizer.mask_token
    batch = tokenizer(" ".join(masked), return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch).logits[0, batch["input_ids"][0] == tokenizer.mask_token_id][0]
    allowed = sorted(writer.words)
    assert made[0].split()[place] == writer.words[allowed[int(logits[allowed].argmax())]]


def test_what_the_model_does_not_read_stays_and_so_does_a_text_with_a_mask_of_its_own(tmp_path: Path) -> None:
    model, tokenizer = models.load(str(writer_folder("MaskedLM")), "MaskedLM", context(tmp_path))
    writer = masked_words._Writer(model, tokenizer, masked_words.Config(part=1.0, nearest=1))
    own = ("the [MASK] is thin",)
    assert writer.written([own], random.Random(1)) == [own]
    long = " ".join(["the"] * 80)  # the model reads 62 tokens: one sentence is cut, and the other is read
    ((first, second),) = writer.written([(long, "dull jokes")], random.Random(1))
    assert first.split()[-1] == "the"
    assert first.split()[0] != "the"
    assert set(second.split()) & {"dull", "jokes"} == set()


def test_pairs_are_masked_over_both_sentences(tmp_path: Path) -> None:
    model, tokenizer = models.load(str(writer_folder("MaskedLM")), "MaskedLM", context(tmp_path))
    writer = masked_words._Writer(model, tokenizer, masked_words.Config(part=1.0, nearest=1))
    pair = ("the plot is thin", "dull jokes")
    (made,) = writer.written([pair], random.Random(1))
    assert len(made) == 2
    assert [len(sentence.split()) for sentence in made] == [4, 2]
    assert made[0].split()[2] == "is"  # of two letters


def test_translations_go_there_and_back_with_their_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def generated(writer: Any, texts: Any, **settings: Any) -> list[str]:
        asked.extend((text, settings["do_sample"]) for text in texts)
        return [f"{text} {len(asked)}" if "unread" not in text else "" for text in texts]

    monkeypatch.setattr(models, "generated", generated)
    folder = str(writer_folder("Seq2SeqLM"))
    config = back_translation.Config(
        forward=folder, backward=folder, forward_prompt="to German: ", backward_prompt="to English: ", teacher=None
    )
    data = Dataset(Split([("one", "two")], [1]), *(Split([("x", "y")], [0]),) * 2, ("negative", "positive"))
    (tmp_path / "out").mkdir()
    told = back_translation.apply(classifier_folder(), tmp_path / "out", config, context(tmp_path, data))
    assert asked[:2] == [("to German: one", True), ("to German: two", True)]
    assert asked[2][0].startswith("to English: to German: one")
    assert not asked[2][1]
    (row,) = [json.loads(line) for line in (tmp_path / "out" / more_data.FILE).read_text().splitlines()]
    assert (row["label"], row["of"], len(row["text"])) == ("positive", 0, 2)
    assert (told["made"], told["kept"], told["relabelled"]) == (1, 1, 0)
    unread = dataclasses.replace(data, train=Split([("one", "two"), ("one", "unread")], [1, 0]))
    told = back_translation.apply(classifier_folder(), tmp_path / "out", config, context(tmp_path / "b", unread))
    assert (told["made"], told["kept"], told["empty"]) == (2, 1, 1)  # whatever is written in answer to nothing


def test_a_prompt_shows_examples_of_one_label_and_the_line_after_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []

    def generated(writer: Any, texts: Any, **settings: Any) -> list[str]:
        prompts.extend(texts)
        return [f"a new text {number}\nA positive text: not this" for number in range(len(texts))]

    monkeypatch.setattr(models, "generated", generated)
    config = text_generation.Config(model=str(writer_folder("CausalLM")), per_label=3, shots=2, teacher=None)
    (tmp_path / "out").mkdir()
    given = sentences(copies=1)
    text_generation.apply(classifier_folder(), tmp_path / "out", config, context(tmp_path, given))
    assert len(prompts) == 6
    for number, prompt in enumerate(prompts):
        label = given.labels[number % 2]
        lines = prompt.split("\n")
        assert lines[-1] == f"A {label} text:"
        own = {
            text[0] for text, found in zip(given.train.texts, given.train.labels, strict=True) if found == number % 2
        }
        assert {line.removeprefix(f"A {label} text: ") for line in lines[:-1]} <= own
    rows = [json.loads(line) for line in (tmp_path / "out" / more_data.FILE).read_text().splitlines()]
    assert [row["text"] for row in rows] == [[f"a new text {number}"] for number in range(6)]
    assert [row["label"] for row in rows] == ["negative", "positive"] * 3


def test_what_a_model_writes_is_cut_from_what_it_read(tmp_path: Path) -> None:
    model, tokenizer = models.load(str(writer_folder("CausalLM")), "CausalLM", context(tmp_path))
    texts = ["a warm and funny film that earns", "dull"]
    found = models.generated((model, tokenizer), texts, batch_size=2, max_new_tokens=5, **models.sampling(0))
    alone = [
        models.generated((model, tokenizer), [text], batch_size=1, max_new_tokens=5, **models.sampling(0))[0]
        for text in texts
    ]
    assert found == alone  # padding in front changes nothing
    assert not found[0].startswith("a warm")
    with pytest.raises(ModelError, match="the model reads 128"):
        models.generated((model, tokenizer), texts, batch_size=2, max_new_tokens=125, **models.sampling(0))


@pytest.mark.parametrize(
    ("spec", "head", "said"),
    [
        ("CLASSIFIER", "MaskedLM", "is no masked language model: it is a BertForSequenceClassification"),
        ("CLASSIFIER", "Seq2SeqLM", "is no sequence-to-sequence model"),
        ("MASKED", "CausalLM", "is no causal language model: it is a BertForMaskedLM"),
        ("scratch:bert-1x32", "CausalLM", "a model from scratch makes no text"),
        ("no/such/folder", "CausalLM", "no such folder, and not a hub id"),
    ],
)
def test_a_model_that_makes_no_such_text_is_refused(spec: str, head: Any, said: str, tmp_path: Path) -> None:
    folders = {"CLASSIFIER": str(classifier_folder()), "MASKED": str(writer_folder("MaskedLM"))}
    with pytest.raises(ModelError, match=said):
        models.load(folders.get(spec, spec), head, context(tmp_path))


def test_prompts_of_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="writes single texts"):
        text_generation.apply(
            classifier_folder(), tmp_path, text_generation.Config(), context(tmp_path, sentences(pair=True))
        )


def test_a_text_that_a_translator_does_not_read_to_its_end_is_answered_with_nothing() -> None:
    folder = writer_folder("Seq2SeqLM")
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["a warm film", "dull " * 40]
    both = models.generated((model, tokenizer), texts, batch_size=2, max_new_tokens=8, **models.sampling(0))
    assert all(both)
    model.config.max_position_embeddings = 16
    found = models.generated((model, tokenizer), texts, batch_size=2, max_new_tokens=8, **models.sampling(0))
    assert bool(found[0])
    assert found[1] == ""


def test_marian_translates_with_its_own_tokenizers(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    import transformers

    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(text for (text,) in sentences().train.texts), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(tmp_path / "m"), vocab_size=60, minloglevel=2, hard_vocab_limit=False
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())} | {"<pad>": len(pieces)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    tokenizer = transformers.MarianTokenizer(
        source_spm=str(tmp_path / "m.model"), target_spm=str(tmp_path / "m.model"), vocab=str(tmp_path / "vocab.json"),
        source_lang="en", target_lang="de",
    )  # fmt: skip
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        pad_token_id=len(pieces), eos_token_id=vocabulary["</s>"], decoder_start_token_id=len(pieces),
    )  # fmt: skip
    torch.manual_seed(17)
    folder = tmp_path / "marian"
    transformers.MarianMTModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, loaded = models.load(str(folder), "Seq2SeqLM", context(tmp_path))
    assert loaded("a warm film")["input_ids"][-1] == vocabulary["</s>"]
    (found,) = models.generated(
        (model, loaded), ["a warm film"], batch_size=1, max_new_tokens=6, **models.sampling(1.0)
    )
    assert isinstance(found, str)
    digests = models.identity(back_translation.Config(forward=str(folder), backward=str(folder)), [str(folder)])
    assert "source.spm" in digests["models"][0]["files"]
