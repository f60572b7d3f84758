from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models

from tests.builders import LABELS, SENTENCES, checkpoint_folder, context
from tests.model.test_export import made
from tests.shared import root
from toolchain.compress import magnitude_prune, vocabulary_prune
from toolchain.compress.vocabulary_prune import tokenizer_file
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError, ModelError
from toolchain.model import checkpoint
from toolchain.model.factorized import FactorizedEmbedding
from toolchain.model.train import TrainConfig
from toolchain.optimize.with_tokenizer.comparison import PLAIN

FAMILIES = ("bert", "roberta", "albert")

#: The tokenizers are made of all eight sentences, and the task's training texts are the first three.
SEEN = [(text,) for text in SENTENCES[:3]]
DEV = [(text,) for text in SENTENCES]
DATA = Dataset(
    Split(SEEN * 4, [0, 1, 0] * 4), Split(DEV, [0, 1] * 4), Split([("never opened",)], [0]), LABELS
)  # fmt: skip


def encoded(folder: Path, texts: Sequence[tuple[str, ...]]) -> tuple[list[list[str]], Any]:
    """Tokens as strings, and logits, each text by itself."""
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    names = checkpoint.model_inputs(model, tokenizer)
    tokens, logits = [], []
    for text in texts:
        batch = tokenizer(*text, return_tensors="pt")
        tokens.append(tokenizer.convert_ids_to_tokens(batch["input_ids"][0]))
        with torch.inference_mode():
            logits.append(model(**{name: batch[name] for name in names}).logits)
    return tokens, torch.cat(logits)


@functools.cache
def source_of(architecture: str) -> Path:
    """A checkpoint that is never written to."""
    folder = Path(tempfile.mkdtemp(dir=root()))
    return spread(made(folder, architecture))


def spread(folder: Path) -> Path:
    """Makes every weight large, so that another row or another position gives other logits."""
    model = checkpoint.load_model(folder)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def pruned(source: Path, folder: Path, data: Dataset = DATA, **settings: Any) -> tuple[Path, dict[str, Any]]:
    out = folder / "out"
    out.mkdir(parents=True)
    return out, vocabulary_prune.apply(source, out, vocabulary_prune.Config(**settings), context(folder, data))


@pytest.mark.parametrize("architecture", [*FAMILIES, "distilbert", "electra", "deberta-v2"])
def test_training_texts_have_the_same_tokens_and_logits_as_before(architecture: str, tmp_path: Path) -> None:
    source = source_of(architecture)
    out, metrics = pruned(source, tmp_path)
    (tokens, logits), (tokens_before, logits_before) = encoded(out, SEEN), encoded(source, SEEN)
    assert tokens == tokens_before
    torch.testing.assert_close(logits, logits_before, atol=1e-6, rtol=0)
    assert (logits_before[0] - logits_before[1]).abs().max() > 1e-3  # the logits depend on the text
    assert metrics["tokens"] < metrics["tokens_before"]
    rows = checkpoint.load_model(out).get_input_embeddings().weight.shape[0]
    config = checkpoint.read_json(out / "config.json")
    assert rows == config["vocab_size"] == len(checkpoint.load_tokenizer(out)) == metrics["tokens"]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "interface.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", FAMILIES)
def test_ids_keep_their_order_and_rows_follow_their_tokens(architecture: str, tmp_path: Path) -> None:
    source = source_of(architecture)
    out, metrics = pruned(source, tmp_path)
    old, new = (tokenizer_file.token_ids(json.loads((f / "tokenizer.json").read_text())) for f in (source, out))
    order = sorted(new, key=lambda token: new[token])
    assert [new[token] for token in order] == list(range(metrics["tokens"]))
    assert [old[token] for token in order] == sorted(old[token] for token in order)
    name = f"{architecture}.embeddings.word_embeddings.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (source, out))
    assert (after == before[[old[token] for token in order]]).all()
    assert metrics["bytes_saved"] == before.nbytes - after.nbytes > 0
    assert metrics["parameters_before"] - metrics["parameters"] == before.size - after.size
    tokenizer, config = checkpoint.load_tokenizer(out), checkpoint.read_json(out / "config.json")
    assert config["pad_token_id"] == tokenizer.pad_token_id == checkpoint.read_json(out / "interface.json")["pad_id"]
    assert checkpoint.load_model(out).get_input_embeddings().padding_idx == tokenizer.pad_token_id


