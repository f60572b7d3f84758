from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import context, sentences
from tests.compress.test_low_rank import batch, factorized, logits, made, product
from toolchain.compress.shared import weighting
from toolchain.core.errors import RecipeError
from toolchain.model import checkpoint
from toolchain.model.anatomy import anatomy
from toolchain.model.factorized import FactorizedEmbedding


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_embedding_becomes_a_table_and_a_projection(family: str, tmp_path: Path) -> None:
    source = made(family)
    out, metrics = factorized(tmp_path, source, layers=(), embedding=16)
    model, dense = checkpoint.load_model(out), checkpoint.load_model(source)
    table, old = (m.get_submodule(anatomy(m).embedding) for m in (model, dense))
    tokens = old.num_embeddings
    assert isinstance(table, FactorizedEmbedding)
    assert table.padding_idx == old.padding_idx
    assert metrics["ranks"] == {"embedding": 16}
    assert metrics["parameters_before"] - metrics["parameters"] == tokens * 64 - 16 * (tokens + 64)
    with torch.no_grad():
        old.weight.copy_(product(table))
    assert np.abs(logits(model, batch(source)) - logits(dense, batch(source))).max() < 1e-4


def test_tokens_that_stand_in_the_training_sentences_are_nearer(tmp_path: Path) -> None:
    source = made()
    dense = checkpoint.load_model(source)
    old = dense.get_submodule(anatomy(dense).embedding).weight.detach()
    counted = weighting.counts(checkpoint.load_tokenizer(source), len(old), 32, context(tmp_path))
    tokens = sum(
        len(ids) for ids in checkpoint.load_tokenizer(source)([t for (t,) in sentences().train.texts])["input_ids"]
    )
    assert counted.sum() == len(old) + tokens
    lost = {}
    for method in ("plain", "activation"):
        out, _ = factorized(tmp_path / method, method=method, layers=(), embedding=16)
        model = checkpoint.load_model(out)
        error = (product(model.get_submodule(anatomy(model).embedding)) - old).square().sum(dim=1)
        lost[method] = float((error * (counted - 1)).sum())
    assert lost["activation"] < 0.6 * lost["plain"]


def test_an_embedding_that_is_factorized_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"AlbertForSequenceClassification comes with a factorized token embedding"):
        factorized(tmp_path, made("albert"), embedding=16)
