from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import SENTENCES
from toolchain.model import checkpoint, scratch, source

TEXTS = [(text,) for text in SENTENCES]


@pytest.mark.parametrize("architecture", scratch.ARCHITECTURES)
def test_every_architecture_is_made_and_loads_as_a_classifier(tmp_path: Path, architecture: str) -> None:
    scratch.create(f"scratch:{architecture}-1x32", TEXTS, 17, tmp_path)
    tokenizer = checkpoint.load_tokenizer(tmp_path)
    model = checkpoint.load_for_training(tmp_path, ("bad", "fair", "good"), 17).eval()
    assert model.config.model_type == architecture
    names = checkpoint.model_inputs(model, tokenizer)
    batch = tokenizer([text for (text,) in TEXTS], padding=True, return_tensors="pt")
    assert model(**{name: batch[name] for name in names}).logits.shape == (len(TEXTS), 3)
    assert checkpoint.longest_input(model.config, tokenizer) == source.POSITIONS


def test_a_pair_gets_two_segments_where_the_family_has_them(tmp_path: Path) -> None:
    bert, roberta = (scratch.train_tokenizer(kind, TEXTS) for kind in ("wordpiece", "bpe"))
    assert set(bert.encode("dull", "a warm film").type_ids) == {0, 1}
    assert set(roberta.encode("dull", "a warm film").type_ids) == {0}
    assert roberta.encode("dull", "dull").tokens.count("</s>") == 3


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 17), ("b", 17), ("c", 18)):
        scratch.create("scratch:bert-1x32", TEXTS, seed, tmp_path / name)
    first, second, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == second != other
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