@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_unseen_word_falls_apart_into_pieces_and_never_becomes_unknown(architecture: str, tmp_path: Path) -> None:
    source = source_of(architecture)
    out, metrics = pruned(source, tmp_path)
    before, after = (checkpoint.load_tokenizer(folder) for folder in (source, out))
    assert len(before.tokenize("honest")) == 1
    pieces = after.tokenize("honest")
    assert len(pieces) > 1
    assert "".join(pieces).replace("##", "").strip("▁Ġ") == "honest"
    # The five texts that are not among the training texts: "dull" and all others hold a word of their own.
    unseen = metrics["unseen"]
    assert (unseen["changed"]["examples"], unseen["unchanged"]["examples"], unseen["all"]["examples"]) == (5, 3, 8)
    assert unseen["unknown_before"] == unseen["unknown_after"] == 0
    assert unseen["unchanged"]["accuracy_before"] == unseen["unchanged"]["accuracy_after"]
    for when in ("before", "after"):
        correct = sum(round(unseen[g][f"accuracy_{when}"] * unseen[g]["examples"]) for g in ("changed", "unchanged"))
        assert unseen["all"][f"accuracy_{when}"] == correct / 8
    _, logits = encoded(out, DEV)
    assert unseen["all"]["accuracy_after"] == (logits.argmax(-1) == torch.tensor([0, 1] * 4)).double().mean()
    strange = "Жq\u0301ß 中 %"
    assert after.tokenize(strange).count(after.unk_token) == before.tokenize(strange).count(before.unk_token)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_asked_number_stays_and_the_most_used_first(architecture: str, tmp_path: Path) -> None:
    source = source_of(architecture)
    with pytest.raises(ModelError, match=r"tokens: 1 of .* cannot stay") as caught:
        pruned(source, tmp_path / "low", tokens=1)
    least = int(caught.value.message.split("allowed are ")[1].split(" to ")[0])
    total = len(checkpoint.load_tokenizer(source))
    assert caught.value.message.endswith(f"to {total:,}")
    with pytest.raises(ModelError, match=f"allowed are {least:,} to {total:,}"):
        pruned(source, tmp_path / "high", tokens=total + 1)
    smallest, metrics = pruned(source, tmp_path / "least", tokens=least)
    assert metrics["tokens"] == least
    more, metrics = pruned(source, tmp_path / "more", tokens=least + 10)
    assert metrics["tokens"] == least + 10
    added = checkpoint.load_tokenizer(more).get_vocab().keys() - checkpoint.load_tokenizer(smallest).get_vocab().keys()
    # "film", "and", "the", "is" and the like: the first ten of what the training texts hold beside their letters.
    counts = tokenizer_file.count(
        tokenizer_file.read(checkpoint.load_tokenizer(source).backend_tokenizer, ""), [text for (text,) in SEEN]
    )
    assert {token.strip("▁Ġ") for token in added} >= {"and"}  # in two of them, as nothing else but letters is
    assert all(counts[token] or architecture == "roberta" for token in added)
    whole, metrics = pruned(source, tmp_path / "all", tokens=total)
    assert metrics["bytes_saved"] == 0
    assert metrics["unseen"]["changed"] == {"examples": 0, "accuracy_before": None, "accuracy_after": None}
    assert checkpoint.load_tokenizer(whole).get_vocab() == checkpoint.load_tokenizer(source).get_vocab()


def test_min_count_drops_what_is_used_less(tmp_path: Path) -> None:
    texts = ["film film film honest", "film dull dull"]
    data = Dataset(Split([(text,) for text in texts], [0, 1]), DATA.dev, DATA.test, LABELS)
    found = []
    for least in (1, 2, 3, 5):  # film stands there four times, dull twice
        out, _ = pruned(source_of("bert"), tmp_path / str(least), data, min_count=least)
        vocabulary = checkpoint.load_tokenizer(out).get_vocab()
        found.append({word for word in ("film", "dull", "honest", "great") if word in vocabulary})
    assert found == [{"film", "dull", "honest"}, {"film", "dull"}, {"film"}, set()]
    with pytest.raises(ValueError, match="min_count: 2 says nothing beside tokens: 90"):
        vocabulary_prune.Config(tokens=90, min_count=2)


def test_tokens_of_more_files_stay_and_their_content_is_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_bytes("\ufeffhonest\r\n\r\ngreat care\n".encode())
    config = vocabulary_prune.Config(files=(str(path),))
    before = vocabulary_prune.fingerprint(config)
    out, metrics = pruned(source_of("bert"), tmp_path / "with", files=(str(path),))
    assert metrics["tokens"] == pruned(source_of("bert"), tmp_path / "without")[1]["tokens"] + 3
    assert {"honest", "great", "care"} <= checkpoint.load_tokenizer(out).get_vocab().keys()
    path.write_text("honest")
    assert vocabulary_prune.fingerprint(config) != before
    assert not vocabulary_prune.fingerprint(vocabulary_prune.Config())
    for name, says, hint in (("mroe.txt", "no such file", "more.txt"), ("", "cannot be read: Is a directory", "name")):
        broken = vocabulary_prune.Config(files=(str(tmp_path / name),))
        with pytest.raises(DataError, match=says) as caught:
            vocabulary_prune.fingerprint(broken)
        assert hint in caught.value.hint
        assert vocabulary_prune.fits(broken, None) == (caught.value.message, caught.value.hint)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="is not UTF-8 from byte 3"):
        pruned(source_of("bert"), tmp_path / "latin", files=(str(path),))


def test_zeros_of_an_earlier_pruning_outlive_its_training(tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    for folder in (given, out, tmp_path / "work"):
        folder.mkdir()
    around = context(tmp_path / "work")
    magnitude_prune.apply(source_of("bert"), given, magnitude_prune.Config(sparsity=0.6), around)
    training = TrainConfig(epochs=1, batch_size=4, learning_rate=1e-3, max_length=32)
    vocabulary_prune.apply(given, out, vocabulary_prune.Config(finetune=training), around)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (given, out))
    assert ((before == 0) == (after == 0)).all()
    assert (before != after).any()


def test_training_afterwards_is_reported_and_repeatable(tmp_path: Path) -> None:
    training = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-3, max_length=32)
    first, metrics = pruned(source_of("bert"), tmp_path / "first", finetune=training)
    assert (metrics["steps"], metrics["dev_accuracy"]) == (6, metrics["unseen"]["all"]["accuracy_trained"])
    again, _ = pruned(source_of("bert"), tmp_path / "again", finetune=training)
    plain, _ = pruned(source_of("bert"), tmp_path / "plain")
    files = [folder / "model.safetensors" for folder in (first, again, plain)]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    assert files[0].stat().st_size == files[2].stat().st_size


def test_pairs_are_read_on_both_sides(tmp_path: Path) -> None:
    pairs = Dataset(
        Split([("film", "dull"), ("honest", "film")], [0, 1]), Split([("film", "dull")], [0]), DATA.test, LABELS
    )
    source = Path(shutil.copytree(source_of("roberta"), tmp_path / "source"))
    out, _ = pruned(source, tmp_path, pairs)
    words = [("film", "honest"), ("dull", "dull")]
    (tokens, logits), (tokens_before, logits_before) = encoded(out, words), encoded(source, words)
    assert tokens == tokens_before
    assert tokens[0][2:] == ["</s>", "</s>", "Ġhonest", "</s>"]
    torch.testing.assert_close(logits, logits_before, atol=1e-6, rtol=0)


def reordered(architecture: str, folder: Path, *first: str, **named: Any) -> Path:
    """A checkpoint whose vocabulary begins with these tokens, and whose config names ids so."""
    source = Path(shutil.copytree(source_of(architecture), folder / "source"))
    record = json.loads((source / "tokenizer.json").read_text())
    old = record["model"]["vocab"]
    rest = sorted(old.keys() - set(first), key=lambda token: old[token])
    new = record["model"]["vocab"] = {token: index for index, token in enumerate([*first, *rest])}
    for token in record["added_tokens"]:
        token["id"] = new[token["content"]]
    record["added_tokens"].sort(key=lambda token: token["id"])
    for name, entry in record["post_processor"]["special_tokens"].items():
        entry["ids"] = [new[name]]
    (source / "tokenizer.json").write_text(json.dumps(record))
    checkpoint.write_json(source / "config.json", checkpoint.read_json(source / "config.json") | named)
    return source


def test_ids_that_the_config_names_move_with_their_tokens(tmp_path: Path) -> None:
    first = ("honest", "great", "[PAD]", "care", "[SEP]")
    source = reordered("bert", tmp_path, *first, pad_token_id=2, eos_token_id=[3, 4])
    out, metrics = pruned(source, tmp_path)
    config = checkpoint.read_json(out / "config.json")
    assert (config["pad_token_id"], config["eos_token_id"]) == (0, [1, 2])  # "honest" and "great" left, "care" is named
    assert checkpoint.read_json(out / "interface.json")["pad_id"] == 0
    assert checkpoint.load_tokenizer(out).convert_ids_to_tokens([0, 1, 2]) == ["[PAD]", "care", "[SEP]"]
    model = checkpoint.load_model(source)
    vocabulary_prune._cut(model, range(2, metrics["tokens_before"]))
    assert model.get_input_embeddings().padding_idx == model.config.pad_token_id == 0  # while it is trained, too
    torch.testing.assert_close(encoded(out, SEEN)[1], encoded(source, SEEN)[1], atol=1e-6, rtol=0)


def test_positions_that_are_counted_from_the_padding_stay(tmp_path: Path) -> None:
    """Planted: RoBERTa's padding is token 4, behind two words that no training text holds."""
    first = ("<s>", "Ġhonest", "Ġgreat", "</s>", "<pad>")
    source = reordered("roberta", tmp_path, *first, pad_token_id=4, eos_token_id=3)
    out, _ = pruned(source, tmp_path)
    assert checkpoint.read_json(out / "config.json")["pad_token_id"] == 4
    assert checkpoint.load_tokenizer(out).convert_ids_to_tokens([1, 2, 4]) == ["Ġhonest", "Ġgreat", "<pad>"]
    (tokens, logits), (tokens_before, logits_before) = encoded(out, SEEN), encoded(source, SEEN)
    assert tokens == tokens_before
    torch.testing.assert_close(logits, logits_before, atol=1e-6, rtol=0)


def test_a_factorized_table_loses_the_rows_of_its_first_factor(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    model, tokenizer = checkpoint.load_model(source_of("bert")), checkpoint.load_tokenizer(source_of("bert"))
    table = model.get_input_embeddings()
    torch.manual_seed(0)
    model.set_input_embeddings(FactorizedEmbedding(table.num_embeddings, 8, table.embedding_dim, table.padding_idx))
    checkpoint.save(model, tokenizer, source, max_length=64, labels=LABELS, pair=False)
    out, metrics = pruned(source, tmp_path)
    found = checkpoint.load_model(out).get_input_embeddings()
    assert (found.first.weight.shape, found.second.weight.shape) == ((metrics["tokens"], 8), (table.embedding_dim, 8))
    assert metrics["bytes_saved"] == 4 * 8 * (metrics["tokens_before"] - metrics["tokens"])
    torch.testing.assert_close(encoded(out, SEEN)[1], encoded(source, SEEN)[1], atol=1e-6, rtol=0)


def test_a_mask_that_only_the_tokenizers_class_adds_is_left_out(tmp_path: Path) -> None:
    """``BertTokenizer`` adds ``[MASK]`` to this tokenizer, which the table has no row for."""
    source = checkpoint_folder("bert")
    assert len(checkpoint.load_tokenizer(source)) == 200
    out, metrics = pruned(source, tmp_path)
    tokenizer = checkpoint.load_tokenizer(out)
    assert len(tokenizer) == metrics["tokens"] == checkpoint.load_model(out).config.vocab_size
    assert metrics["tokens_before"] == 200
    torch.testing.assert_close(encoded(out, SEEN)[1], encoded(source, SEEN)[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_tokenizer_goes_into_the_graph_as_well(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_extensions")
    from tests.optimize import test_with_tokenizer as beside
    from tests.optimize.variants import made as optimized
    from toolchain.optimize import with_tokenizer

    tokenizer = {"bert": beside.word_pieces, "roberta": beside.byte_pairs, "albert": beside.unigrams}[architecture]()
    record = tokenizer_file.read(tokenizer, "")
    counts, origins = tokenizer_file.count(record, [text for (text,) in SEEN]), tokenizer_file.origins(record)
    kept = {part for token in {*counts, *tokenizer_file.always(record)} for part in origins(token)}
    assert len(kept) < tokenizer.get_vocab_size()
    small = Tokenizer.from_str(json.dumps(tokenizer_file.keep(record, kept)))
    source = beside.with_its_tokenizer(architecture, small, tmp_path)
    # It raises where the ids of its operators are not the tokenizer's, on all eight sentences and more.
    _, metrics = optimized(with_tokenizer, source, tmp_path / "out")
    assert metrics["compared"] == 32 + len(PLAIN)


def test_a_tokenizer_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a WordLevel tokenizer's vocabulary cannot be pruned; allowed are WordPiece"):
        tokenizer_file.read(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), "here")
    with pytest.raises(ModelError, match="its BPE marks tokens by end_of_word_suffix '</w>'"):
        tokenizer_file.read(Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")), "here")
